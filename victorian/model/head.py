"""The head's loss without its logits: they exist a chunk at a time, forward and backward together.

At batch 8 x 2048 the logits of GPT-2's vocabulary take 3.3 GB in float32, and as much again for their gradient. The
gradient of a mean cross-entropy with respect to its logits is (softmax - one-hot) / rows, which is known as soon as
the logits are; so each chunk leaves its share of the two gradients, and the logits go.
"""

from typing import Any

import torch
import torch.nn.functional as F

CHUNK_ROWS = 256
"""Rows of logits that exist at a time."""
CHUNK_COLUMNS = 4096
"""Rows of the weight's gradient that are added at a time."""


class _HeadLoss(torch.autograd.Function):
    """See `head_loss`."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        rows, vocabulary = len(hidden), len(weight)
        device = hidden.device.type
        kind = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        at_once = min(rows, CHUNK_ROWS)
        matrix = weight.to(kind)
        # Memory that is new in every chunk would cost as much as the products: the system clears it page by page.
        products = torch.empty(at_once, vocabulary, dtype=kind, device=hidden.device)
        floats = torch.empty(at_once, vocabulary, device=hidden.device)
        hidden_gradient = torch.empty_like(hidden, dtype=torch.float32)
        weight_gradient = torch.zeros_like(weight, dtype=torch.float32)
        total = torch.zeros((), device=hidden.device)
        with torch.autocast(device, enabled=False):
            for start in range(0, rows, at_once):
                part, wanted = hidden[start : start + at_once].to(kind), targets[start : start + at_once]
                product, logits = products[: len(part)], floats[: len(part)]
                logits.copy_(torch.mm(part, matrix.T, out=product))
                maximum = logits.amax(dim=1, keepdim=True)
                logits.sub_(maximum)
                chosen = logits.gather(1, wanted[:, None]).squeeze(1)
                logits.exp_()
                sums = logits.sum(dim=1, keepdim=True)
                total += (sums.squeeze(1).log() - chosen).sum()
                logits.div_(sums)
                logits[torch.arange(len(wanted), device=logits.device), wanted] -= 1
                slope = product.copy_(logits)
                hidden_gradient[start : start + at_once] = slope @ matrix
                for row in range(0, vocabulary, CHUNK_COLUMNS):  # products of a few rows stay in the cache
                    weight_gradient[row : row + CHUNK_COLUMNS] += slope[:, row : row + CHUNK_COLUMNS].T @ part
        ctx.save_for_backward(hidden_gradient, weight_gradient)
        ctx.rows, ctx.types = rows, (hidden.dtype, weight.dtype)
        return total / rows

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden_gradient, weight_gradient = ctx.saved_tensors
        factor = gradients[0] / ctx.rows
        # Only here are they divided by the rows and scaled: in float16 they would have vanished before.
        # In place, as nobody else has them, and new memory of that size is dear.
        return hidden_gradient.mul_(factor).to(ctx.types[0]), weight_gradient.mul_(factor).to(ctx.types[1]), None


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
    at_once = CHUNK_ROWS
    total = torch.zeros((), device=hidden.device)
    for start in range(0, len(hidden), at_once):
        logits = F.linear(hidden[start : start + at_once], weight).float()
        total += F.cross_entropy(logits, targets[start : start + at_once], reduction="sum")
    return total
