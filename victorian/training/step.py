"""One optimizer step: microbatches forward and backward, gradients averaged over workers once, then the optimizer."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from victorian.tokens.batches import Batch
from victorian.training.checkpoint import Trainee


def take_step(wrapped: nn.Module, trainee: Trainee, batch: Batch) -> tuple[float, float]:
    """One optimizer step over this worker's share of a batch.

    Args:
        wrapped: the trainee's model, as `Worker.wrap` gave it.
        batch: inputs and targets, each (windows, context).

    Returns:
        The share's mean loss in nats a token, and the norm of the whole gradient before clipping.
    """
    device = trainee.model.token_embedding.weight.device
    config = trainee.recipe
    pieces = list(_microbatches(batch, config.training.sequences_per_microbatch))
    share = len(batch[0])
    trainee.optimizer.zero_grad()
    total = torch.zeros((), device=device)
    for index, (inputs, targets) in enumerate(pieces):
        last = index == len(pieces) - 1
        with _without_averaging(wrapped, last), trainee.precision.autocast():
            loss = wrapped(inputs.to(device), targets.to(device)) * (len(inputs) / share)
            trainee.precision.backward(loss)
        total += loss.detach()
    norm = trainee.precision.step(trainee.optimizer, trainee.model.parameters(), config.optimizer.clip)
    return float(total), norm


def _microbatches(batch: Batch, size: int) -> Iterator[Batch]:
    inputs, targets = batch
    for start in range(0, len(inputs), size):
        yield inputs[start : start + size], targets[start : start + size]


def _without_averaging(wrapped: nn.Module, last: bool) -> AbstractContextManager[None]:
    """Gradients are averaged over workers once a step, with the last microbatch."""
    no_sync = getattr(wrapped, "no_sync", None)
    context: AbstractContextManager[None] = no_sync() if no_sync and not last else nullcontext()
    return context
