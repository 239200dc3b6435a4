"""Both uses of the weight that embedding and head share, in training: one gradient, made once.

The head's loss goes without its logits: they exist a chunk at a time, forward and backward together.

At batch 8 x 2048 the logits of GPT-2's vocabulary take 3.3 GB in float32, and as much again for their gradient. The
gradient of a mean cross-entropy with respect to its logits is (softmax - one-hot) / rows, which is known as soon as
the logits are; so each chunk leaves its share of the two gradients, and the logits go.

The head's gradient of the weight has every row. The embedding's is added to the rows that were looked up: apart it
would be as large again, nearly all zeros, and new memory in every step.
"""

from typing import Any

import torch
import torch.nn.functional as F

CHUNK_ROWS = 256
"""Rows of logits that exist at a time."""
GROUP_ROWS = 1024
"""Rows of logits whose gradients are kept, in the type of the products, until the weight's gradient takes them."""
CHUNK_COLUMNS = 4096
"""Rows of the weight's gradient that are added at a time."""

Shared = list[torch.Tensor]
"""Where the head leaves its gradient of the weight for the embedding, whose backward follows."""


class _HeadLoss(torch.autograd.Function):
    """See `head_loss`."""

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, shared: Shared | None
    ) -> torch.Tensor:
        rows, vocabulary = len(hidden), len(weight)
        device = hidden.device.type
        kind = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        matrix = weight.to(kind)
        # Memory that is new in every chunk would cost as much as the products: the system clears it page by page.
        slopes = torch.empty(min(rows, GROUP_ROWS), vocabulary, dtype=kind, device=hidden.device)
        floats = torch.empty(min(rows, CHUNK_ROWS), vocabulary, device=hidden.device)
        hidden_gradient = torch.empty_like(hidden, dtype=torch.float32)
        weight_gradient = torch.empty_like(weight, dtype=torch.float32)
        total = torch.zeros((), device=hidden.device)
        with torch.autocast(device, enabled=False):
            for first in range(0, rows, GROUP_ROWS):
                group = hidden[first : first + GROUP_ROWS].to(kind)
                for start in range(0, len(group), CHUNK_ROWS):
                    part = group[start : start + CHUNK_ROWS]
                    slope, logits = slopes[start : start + len(part)], floats[: len(part)]
                    at = first + start
                    logits.copy_(torch.mm(part, matrix.T, out=slope))
                    total += _to_slopes(logits, targets[at : at + len(part)])
                    hidden_gradient[at : at + len(part)] = slope.copy_(logits) @ matrix
                for row in range(0, vocabulary, CHUNK_COLUMNS):  # products of a few rows stay in the cache
                    share = slopes[: len(group), row : row + CHUNK_COLUMNS].T @ group
                    gathered = weight_gradient[row : row + CHUNK_COLUMNS]
                    gathered.add_(share) if first else gathered.copy_(share)
        ctx.save_for_backward(hidden_gradient, weight_gradient)
        ctx.rows, ctx.types, ctx.shared = rows, (hidden.dtype, weight.dtype), shared
        return total / rows

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden_gradient, weight_gradient = ctx.saved_tensors
        factor = gradients[0] / ctx.rows
        # Only here are they divided by the rows and scaled: in float16 they would have vanished before.
        # In place, as nobody else has them, and new memory of that size is dear.
        hidden_gradient, whole = hidden_gradient.mul_(factor).to(ctx.types[0]), weight_gradient.mul_(factor)
        if ctx.shared is None:
            return hidden_gradient, whole.to(ctx.types[1]), None, None
        ctx.shared.append(whole)
        return hidden_gradient, None, None, None


def _to_slopes(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Turn logits (rows, vocabulary) into softmax - one-hot where they are; returns the summed cross-entropy."""
    wanted, largest = logits.gather(1, targets[:, None]), logits.amax(dim=1, keepdim=True)
    torch.softmax(logits, dim=1, out=logits)
    # The largest probability is 1 / sum(exp(logits - largest)), so the sum need not be taken again.
    total = (largest - logits.amax(dim=1, keepdim=True).log() - wanted).sum()
    logits[torch.arange(len(targets), device=logits.device), targets] -= 1
    return total


class _LookUp(torch.autograd.Function):
    """See `look_up`."""

    @staticmethod
    def forward(ctx: Any, tokens: torch.Tensor, weight: torch.Tensor, shared: Shared) -> torch.Tensor:
        ctx.save_for_backward(tokens)
        ctx.shape, ctx.type, ctx.shared = weight.shape, weight.dtype, shared
        return F.embedding(tokens, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (tokens,), gradient = ctx.saved_tensors, gradients[0].flatten(0, -2).float()
        whole = ctx.shared.pop() if ctx.shared else gradient.new_zeros(ctx.shape)
        return None, whole.index_add_(0, tokens.flatten(), gradient).to(ctx.type), None


def look_up(tokens: torch.Tensor, weight: torch.Tensor, shared: Shared) -> torch.Tensor:
    """Rows of `weight`: int64 (...) and (vocabulary, channels) -> (..., channels).

    Its backward takes what the head left in `shared`, and returns the gradient of both.
    """
    looked_up: torch.Tensor = _LookUp.apply(tokens, weight, shared)  # type: ignore[no-untyped-call]
    return looked_up


def head_loss(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, shared: Shared | None = None
) -> torch.Tensor:
    """The mean cross-entropy of `hidden @ weight.T` against targets, in nats.

    Args:
        hidden: (rows, channels).
        weight: (vocabulary, channels).
        targets: int64 (rows).
        shared: given to the `look_up` from which `hidden` came, to which the weight's gradient is left.
    """
    if torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad):
        loss: torch.Tensor = _HeadLoss.apply(hidden, weight, targets, shared)  # type: ignore[no-untyped-call]
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
