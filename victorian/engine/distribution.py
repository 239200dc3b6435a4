"""From logits to the next tokens of a batch, each row by its own parameters: what they mean, in numpy.

In this order: the logit bias; repetition, presence and frequency penalties; tokens that may not be drawn yet;
temperature, top-k, top-p, min-p; then a draw by inverse transform over the candidates, the likeliest first. The uniform
number behind a draw is a function of the request's seed and the position alone, and so is the order among equals.
"""

import hashlib
from collections.abc import Callable
from collections.abc import Sequence as Items
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from victorian.config import SamplingParameters, bounds
from victorian.engine.scheduler import Sequence

CANDIDATES = int(bounds("top_k")[1])
"""The likeliest tokens that are looked at where top-k says that they are enough. How many does not depend on the
neighbours: sums would round in another way."""

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) for the token at `position`: a hash of both, so that no generator has to be carried along."""
    digest = hashlib.blake2b(seed.to_bytes(8, "little") + position.to_bytes(8, "little"), digest_size=8).digest()
    return float((int.from_bytes(digest, "little") >> 11) * 2.0**-53)


class Seen:
    """Which tokens stand in prompt and output of one request, and how often in the output."""

    def __init__(self, sequence: Sequence) -> None:
        self._tokens = sequence.tokens
        self._prompt = len(sequence.request.prompt)
        self._known = 0
        self._place: dict[int, int] = {}
        self._ids = np.empty(64, np.int32)
        self._counts = np.empty(64, np.float32)
        self._addresses = self._ids.ctypes.data, self._counts.ctypes.data

    def catch_up(self) -> None:
        """Count the tokens that were added since."""
        for position in range(self._known, len(self._tokens)):
            self._add(self._tokens[position], int(position >= self._prompt))
        self._known = len(self._tokens)

    @property
    def pointers(self) -> tuple[int, int, int]:
        """Where `ids` and `counts` lie in memory, until `catch_up` is called again, and how many they are."""
        return *self._addresses, len(self._place)

    @property
    def ids(self) -> npt.NDArray[np.int32]:
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
                self._addresses = self._ids.ctypes.data, self._counts.ctypes.data
            self._ids[place], self._counts[place] = token, 0
        self._counts[place] += times


class Columns:
    """The parameters of some rows, each as an array (rows, 1)."""

    def __init__(self, rows: Items[SamplingParameters]) -> None:
        def column(values: list[float]) -> Floats:
            return np.array(values, np.float32)[:, None]

        self.rows = list(rows)
        self.greedy = column([p.temperature == 0 for p in rows])
        self.temperature = column([p.temperature or 1 for p in rows])
        self.top_k = column([p.top_k if p.temperature else 1 for p in rows])
        self.top_k[self.top_k == 0] = np.inf
        self.top_p = column([p.top_p for p in rows])
        self.min_p = column([p.min_p for p in rows])
        self.repetition = column([p.repetition_penalty for p in rows])
        self.presence = column([p.presence_penalty for p in rows])
        self.frequency = column([p.frequency_penalty for p in rows])
        self.table = np.hstack(
            [self.temperature * (1 - self.greedy), self.top_k, self.top_p, self.min_p, self.repetition, self.presence,
             self.frequency, np.full_like(self.top_k, -1)]
        )  # fmt: skip
        """(rows, 8): the parameters as the kernels read them; the last is a token that may not be drawn, or -1."""
        self.penalised = [
            row for row, p in enumerate(rows) if p.repetition_penalty != 1 or p.presence_penalty or p.frequency_penalty
        ]
        """Rows for which it matters what they have said."""
        self.few = [row for row, p in enumerate(rows) if p.top_k or not p.temperature]
        """Rows that need their likeliest tokens alone."""
        self.biased = [row for row, p in enumerate(rows) if p.logit_bias]


@dataclass(frozen=True)
class Batch:
    """What the rows of a step are drawn by."""

    columns: Columns
    seen: list[Seen]
    uniforms: npt.NDArray[np.float64]
    """(rows,) in [0, 1)."""
    banned: list[int]
    """Rows in which the end of the text may not be drawn yet."""
    end: int
    """The token that ends a text."""


Select = Callable[[Floats, int], tuple[Floats, Ints, Bools]]
"""(rows, tokens) and k -> the k largest of each row from the largest down, equals in their order, where they stand, and
whether all of the row are numbers and the largest is finite."""
Draw = Callable[[Floats, Batch], tuple[list[int], list[bool]]]
"""(rows, tokens), which are overwritten -> a token for each, and whether all numbers of the row are numbers."""


def select(rows: Floats, count: int) -> tuple[Floats, Ints, Bools]:
    """`Select` in torch."""
    largest = torch.from_numpy(rows).topk(count).values.numpy()
    # topk leaves the order of equals open; a stable sort of what is not below the least makes it that of the tokens.
    indices = np.empty((len(rows), count), np.int64)
    good = np.atleast_1d(~np.isnan(rows).any(axis=1) & (rows.max(axis=1) < np.inf))
    for row, values in enumerate(rows):
        if not good[row]:
            indices[row] = 0
            continue
        found = np.flatnonzero(values >= largest[row, -1])
        indices[row] = found[np.argsort(-values[found], kind="stable")][:count]
    return np.take_along_axis(rows, indices, 1), indices, good


def add_bias(logits: Floats, columns: Columns) -> None:
    """Each row's own bias, in place: (rows, tokens)."""
    for row in columns.biased:
        bias = columns.rows[row].logit_bias
        logits[row, list(bias)] += np.fromiter(bias.values(), np.float32)


def adjust(logits: Floats, columns: Columns, seen: Items[Seen]) -> None:
    """Penalties, in place.

    Repetition (Keskar et al. 2019, CTRL, https://arxiv.org/abs/1909.05858): positive logits of tokens in prompt or
    output are divided, negative ones multiplied. Presence and frequency, as in OpenAI's API: taken off tokens of the
    output, once and for each time.

    Args:
        logits: (rows, tokens).
        seen: of each row.
    """
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
    total = np.cumsum(weights, axis=1, dtype=np.float64)  # as float32 the sum would reach 1 before the last token
    kept = (total - weights < columns.top_p * total[:, -1:]) & (weights >= columns.min_p * weights[:, :1])
    kept[:, 0] = True
    weights *= kept
    weights /= weights.sum(axis=1, keepdims=True)
    return weights


def invert(weights: Floats, uniforms: npt.NDArray[np.float64]) -> Ints:
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


def draw(rows: Floats, batch: Batch) -> tuple[list[int], list[bool]]:
    """`Draw` by these definitions."""
    columns = batch.columns
    add_bias(rows, columns)
    adjust(rows, columns, batch.seen)
    rows[batch.banned, batch.end] = -np.inf
    every = [row for row in range(len(rows)) if row not in columns.few]
    chosen, good = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.bool_)
    for group, count in ((columns.few, min(CANDIDATES, rows.shape[1])), (every, rows.shape[1])):
        if not group:
            continue
        values, tokens, whole = select(rows[group], count)
        values[~whole] = 0
        part = columns if len(group) == len(rows) else Columns([columns.rows[row] for row in group])
        places = invert(probabilities(values, part), batch.uniforms[group])
        chosen[group], good[group] = tokens[np.arange(len(group)), places], whole
    return chosen.tolist(), good.tolist()
