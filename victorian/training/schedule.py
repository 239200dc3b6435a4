"""The learning rate as a function of the step and of the share of the budget that is spent."""

import math

from victorian.config import ScheduleConfig


def rate_factor(schedule: ScheduleConfig, step: int, spent: float) -> float:
    """What to multiply the peak learning rate with, 0 to 1.

    A linear rise over the warm-up steps, then the peak until `hold` of the budget is spent, then a cosine
    (Loshchilov and Hutter 2017, https://arxiv.org/abs/1608.03983) or a line down to `final_fraction`.

    Args:
        step: optimizer steps taken so far.
        spent: share of the budget that is spent, in steps or in seconds, 0 to 1.
    """
    if step < schedule.warmup_steps:
        return (step + 1) / schedule.warmup_steps
    # The share that the warm-up took: of a budget in steps exactly, of one in seconds as its steps were on the average.
    risen = spent * schedule.warmup_steps / max(step, 1)
    peak_until = max(schedule.hold, risen)
    fallen = min(1.0, (spent - peak_until) / (1.0 - peak_until)) if spent > peak_until else 0.0
    shape = (1.0 - fallen) if schedule.decay == "linear" else 0.5 * (1.0 + math.cos(math.pi * fallen))
    return schedule.final_fraction + (1.0 - schedule.final_fraction) * shape
