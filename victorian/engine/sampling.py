"""Draws the next token of every request that has come to one, each with its own parameters.

In this order: the logit bias; repetition, presence and frequency penalties; tokens that may not be drawn yet;
temperature, top-k, top-p, min-p; then a draw by inverse transform over the candidates, the likeliest first. The uniform
number behind a draw is a function of the request's seed and the position alone, and so is the order among equals.
"""

import hashlib
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

    def __init__(self) -> None:
        super().__init__("the network gave something that is no number")


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) for the token at `position`: a hash of both, so that no generator has to be carried along."""
    digest = hashlib.blake2b(seed.to_bytes(8, "little") + position.to_bytes(8, "little"), digest_size=8).digest()
    return float((int.from_bytes(digest, "little") >> 11) * 2.0**-53)


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
        self._tokens = sequence.tokens
        self._prompt = len(sequence.request.prompt)
        self._known = 0
        self._place: dict[int, int] = {}
        self._ids = np.empty(64, np.int64)
        self._counts = np.empty(64, np.float32)

    def catch_up(self) -> None:
        """Count the tokens that were added since."""
        for position in range(self._known, len(self._tokens)):
            self._add(self._tokens[position], int(position >= self._prompt))
        self._known = len(self._tokens)

    @property
    def ids(self) -> Ints:
        """Every token once."""
        return self._ids[: len(self._place)]

    @property
    def counts(self) -> Floats:
        """How often each of `ids` stands in the output."""
        return self._counts[: len(self._place)]

    def _add(self, token: int, times: int) -> None:
        place = self._place.get(token)
        if place is None:
            place = self._place[token] = len(self._place)
            if place == len(self._ids):
                self._ids = np.concatenate([self._ids, np.empty_like(self._ids)])
                self._counts = np.concatenate([self._counts, np.empty_like(self._counts)])
            self._ids[place], self._counts[place] = token, 0
        self._counts[place] += times


class Columns:
    """The parameters of some rows, each as an array (rows, 1)."""

    def __init__(self, rows: Items[SamplingParameters]) -> None:
        def column(values: list[float]) -> Floats:
            return np.array(values, np.float32)[:, None]

        self.rows = tuple(rows)
        self.temperature = column([p.temperature or 1 for p in rows])
        self.top_k = column([p.top_k if p.temperature else 1 for p in rows])
        self.top_k[self.top_k == 0] = np.inf
        self.top_p = column([p.top_p for p in rows])
        self.min_p = column([p.min_p for p in rows])
        self.repetition = column([p.repetition_penalty for p in rows])
        self.presence = column([p.presence_penalty for p in rows])
        self.frequency = column([p.frequency_penalty for p in rows])
        self.penalised = [
            row for row, p in enumerate(rows) if p.repetition_penalty != 1 or p.presence_penalty or p.frequency_penalty
        ]
        """Rows for which it matters what they have said."""
        self.biased = [row for row, p in enumerate(rows) if p.logit_bias]


def adjust(logits: Floats, columns: Columns, seen: Items[Seen]) -> None:
    """Bias and penalties, in place.

    Repetition (Keskar et al. 2019, CTRL, https://arxiv.org/abs/1909.05858): positive logits of tokens in prompt or
    output are divided, negative ones multiplied. Presence and frequency, as in OpenAI's API: taken off tokens of the
    output, once and for each time.

    Args:
        logits: (rows, tokens).
        seen: of each row.
    """
    for row in columns.biased:
        bias = columns.rows[row].logit_bias
        logits[row, list(bias)] += np.fromiter(bias.values(), np.float32)
    if not columns.penalised:
        return
    ids = [seen[row].ids for row in columns.penalised]
    rows = np.repeat(columns.penalised, [len(some) for some in ids])
    tokens = np.concatenate(ids)
    values = logits[rows, tokens]
    repetition = columns.repetition[rows, 0]
    values = np.where(values > 0, values / repetition, values * repetition)
    if columns.presence.any() or columns.frequency.any():
        counts = np.concatenate([seen[row].counts for row in columns.penalised])
        values -= columns.presence[rows, 0] * (counts > 0) + columns.frequency[rows, 0] * counts
    logits[rows, tokens] = values


def probabilities(logits: Floats, columns: Columns) -> Floats:
    """What may be drawn, after temperature, top-k, top-p and min-p.

    Top-p (Holtzman et al. 2020, https://arxiv.org/abs/1904.09751) keeps the fewest tokens that hold at least p of the
    probability that top-k has left: a token stays if those before it hold less than p. Min-p (Nguyen et al. 2024,
    https://arxiv.org/abs/2407.01082) keeps those of at least p of the likeliest one's probability. The first always
    stays; a temperature of 0 leaves it alone.

    Args:
        logits: (rows, candidates), descending.

    Returns:
        (rows, candidates), each row adding up to 1.
    """
    scaled = (logits - logits[:, :1]) / columns.temperature
    weights = np.exp(np.where(np.arange(logits.shape[1]) < columns.top_k, scaled, np.float32(-np.inf)))
    weights /= weights.sum(axis=1, keepdims=True)
    before = np.cumsum(weights, axis=1) - weights
    kept = (before < columns.top_p) & (weights >= columns.min_p * weights[:, :1])
    kept[:, 0] = True
    weights *= kept
    weights /= weights.sum(axis=1, keepdims=True)
    return weights


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
        self._columns: dict[str, Columns] = {}

    def leave(self, sequence: Sequence) -> None:
        """The request is over."""
        self._seen.pop(sequence.request.id, None)

    def sample(self, logits: Floats, running: list[Sequence]) -> list[Scored | Exception]:
        """One token for every row of `logits`, (rows, tokens), which are overwritten; what went wrong for a bad row."""
        asked = [row for row, sequence in enumerate(running) if sequence.request.logprobs is not None]
        plain = dict(zip(asked, logits[asked], strict=True))  # copies: what follows changes the rows
        chosen: list[Scored | Exception] = [BrokenLogitsError()] * len(running)
        seen = [self._seen_by(sequence) for sequence in running]
        adjust(logits, self._columns_of("all", running), seen)
        few: list[int] = []
        every: list[int] = []
        for row, sequence in enumerate(running):
            p = sequence.request.sampling
            if sequence.generated < p.min_tokens:
                logits[row, self._end] = -np.inf
            # Most rows need their likeliest tokens alone, at a fraction of a sort's cost. How many are looked at does
            # not depend on the neighbours: sums would round in another way.
            (few if p.top_k or not p.temperature else every).append(row)
        for name, group, count in (("few", few, min(CANDIDATES, self._tokens)), ("every", every, self._tokens)):
            if not group:
                continue
            values, tokens, whole = self._select(logits if len(group) == len(logits) else logits[group], count)
            values[~whole] = 0
            sequences = [running[row] for row in group]
            uniforms = np.array([uniform(one.request.seed, len(one.tokens)) for one in sequences])
            places = draw(probabilities(values, self._columns_of(name, sequences)), uniforms)
            drawn = tokens[np.arange(len(group)), places].tolist()
            for row, token, good in zip(group, drawn, whole.tolist(), strict=True):
                if good and row in plain:
                    chosen[row] = self.score(plain[row], token, running[row].request.logprobs or 0)
                elif good:
                    chosen[row] = Scored(token)
        return chosen

    def _columns_of(self, group: str, sequences: list[Sequence]) -> Columns:
        """Made again when other requests stand in the group: most steps find those of the step before."""
        rows = tuple(sequence.request.sampling for sequence in sequences)
        held = self._columns.get(group)
        if held is None or len(held.rows) != len(rows) or any(a is not b for a, b in zip(held.rows, rows, strict=True)):
            held = self._columns[group] = Columns(rows)
        return held

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
        seen.catch_up()
        return seen
