"""Draws the next token of every request that has come to one, each with its own parameters.

In this order: the logit bias; repetition, presence and frequency penalties; tokens that may not be drawn yet;
temperature, top-k, top-p, min-p; then a draw by inverse transform over the candidates, the likeliest first. The uniform
number behind a draw is a function of the request's seed and the position alone, and so is the order among equals.
"""

import math
from collections.abc import Callable
from collections.abc import Sequence as Items

import numpy as np
import numpy.typing as npt
import torch

from victorian.config import SamplingParameters, bounds
from victorian.engine.request import Scored
from victorian.engine.scheduler import Sequence

CANDIDATES = int(bounds("top_k")[1])
"""The likeliest tokens that are looked at where top-k says that they are enough."""

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Select = Callable[[Floats, int], tuple[Floats, Ints, npt.NDArray[np.bool_]]]
"""(rows, tokens) and k -> the k largest of each row from the largest down, equals in their order, where they stand, and
whether all numbers of the row are numbers."""


class BrokenLogitsError(Exception):
    """A row of logits that holds something that is no number."""


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) for the token at `position`: Philox, a counter-based generator, jumps there at no cost.

    Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
    """
    return float(np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 0, position])).random())


def select(rows: Floats, count: int) -> tuple[Floats, Ints, npt.NDArray[np.bool_]]:
    """`Select` in torch, for networks that bring none of their own."""
    largest = torch.from_numpy(rows).topk(count).values.numpy()
    # topk leaves the order of equals open; a stable sort of what is not below the least makes it that of the tokens.
    indices = np.empty((len(rows), count), np.int64)
    good = np.atleast_1d(~np.isnan(rows).any(axis=1))
    for row, values in enumerate(rows):
        if not good[row]:
            indices[row] = 0
            continue
        found = np.flatnonzero(values >= largest[row, -1])
        indices[row] = found[np.argsort(-values[found], kind="stable")][:count]
    return np.take_along_axis(rows, indices, 1), indices, good


class Seen:
    """Which tokens stand in prompt and output of one request, and how often in the output."""

    def __init__(self, sequence: Sequence) -> None:
        self._place: dict[int, int] = {}
        self._ids = np.empty(64, np.int64)
        self._counts = np.empty(64, np.float32)
        prompt = len(sequence.request.prompt)
        for token in sequence.tokens[:prompt]:
            self._add(token, 0)
        for token in sequence.tokens[prompt:]:
            self.add(token)

    @property
    def ids(self) -> Ints:
        """Every token once."""
        return self._ids[: len(self._place)]

    @property
    def counts(self) -> Floats:
        """How often each of `ids` stands in the output."""
        return self._counts[: len(self._place)]

    def add(self, token: int) -> None:
        """A token of the output."""
        self._add(token, 1)

    def _add(self, token: int, times: int) -> None:
        place = self._place.get(token)
        if place is None:
            place = self._place[token] = len(self._place)
            if place == len(self._ids):
                self._ids = np.concatenate([self._ids, np.empty_like(self._ids)])
                self._counts = np.concatenate([self._counts, np.empty_like(self._counts)])
            self._ids[place], self._counts[place] = token, 0
        self._counts[place] += times


def adjust(row: Floats, p: SamplingParameters, seen: Seen) -> None:
    """Bias and penalties, in place.

    Repetition (Keskar et al. 2019, CTRL, https://arxiv.org/abs/1909.05858): positive logits of tokens in prompt or
    output are divided, negative ones multiplied. Presence and frequency, as in OpenAI's API: taken off tokens of the
    output, once and for each time.
    """
    for token, bias in p.logit_bias.items():
        if 0 <= token < len(row):
            row[token] += np.float32(bias)
    if p.repetition_penalty != 1:
        penalty = np.float32(p.repetition_penalty)
        logits = row[seen.ids]
        row[seen.ids] = np.where(logits > 0, logits / penalty, logits * penalty)
    if p.presence_penalty or p.frequency_penalty:
        counts = seen.counts
        taken = np.float32(p.presence_penalty) * (counts > 0) + np.float32(p.frequency_penalty) * counts
        row[seen.ids] -= taken


def probabilities(logits: Floats, p: Items[SamplingParameters]) -> Floats:
    """What may be drawn, after temperature, top-k, top-p and min-p.

    Top-p (Holtzman et al. 2020, https://arxiv.org/abs/1904.09751) keeps the fewest tokens that hold at least p of the
    probability that top-k has left: a token stays if those before it hold less than p. Min-p (Nguyen et al. 2024,
    https://arxiv.org/abs/2407.01082) keeps those of at least p of the likeliest one's probability. The first always
    stays; a temperature of 0 leaves it alone.

    Args:
        logits: (rows, candidates), descending.
        p: of each row.

    Returns:
        (rows, candidates), each row adding up to 1.
    """
    count = logits.shape[1]

    def column(values: list[float]) -> Floats:
        return np.array(values, np.float32)[:, None]

    greedy = column([q.temperature == 0 for q in p]) > 0
    heat = column([q.temperature or 1 for q in p])
    top_k = np.where(greedy, 1, column([q.top_k or count for q in p]))
    rank = np.arange(count)
    scaled = np.where(rank < top_k, (logits - logits[:, :1]) / heat, np.float32(-np.inf))
    weights = np.exp(scaled)
    weights /= weights.sum(axis=1, keepdims=True)
    before = np.cumsum(weights, axis=1) - weights
    kept = (before < column([q.top_p for q in p])) & (weights >= column([q.min_p for q in p]) * weights[:, :1])
    kept[:, 0] = True
    weights = np.where(kept, weights, 0)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float32)


def draw(weights: Floats, uniforms: npt.NDArray[np.float64]) -> Ints:
    """The first index at which the cumulative probability exceeds the uniform number.

    Args:
        weights: (rows, candidates), probabilities.
        uniforms: (rows,) in [0, 1).

    Returns:
        int64 (rows,).
    """
    cumulative = np.cumsum(weights, axis=1, dtype=np.float64)
    # Rounding may leave the total below 1, or the target on a candidate of no probability: scale and clamp.
    index = (cumulative <= uniforms[:, None] * cumulative[:, -1:]).sum(axis=1)
    last = weights.shape[1] - 1 - np.argmax(weights[:, ::-1] > 0, axis=1)
    return np.asarray(np.minimum(index, last))


class Sampler:
    """Knows what every running request has said, and draws with each request's own parameters.

    Args:
        tokens: of the encoding.
        end: the token that ends a text.
        select: finds the largest logits.
    """

    def __init__(self, tokens: int, end: int, select: Select = select) -> None:
        self._tokens = tokens
        self._end = end
        self._select = select
        self._seen: dict[str, Seen] = {}

    def leave(self, sequence: Sequence) -> None:
        """The request is over."""
        self._seen.pop(sequence.request.id, None)

    def sample(self, logits: Floats, running: list[Sequence]) -> list[Scored | Exception]:
        """One token for every row of `logits`, (rows, tokens), which are overwritten; what went wrong for a bad row."""
        parameters = [sequence.request.sampling for sequence in running]
        asked = [row for row, sequence in enumerate(running) if sequence.request.logprobs is not None]
        plain = dict(zip(asked, logits[asked], strict=True))  # copies: what follows changes the rows
        chosen: list[Scored | Exception] = [BrokenLogitsError()] * len(running)
        good = []
        for row, (sequence, p) in enumerate(zip(running, parameters, strict=True)):
            try:
                adjust(logits[row], p, self._seen_by(sequence))
                if sequence.generated < p.min_tokens:
                    logits[row, self._end] = -np.inf
                good.append(row)
            except Exception as error:  # one request's fault is not the others'
                chosen[row] = error
        # Most rows need their likeliest tokens alone, at a fraction of a sort's cost. How many are looked at does not
        # depend on the neighbours: sums would round in another way.
        few = [row for row in good if parameters[row].top_k or not parameters[row].temperature]
        every = [row for row in good if not parameters[row].top_k and parameters[row].temperature]
        for group, count in ((few, min(CANDIDATES, self._tokens)), (every, self._tokens)):
            if not group:
                continue
            values, tokens, whole = self._select(logits if len(group) == len(logits) else logits[group], count)
            values[~whole] = 0
            uniforms = [uniform(running[row].request.seed, len(running[row].tokens)) for row in group]
            places = draw(probabilities(values, [parameters[row] for row in group]), np.array(uniforms))
            for row, ids, place, good_row in zip(group, tokens, places, whole, strict=True):
                if not good_row:
                    continue
                token = int(ids[place])
                self._seen_by(running[row]).add(token)
                chosen[row] = Scored(token)
                if row in plain:
                    chosen[row] = self.score(plain[row], token, running[row].request.logprobs or 0)
        return chosen

    def score(self, row: Floats, token: int, count: int) -> Scored:
        """How likely a token is by untouched logits, (tokens,), and the `count` likeliest beside it.

        Raises:
            BrokenLogitsError: if one of them is no number.
        """
        values, tokens, whole = self._select(row[None], max(count, 1))
        if not whole[0]:
            raise BrokenLogitsError
        largest = values[0, 0]
        total = float(largest) + math.log(np.exp(row - largest).sum(dtype=np.float64))
        likeliest = tuple((int(t), float(v) - total) for t, v in zip(tokens[0, :count], values[0, :count], strict=True))
        return Scored(token, float(row[token]) - total, likeliest)

    def _seen_by(self, sequence: Sequence) -> Seen:
        seen = self._seen.get(sequence.request.id)
        if seen is None:
            seen = self._seen[sequence.request.id] = Seen(sequence)
        return seen
