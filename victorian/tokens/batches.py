"""The batch of step s as a pure function of (seed, s): nothing to checkpoint but the step.

A split is cut into windows of `context + 1` tokens that overlap by one, so that every token but the first is predicted
once an epoch; what is left behind the last whole window, less than a context, is not read. An epoch is a permutation of
the windows drawn from (seed, epoch); steps walk along the row of epochs. The batch of a step is the same at any number
of workers, each of which takes its own run of windows from it.
"""

import functools

import numpy as np
import numpy.typing as npt
import torch

from victorian.errors import DataError
from victorian.tokens.stream import TokenStream

Batch = tuple[torch.Tensor, torch.Tensor]
"""Inputs and targets, both int64 of shape (sequences, context); targets are the inputs one token later."""


class Batches:
    """Batches of one split.

    Raises:
        DataError: if the split is shorter than one window.
    """

    def __init__(self, stream: TokenStream, context: int, sequences_per_step: int, seed: int) -> None:
        self._stream = stream
        self._context = context
        self._sequences = sequences_per_step
        self._seed = seed
        self.windows = (stream.length - 1) // context
        if self.windows < 1:
            raise DataError(
                f"the split has {stream.length} tokens, fewer than one window of {context + 1}: "
                "use more text or a shorter context"
            )
        self._order = functools.lru_cache(maxsize=2)(self._draw_order)  # a step may straddle two epochs

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> Batch:
        """This worker's share of the batch of `step`, counted from 0."""
        assert self._sequences % world_size == 0
        share = self._sequences // world_size
        first = step * self._sequences + rank * share
        return self._read([self._window(position) for position in range(first, first + share)])

    def in_order(self, first: int, count: int) -> Batch:
        """Windows `first` to `first + count` as they stand in the text, fewer at the end: for evaluation."""
        return self._read(list(range(first, min(first + count, self.windows))))

    def _window(self, position: int) -> int:
        epoch, place = divmod(position, self.windows)
        return int(self._order(epoch)[place])

    def _draw_order(self, epoch: int) -> npt.NDArray[np.int64]:
        return np.random.default_rng([self._seed, epoch]).permutation(self.windows)

    def _read(self, windows: list[int]) -> Batch:
        size = self._context
        rows = [self._stream.read(window * size, (window + 1) * size + 1) for window in windows]
        tokens = np.stack(rows)
        # In numpy: torch would start threads of its own to copy, beside those that train.
        inputs, targets = (part.astype(np.int64) for part in (tokens[:, :-1], tokens[:, 1:]))
        return torch.from_numpy(inputs), torch.from_numpy(targets)
