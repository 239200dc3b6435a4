"""GPT-2's forward pass in machine code: compiled from `kernels/` once a machine, and loaded with ctypes."""

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from victorian.config import ModelConfig, Precision, cache_settings
from victorian.engine.distribution import CANDIDATES, Batch, Floats, add_bias
from victorian.errors import ConfigError
from victorian.model.gpt2 import GPT, Block

FLAGS = ("-O3", "-march=native", "-std=c++17", "-shared", "-fPIC", "-pthread")
KINDS: dict[str, int] = {"fp32": 0, "bf16": 1, "int8": 2}
COMPILE_SECONDS = 300

Ints = npt.NDArray[np.int32]


def compiler() -> str | None:
    """The C++ compiler that is called, if there is one."""
    return next((found for name in ("c++", "g++", "clang++") if (found := shutil.which(name))), None)


def why_not(model: ModelConfig) -> str | None:
    """Why this machine or this network must do without; None if nothing stands in the way."""
    capabilities = torch.cpu.get_capabilities()
    missing = [name for name in ("avx512_f", "avx512_vnni", "avx512_bf16") if not capabilities.get(name)]
    if missing:
        return f"the CPU lacks {', '.join(missing)}"
    if model.head_dim % 16 or model.head_dim > 128:
        return f"heads of {model.head_dim} channels are not a multiple of 16 up to 128"
    return None if compiler() else "there is no C++ compiler: install g++"


def library() -> ctypes.CDLL:
    """The compiled kernels, from the cache or compiled now, which takes some seconds.

    Raises:
        ConfigError: if the compiler fails, with what it said.
    """
    program = compiler()
    assert program
    sources = resources.files("victorian.engine") / "kernels"
    files = sorted((item for item in sources.iterdir() if item.name.endswith(("pp"))), key=lambda item: item.name)
    said = subprocess.run([program, "-march=native", "-Q", "--help=target"], capture_output=True, timeout=60)
    version = subprocess.run([program, "--version"], capture_output=True, timeout=60)
    parts = [" ".join(FLAGS).encode(), said.stdout, version.stdout, *(file.read_bytes() for file in files)]
    digest = hashlib.sha256(b"\0".join(parts)).hexdigest()
    folder = cache_settings().folder / "kernels"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid() or folder.stat().st_mode & 0o022:
        raise ConfigError(f"{folder} can be written by others: set VICTORIAN_CACHE to a folder of your own")
    target = folder / f"{digest}.so"
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=folder) as place:
            for file in files:
                (Path(place) / file.name).write_bytes(file.read_bytes())
            made = Path(place) / "network.so"
            command = [program, *FLAGS, "-o", str(made), str(Path(place) / "network.cpp")]
            done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_SECONDS)
            if done.returncode:
                raise ConfigError(f"{program} could not compile the engine's kernels: {done.stderr.strip()[:2000]}")
            made.replace(target)
    loaded = ctypes.CDLL(str(target))
    loaded.victorian_new.restype = ctypes.c_void_p
    return loaded


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
            *(ctypes.c_void_p(array.ctypes.data) for array in arrays),
        )
        drawn = tokens.tolist()
        return drawn, [token >= 0 for token in drawn]

    def close(self) -> None:
        self._library.victorian_free(self._network)
        self._network = ctypes.c_void_p(None)
