"""Next tokens of many sequences at once with shapes that come again, so that CUDA can record a step and replay it.

A step of a small network on a GPU is hundreds of launches, each of which takes longer to ask for than to run; a graph
asks once (https://pytorch.org/blog/accelerating-pytorch-with-cuda-graphs/). A graph has fixed shapes and addresses:
rows are filled up to a power of two and lengths to a multiple of `LENGTHS`, and the inputs are copied into tensors that
stay where they are. Rows that stand for nobody write into a block that belongs to nobody.
"""

from collections.abc import Callable
from typing import Any

import torch

from victorian.engine.blocks import BLOCK_TOKENS
from victorian.model.gpt2 import GPT
from victorian.model.kv_cache import CacheView, KVCache

Pool = Any
"""A handle of CUDA's graphs, whose type torch keeps to itself."""
LENGTHS = 256
"""Lengths of windows are rounded up to a multiple of this."""
WARM_UP = 3
"""Calls before a graph is recorded, in which libraries choose their kernels and take their memory."""


class Shape:
    """One padded shape: its inputs, its output, and how to compute it.

    Attributes:
        ids: int64 (rows, 1).
        positions: int64 (rows, 1).
        slots: int64 (rows, length).
        hidden: (rows, channels), what the network makes of the tokens once `compute` was called.
    """

    def __init__(self, model: GPT, cache: KVCache, rows: int, length: int, spare: int, pool: Pool | None) -> None:
        device = cache.keys.device
        self.ids = torch.zeros((rows, 1), dtype=torch.int64, device=device)
        self.positions = torch.zeros((rows, 1), dtype=torch.int64, device=device)
        self.slots = torch.full((rows, length), spare, dtype=torch.int64, device=device)
        self._spare = spare

        def compute() -> None:
            self.hidden = model.hidden(self.ids, CacheView(cache, self.positions, self.slots))[:, 0]

        self.compute: Callable[[], None] = compute if pool is None else self._record(compute, pool)

    def fill(self, ids: torch.Tensor, positions: torch.Tensor, slots: torch.Tensor) -> None:
        """The sequences' next tokens, (count, 1), their places, and their windows' slots, (count, at most length)."""
        count, length = slots.shape
        self.ids.zero_()
        self.ids[:count].copy_(ids, non_blocking=True)
        self.positions.zero_()
        self.positions[:count].copy_(positions, non_blocking=True)
        self.slots.fill_(self._spare)
        self.slots[:count, :length].copy_(slots, non_blocking=True)

    @staticmethod
    def _record(compute: Callable[[], None], pool: Pool) -> Callable[[], None]:
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                compute()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            compute()
        replay: Callable[[], None] = graph.replay
        return replay


class Decoding:
    """The shapes that were met so far.

    Args:
        cache: has one block more than sequences use, the last.
        most: sequences in one step.
        record: whether graphs are recorded, all of them now, so that no reader waits for one; without, the same is
            computed each time.
    """

    def __init__(self, model: GPT, cache: KVCache, most: int, record: bool) -> None:
        self._model = model
        self._cache = cache
        self._most = most
        # One for all: what a graph gives is used before the next one runs.
        self._pool: Pool | None = torch.cuda.graph_pool_handle() if record else None
        self._spare = cache.keys.shape[1] - BLOCK_TOKENS
        self._shapes: dict[tuple[int, int], Shape] = {}
        if record:
            context = model.config.context
            for rows in {min(1 << power, most) for power in range(most.bit_length() + 1)}:
                for length in range(min(LENGTHS, context), context + LENGTHS, LENGTHS):
                    self._shape(rows, min(length, context))

    def hidden(self, ids: torch.Tensor, positions: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
        """As `Shape.fill` takes them -> (count, channels), good until the next call."""
        count, length = slots.shape
        rows = min(1 << (count - 1).bit_length(), self._most)
        padded = min(-(-length // LENGTHS) * LENGTHS, self._model.config.context)
        shape = self._shape(rows, padded)
        shape.fill(ids, positions, slots)
        shape.compute()
        return shape.hidden[:count]

    def _shape(self, rows: int, length: int) -> Shape:
        shape = self._shapes.get((rows, length))
        if shape is None:
            shape = Shape(self._model, self._cache, rows, length, self._spare, self._pool)
            self._shapes[rows, length] = shape
        return shape
