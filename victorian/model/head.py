"""The head's loss without its logits: they exist a chunk at a time, forward and backward together.

At batch 8 x 2048 the logits of GPT-2's vocabulary take 3.3 GB in float32, and as much again for their gradient. The
gradient of a mean cross-entropy with respect to its logits is (softmax - one-hot) / rows, which is known as soon as
the logits are; so each chunk leaves its share of the two gradients, and the logits go.
"""

from typing import Any

import torch
import torch.nn.functional as F

CHUNK_BYTES = 64 * 1024 * 1024
"""Bytes of a chunk of float32 logits."""


class _HeadLoss(torch.autograd.Function):
    """See `head_loss`."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        rows, vocabulary = len(hidden), len(weight)
        device = hidden.device.type
        kind = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        at_once = max(1, CHUNK_BYTES // (4 * vocabulary))
        matrix = weight.to(kind)
        hidden_gradient = torch.empty_like(hidden, dtype=torch.float32)
        weight_gradient = torch.zeros_like(weight, dtype=torch.float32)
        total = torch.zeros((), device=hidden.device)
        with torch.autocast(device, enabled=False):
            for start in range(0, rows, at_once):
                part, wanted = hidden[start : start + at_once].to(kind), targets[start : start + at_once]
                logits = (part @ matrix.T).float()
                maximum = logits.amax(dim=1, keepdim=True)
                logits.sub_(maximum)
                chosen = logits.gather(1, wanted[:, None]).squeeze(1)
                logits.exp_()
                sums = logits.sum(dim=1, keepdim=True)
                total += (sums.squeeze(1).log() - chosen).sum()
                logits.div_(sums)
                logits[torch.arange(len(wanted), device=logits.device), wanted] -= 1
                slope = logits.to(kind)
                hidden_gradient[start : start + at_once] = slope @ matrix
                weight_gradient += slope.T @ part
        ctx.save_for_backward(hidden_gradient, weight_gradient)
        ctx.rows, ctx.types = rows, (hidden.dtype, weight.dtype)
        return total / rows

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden_gradient, weight_gradient = ctx.saved_tensors
        factor = gradients[0] / ctx.rows
        # Only here are they divided by the rows and scaled: in float16 they would have vanished before.
        return (hidden_gradient * factor).to(ctx.types[0]), (weight_gradient * factor).to(ctx.types[1]), None


def head_loss(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The mean cross-entropy of `hidden @ weight.T` against targets, in nats.

    Args:
        hidden: (rows, channels).
        weight: (vocabulary, channels).
        targets: int64 (rows).
    """
    if torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad):
        loss: torch.Tensor = _HeadLoss.apply(hidden, weight, targets)  # type: ignore[no-untyped-call]
        return loss
    return sum_loss(hidden, weight, targets) / len(hidden)


def sum_loss(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The summed cross-entropy, where no gradient is wanted; logits exist a chunk at a time here as well."""
    at_once = max(1, CHUNK_BYTES // (4 * len(weight)))
    total = torch.zeros((), device=hidden.device)
    for start in range(0, len(hidden), at_once):
        logits = F.linear(hidden[start : start + at_once], weight).float()
        total += F.cross_entropy(logits, targets[start : start + at_once], reduction="sum")
    return total
