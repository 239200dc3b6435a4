"""Draws the next token of every request that has come to one, and looks up how likely tokens are."""

import math

import numpy as np

from victorian.engine.distribution import Batch, Columns, Draw, Floats, Seen, Select, draw, select, uniform
from victorian.engine.request import Scored
from victorian.engine.scheduler import Sequence


class BrokenLogitsError(Exception):
    """A row of logits that holds something that is no number."""

    def __init__(self) -> None:
        super().__init__("the network gave something that is no number")


class Sampler:
    """Knows what every running request has said, and draws with each request's own parameters.

    Args:
        end: the token that ends a text.
        draw: the same as `distribution.draw`, by whatever means.
        select: the same as `distribution.select`.
    """

    def __init__(self, end: int, draw: Draw = draw, select: Select = select) -> None:
        self._end = end
        self._draw = draw
        self._select = select
        self._seen: dict[str, Seen] = {}
        self._columns = Columns([])

    def leave(self, sequence: Sequence) -> None:
        """The request is over."""
        self._seen.pop(sequence.request.id, None)

    def sample(self, logits: Floats, running: list[Sequence]) -> list[Scored | Exception]:
        """One token for every row of `logits`, (rows, tokens), which are overwritten; what went wrong for a bad row."""
        asked = [row for row, sequence in enumerate(running) if sequence.request.logprobs is not None]
        plain = {row: logits[row].copy() for row in asked}  # what follows changes the rows
        parameters = [sequence.request.sampling for sequence in running]
        if self._columns.rows != parameters:  # most steps find the requests of the step before
            self._columns = Columns(parameters)
        batch = Batch(
            self._columns,
            [self._seen_by(sequence) for sequence in running],
            np.array([uniform(sequence.request.seed, len(sequence.tokens)) for sequence in running]),
            [row for row, p in enumerate(parameters) if p.min_tokens and running[row].generated < p.min_tokens],
            self._end,
        )
        chosen: list[Scored | Exception] = []
        for row, (token, good) in enumerate(zip(*self._draw(logits, batch), strict=True)):
            if not good:
                chosen.append(BrokenLogitsError())
            elif row in plain:
                chosen.append(self.score(plain[row], token, running[row].request.logprobs or 0))
            else:
                chosen.append(Scored(token))
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
        seen.catch_up()
        return seen
