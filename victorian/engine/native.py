"""GPT-2's forward pass in machine code, called through ctypes."""

import ctypes
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from victorian.config import Precision
from victorian.engine.compilation import library
from victorian.engine.distribution import CANDIDATES, Batch, Floats, add_bias
from victorian.errors import ConfigError
from victorian.model.gpt2 import GPT, Block

KINDS: dict[str, int] = {"fp32": 0, "bf16": 1, "int8": 2}

Ints = npt.NDArray[np.int32]


class NativeNetwork:
    """A model's weights, packed, with the cache of its sequences.

    Args:
        precision: of the products.
        tokens: the most in one step.
        blocks: of the cache, 16 tokens each.
        threads: that share a step.
    """

    def __init__(self, model: GPT, precision: Precision, tokens: int, blocks: int, threads: int) -> None:
        c = model.config
        self._library = library()
        shape = (c.layers, c.channels, c.heads, c.vocabulary, c.context, tokens, blocks, threads)
        numbers = (ctypes.c_int32 * len(shape))(*shape)
        self._network = ctypes.c_void_p(self._library.victorian_new(numbers, KINDS[precision]))
        if not self._network:
            raise ConfigError(f"there is no memory for {blocks} blocks of the cache: give the engine a smaller one")
        self.stride = -(-c.vocabulary // 64) * 64
        """Floats from a row of logits to the next."""
        self._logits = np.empty((0, self.stride), np.float32)
        self._set(0, 0, model.token_embedding.weight)
        self._set(0, 1, model.position_embedding.weight)
        for index, block in enumerate(model.blocks):
            assert isinstance(block, Block)
            parts: tuple[nn.Linear | nn.LayerNorm, ...] = (
                block.attention_norm,
                block.attention.query_key_value,
                block.attention.projection,
                block.feed_forward_norm,
                block.feed_forward.expand,
                block.feed_forward.contract,
            )
            for what, part in enumerate(parts, 2):
                self._set(index, what, part.weight, part.bias)
        self._set(0, 8, model.final_norm.weight, model.final_norm.bias)

    def _set(self, layer: int, what: int, values: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        weight = values.detach().float().contiguous()
        other = None if bias is None else bias.detach().float().contiguous()
        self._library.victorian_set(
            self._network,
            layer,
            what,
            ctypes.c_void_p(weight.data_ptr()),
            ctypes.c_void_p(other.data_ptr() if other is not None else None),
        )

    def step(
        self, ids: Sequence[int], places: Sequence[int], starts: Sequence[int], blocks: Ints, rows: Sequence[int]
    ) -> Floats:
        """Read tokens of some sequences, and return the logits after some of them.

        Args:
            ids: tokens of all sequences, those of a sequence in order.
            places: where each stands in its sequence's window.
            starts: where each sequence's tokens begin, and at the end their number.
            blocks: of the cache, (sequences, at least as many as a window needs).
            rows: tokens after which logits are wanted.

        Returns:
            float32 (rows, vocabulary and some), good until the next step.
        """
        numbers = [np.asarray(values, np.int32) for values in (ids, places, starts, blocks, rows)]
        pointers = [ctypes.c_void_p(array.ctypes.data) for array in numbers]
        if len(rows) > len(self._logits):  # kept, since memory that is new to the process costs more than its use
            self._logits = np.empty((len(rows), self.stride), np.float32)
        logits = self._logits[: len(rows)]
        self._library.victorian_step(
            self._network,
            len(ids),
            pointers[0],
            pointers[1],
            len(starts) - 1,
            pointers[2],
            pointers[3],
            numbers[3].shape[1],
            len(rows),
            pointers[4],
            ctypes.c_void_p(logits.ctypes.data),
        )
        return logits

    def select(self, rows: Floats, count: int) -> tuple[Floats, npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """`distribution.Select`; the rows may be a part of wider ones."""
        values, indices = np.empty((len(rows), count), np.float32), np.empty((len(rows), count), np.int32)
        good = np.empty(len(rows), np.uint8)
        pointers = [ctypes.c_void_p(array.ctypes.data) for array in (rows, values, indices, good)]
        stride = rows.strides[0] // 4
        self._library.victorian_select(
            self._network, pointers[0], len(rows), stride, rows.shape[1], count, *pointers[1:]
        )
        return values, indices.astype(np.int64), good.astype(bool)

    def draw(self, rows: Floats, batch: Batch) -> tuple[list[int], list[bool]]:
        """`distribution.Draw`; the rows may be a part of wider ones."""
        add_bias(rows, batch.columns)
        table = batch.columns.table
        if batch.banned:
            table = table.copy()
            table[batch.banned, -1] = batch.end
        seen = np.array([one.pointers for one in batch.seen], np.int64)
        tokens = np.empty(len(rows), np.int32)
        arrays = (table, seen, batch.uniforms, tokens)
        self._library.victorian_draw(
            self._network,
            ctypes.c_void_p(rows.ctypes.data),
            len(rows),
            rows.strides[0] // 4,
            rows.shape[1],
            CANDIDATES,
            rows.ctypes.data == self._logits.ctypes.data and not batch.columns.biased,
            *(ctypes.c_void_p(array.ctypes.data) for array in arrays),
        )
        drawn = tokens.tolist()
        return drawn, [token >= 0 for token in drawn]

    def close(self) -> None:
        self._library.victorian_free(self._network)
        self._network = ctypes.c_void_p(None)
