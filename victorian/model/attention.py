"""Causal attention for training on a CPU: products of matrices, a block of queries at a time.

torch's fused kernel for CPUs takes twice as long in bfloat16 (docs/benchmarks.md), and refuses dropout, whereupon all
weights of all heads are kept in float32. Here, as in flash attention (Dao et al. 2022,
https://arxiv.org/abs/2205.14135), weights exist for one block of queries at a time and are computed again in the
backward pass; a block looks at the keys up to its own end only.
"""

import math
from typing import Any

import numpy as np
import torch

BLOCK = 128
"""Queries at a time."""


class _CausalAttention(torch.autograd.Function):
    """See `causal_attention`. Heads lie along one batch dimension: (batch * heads, time, head_dim)."""

    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, dropout: float, seed: int) -> torch.Tensor:
        out = torch.empty_like(v)
        for start in range(0, q.shape[1], BLOCK):
            stop = min(start + BLOCK, q.shape[1])
            weights = _weights(q, k, start, stop)
            if dropout:
                weights *= _kept(weights.shape, dropout, seed + start)
            out[:, start:stop] = weights @ v[:, :stop]
        out *= 1 / (1 - dropout)
        ctx.save_for_backward(q, k, v)
        ctx.dropout, ctx.seed = dropout, seed
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, k, v = ctx.saved_tensors
        gradient = gradients[0] / (1 - ctx.dropout)
        # Sums over blocks are float32, whatever the products are.
        q_gradient = torch.empty_like(q)
        k_gradient, v_gradient = (torch.zeros_like(x, dtype=torch.float32) for x in (k, v))
        for start in range(0, q.shape[1], BLOCK):
            stop = min(start + BLOCK, q.shape[1])
            weights, of_block = _weights(q, k, start, stop), gradient[:, start:stop]
            weights_gradient = of_block @ v[:, :stop].mT
            used = weights
            if ctx.dropout:
                kept = _kept(weights.shape, ctx.dropout, ctx.seed + start)
                used = weights * kept
                weights_gradient *= kept
            v_gradient[:, :stop] += used.mT @ of_block
            scores_gradient = torch._softmax_backward_data(weights_gradient, weights, -1, weights.dtype)
            q_gradient[:, start:stop] = scores_gradient @ k[:, :stop]
            k_gradient[:, :stop] += scores_gradient.mT @ q[:, start:stop]
        return q_gradient, k_gradient.to(k.dtype), v_gradient.to(v.dtype), None, None


def _weights(q: torch.Tensor, k: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    """What a block's queries give to each key up to its end: (batch * heads, stop - start, stop)."""
    scores = q[:, start:stop] @ k[:, :stop].mT
    later = torch.full((stop - start, stop - start), -math.inf, dtype=q.dtype).triu_(1)
    scores[:, :, start:] += later
    return scores.softmax(dim=-1)


def _kept(shape: torch.Size, dropout: float, seed: int) -> torch.Tensor:
    """Which weights dropout leaves, the same for the same seed; torch's own generator takes four times as long."""
    draws = np.random.Generator(np.random.SFC64(seed)).integers(-(2**15), 2**15, shape, dtype=np.int16)
    return torch.from_numpy(draws) >= round(dropout * 2**16) - 2**15


def causal_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, dropout: float = 0.0) -> torch.Tensor:
    """Attention of each token to itself and those before it.

    Args:
        q: queries (batch, heads, time, head_dim), as keys, values and the result.
        dropout: share of the weights that are dropped, drawn by torch's generator.
    """
    seed = int(torch.randint(2**62, ())) if dropout else 0
    rows = (x.flatten(0, 1) for x in (q / math.sqrt(q.shape[-1]), k, v))
    out: torch.Tensor = _CausalAttention.apply(*rows, dropout, seed)  # type: ignore[no-untyped-call]
    return out.view(*q.shape[:-1], v.shape[-1])
