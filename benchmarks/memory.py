"""Claim: a training step of the 124M shape at 8 x 2048 tokens never holds its logits, and a plan says what it holds.

Peer: the same network with `F.cross_entropy` over all logits at once. Both take one whole step, forward, backward and
AdamW, under bfloat16 autocast and without dropout, each in a process of its own; the figure is the most main memory
that the process ever held, less what it held before the model was made. "Predicted" is what `victorian plan` says.

    .venv/bin/python benchmarks/memory.py [--sequences 8] [--context 2048]
"""

import torch
import torch.nn.functional as F
import tyro
from measure import alone, print_header, print_machine, print_row

from victorian.config import Recipe
from victorian.recipes import GPT2_124M
from victorian.training.plan import GIB, memory_of
from victorian.training.trial import Trial, run_trial


def recipe_for(sequences: int, context: int) -> Recipe:
    value = GPT2_124M.model_dump()
    value["model"] |= {"context": context, "dropout": 0.0}
    value["training"] |= {"sequences_per_microbatch": sequences, "precision_cpu": "bf16"}
    return Recipe.model_validate(value)


def step_with_chunks(sequences: int, context: int) -> Trial:
    return run_trial(recipe_for(sequences, context), steps=1)


def step_with_all_logits(sequences: int, context: int) -> Trial:
    """The same step, with the loss as its definition has it."""
    from victorian.model import gpt2

    def plain(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, _: object) -> torch.Tensor:
        return F.cross_entropy(F.linear(hidden, weight).float(), targets)

    gpt2.head_loss = plain
    return run_trial(recipe_for(sequences, context), steps=1)


def main(sequences: int = 8, context: int = 2048) -> None:
    """Measure the memory of one step.

    Args:
        sequences: Windows at once.
        context: Tokens of a window.
    """
    sides = {"logits a chunk at a time": step_with_chunks, "all logits at once": step_with_all_logits}
    found = {side: alone(work, sequences, context) for side, work in sides.items()}
    predicted = memory_of(recipe_for(sequences, context), sequences, compute_bytes=2, on_cpu=True)
    print_machine()
    print_header(f"one step at {sequences} x {context}", "peak memory, GiB", "kept for backward, GiB", "tokens/s")
    for side, trial in found.items():
        row = f"{trial.memory / GIB:.2f}", f"{trial.activations / GIB:.2f}", f"{trial.tokens_per_second:.0f}"
        print_row(side, *row)
    print_row("predicted", f"{predicted.total / GIB:.2f}", f"{predicted.activations / GIB:.2f}", "")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
