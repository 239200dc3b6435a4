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
    rise = min(1.0, (step + 1) / schedule.warmup_steps) if schedule.warmup_steps else 1.0
    fallen = min(1.0, max(0.0, spent - schedule.hold) / (1.0 - schedule.hold))
    shape = (1.0 - fallen) if schedule.decay == "linear" else 0.5 * (1.0 + math.cos(math.pi * fallen))
    return rise * (schedule.final_fraction + (1.0 - schedule.final_fraction) * shape)
