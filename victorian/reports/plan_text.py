"""A plan in words: what a run would need, and how long it would take on which machine."""

from collections.abc import Iterator, Sequence

from victorian.config import Recipe
from victorian.reports.numerals import counted, duration, short
from victorian.training.plan import ASSUMED_MFU, GIB, Hardware, Memory, largest_microbatch, make_plan, memory_of
from victorian.training.trial import Trial


def describe_plan(
    recipe: Recipe, machines: Sequence[Hardware], count: int = 1, price_per_hour: float | None = None
) -> Iterator[str]:
    """Lines about a recipe: its size, its memory, and its time on each kind of machine.

    Args:
        count: machines of a kind that work together.
        price_per_hour: of one machine.
    """
    config, model = recipe.training, recipe.model
    plan = make_plan(recipe, flops=1.0)
    yield f"{recipe.name}: {plan.parameters:,} parameters, {plan.flops_per_token / 1e9:.3g} GFLOP a token"
    if config.steps is not None:
        tokens = config.steps * config.tokens_per_step
        yield (
            f"{config.steps:,} steps of {config.tokens_per_step:,} tokens are {short(tokens)} tokens, "
            f"{tokens * plan.flops_per_token:.3g} FLOP"
        )
    else:
        yield f"{duration(config.seconds or 0)} of steps of {config.tokens_per_step:,} tokens"
    sequences = min(config.sequences_per_microbatch, recipe.sequences_per_step)
    yield f"memory of a device at {sequences} x {model.context} tokens: {_parts(plan.memory)}"
    logits = 4 * sequences * model.context * model.vocabulary
    yield f"float32 logits of the whole microbatch would be {logits / GIB:.2f} GiB; they exist a chunk at a time"
    yield f"predicted, at an assumed {ASSUMED_MFU:.0%} of every device's peak:"
    for machine in machines:
        yield "  " + _on(recipe, machine, count, price_per_hour)


def describe_trial(recipe: Recipe, trial: Trial, compute_bytes: int, on_cpu: bool) -> Iterator[str]:
    """What a few steps took here, beside what was predicted of them."""
    sequences = min(recipe.training.sequences_per_microbatch, recipe.sequences_per_step)
    expected = memory_of(recipe, sequences, compute_bytes, on_cpu)
    yield (
        f"measured here: {trial.tokens_per_second:,.0f} tokens/s, {trial.mfu:.0%} of the measured peak; "
        f"activations {trial.activations / GIB:.2f} GiB (predicted {expected.activations / GIB:.2f}), "
        f"memory {trial.memory / GIB:.2f} GiB (predicted {expected.total / GIB:.2f})"
    )


def _parts(memory: Memory) -> str:
    parts = {
        "parameters": memory.parameters,
        "gradients": memory.gradients,
        "optimizer": memory.optimizer,
        "activations": memory.activations,
        "head": memory.logits,
    }
    return ", ".join(f"{name} {size / GIB:.2f}" for name, size in parts.items()) + f"; {memory.total / GIB:.2f} GiB"


def _on(recipe: Recipe, machine: Hardware, count: int, price_per_hour: float | None) -> str:
    plan = make_plan(recipe, machine.flops, machine.devices * count)
    where = f"{count} x {machine.name} ({counted(machine.devices * count, 'device')})"
    fits = min(largest_microbatch(recipe, machine.memory), recipe.sequences_per_step // (machine.devices * count) or 1)
    if fits == 0:
        return f"{where}: not even one window fits into {machine.memory / GIB:.0f} GiB"
    hours = plan.seconds / 3600
    words = f"{where}: {short(plan.tokens_per_second)} tokens/s, {hours:,.1f} h, microbatches of up to {fits}"
    if recipe.training.steps is None:
        words = f"{where}: {short(plan.tokens_per_second)} tokens/s, {short(plan.tokens or 0)} tokens"
    return words + (f", {hours * price_per_hour * count:,.2f} to pay" if price_per_hour is not None else "")
