"""Draws the next token of every running request, each with its own parameters.

In this order: the repetition penalty, temperature, top-k, top-p, then a draw by inverse transform. The uniform number
behind a draw is a function of the request's seed and the position alone, and so is the order among equal logits.
"""

from collections.abc import Iterable

import numpy as np
import torch

from victorian.config import bounds
from victorian.engine.scheduler import Sequence

MOST_TOP_K = int(bounds("top_k")[1])


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) for the token at `position`: Philox, a counter-based generator, jumps there at no cost.

    Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
    """
    return float(np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 0, position])).random())


def penalize_repetition(logits: torch.Tensor, seen: torch.Tensor, penalty: torch.Tensor) -> torch.Tensor:
    """Divide the positive and multiply the negative logits of seen tokens (Keskar et al. 2019, CTRL,
    https://arxiv.org/abs/1909.05858).

    Args:
        logits: (rows, tokens).
        seen: bool (rows, tokens), what stands in prompt or output.
        penalty: (rows, 1), 1 is off.
    """
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def filter_sorted(logits: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """Probabilities after top-k and top-p, of logits that are sorted from the largest down.

    Top-p (Holtzman et al. 2020, https://arxiv.org/abs/1904.09751) keeps the fewest tokens that hold at least p of the
    probability that top-k has left: a token stays if those before it hold less than p. The first always stays.

    Args:
        logits: (rows, candidates), descending.
        top_k: int64 (rows, 1); at least 1.
        top_p: (rows, 1).

    Returns:
        (rows, candidates), each row adding up to 1.
    """
    rank = torch.arange(logits.shape[1], device=logits.device)
    probabilities = logits.masked_fill(rank >= top_k, float("-inf")).softmax(dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities
    kept = probabilities.masked_fill((before >= top_p) & (rank > 0), 0.0)
    return kept / kept.sum(dim=-1, keepdim=True)


def draw(probabilities: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """The first index at which the cumulative probability exceeds the uniform number.

    Args:
        probabilities: (rows, candidates).
        uniforms: (rows, 1) in [0, 1).

    Returns:
        int64 (rows,).
    """
    cumulative = probabilities.double().cumsum(dim=-1)
    # Rounding may leave the total below 1, or the target on a candidate of no probability: scale and clamp.
    index = torch.searchsorted(cumulative, uniforms.double() * cumulative[:, -1:], right=True).squeeze(1)
    last = (probabilities > 0).sum(dim=-1) - 1
    return torch.minimum(index, last)


class Sampler:
    """Keeps, for every row, which tokens have been seen, and draws with each request's own parameters."""

    def __init__(self, rows: int, tokens: int, device: torch.device) -> None:
        self._tokens = tokens
        self._device = device
        self._seen = torch.zeros((rows, tokens), dtype=torch.bool, device=device)

    def join(self, row: int, prompt: tuple[int, ...]) -> None:
        """Another request takes the row."""
        self._seen[row] = False
        self._seen[row, torch.tensor(prompt, device=self._device)] = True

    def move(self, source: int, target: int) -> None:
        self._seen[target] = self._seen[source]

    def sample(self, logits: torch.Tensor, running: list[Sequence]) -> list[int]:
        """One token for every row of `logits`, float32 (rows, tokens), and note it as seen."""
        parameters = [sequence.request.sampling for sequence in running]

        def column(values: Iterable[float], dtype: torch.dtype = torch.float32) -> torch.Tensor:
            return torch.tensor(list(values), dtype=dtype, device=self._device)[:, None]

        rows = len(running)
        logits = penalize_repetition(logits, self._seen[:rows], column([p.repetition_penalty for p in parameters]))
        logits = logits / column([p.temperature for p in parameters])
        top_k = column([p.top_k or self._tokens for p in parameters], torch.int64)
        top_p = column([p.top_p for p in parameters])
        uniforms = column([uniform(s.request.seed, len(s.tokens)) for s in running], torch.float64)
        chosen = torch.empty((rows, 1), dtype=torch.int64, device=self._device)
        few = [row for row, p in enumerate(parameters) if p.top_k]
        every = [row for row, p in enumerate(parameters) if not p.top_k]
        # Most rows need their likeliest tokens alone, at a fraction of a sort's cost. How many are taken does not
        # depend on the neighbours: equal logits would come in another order.
        for group, candidates in ((few, min(MOST_TOP_K, self._tokens)), (every, self._tokens)):
            if group:
                values, tokens = logits[group].topk(candidates, dim=-1)
                drawn = draw(filter_sorted(values, top_k[group], top_p[group]), uniforms[group])
                chosen[group] = tokens.gather(1, drawn[:, None])
        self._seen[:rows].scatter_(1, chosen, True)
        return [int(token) for token in chosen.squeeze(1).tolist()]
