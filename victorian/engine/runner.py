"""Runs the network for one step: some tokens of some sequences. Nothing else in the engine calls it."""

import copy
import logging
from collections.abc import Sequence as Items
from typing import Protocol

import numpy as np
import torch

from victorian.config import EngineConfig
from victorian.device import DTYPES, cores
from victorian.engine.blocks import BLOCK_TOKENS
from victorian.engine.native import NativeNetwork, why_not
from victorian.engine.sampling import Floats, Select, select
from victorian.engine.scheduler import Read
from victorian.errors import ConfigError
from victorian.model.gpt2 import GPT
from victorian.model.kv_cache import CacheView

logger = logging.getLogger(__name__)


class Runner(Protocol):
    """A network with its cache."""

    select: Select

    def run(self, reads: Items[Read]) -> Floats:
        """Read tokens into the cache; logits after those that draw: (drawing, tokens), no padding rows."""


def new_runner(model: GPT, config: EngineConfig, blocks: int, tokens: int, device: torch.device) -> Runner:
    """The quickest that this machine and this network allow.

    Args:
        blocks: of the cache.
        tokens: of the encoding; rows beyond are padding.
    """
    reason = "an accelerator has kernels of its own" if device.type != "cpu" else why_not(model.config)
    if reason is None and config.kernels != "torch":
        return NativeRunner(model, config, blocks, tokens)
    if config.kernels == "native":
        raise ConfigError(f"the engine's own kernels cannot be used: {reason}")
    if reason and device.type == "cpu":
        logger.warning("the network runs in plain torch, which is slower: %s", reason)
    return TorchRunner(model, config, blocks, tokens, device)


class NativeRunner:
    """The kernels in machine code. A row gives the same bits whatever the others are."""

    def __init__(self, model: GPT, config: EngineConfig, blocks: int, tokens: int) -> None:
        most = config.max_running + config.chunk
        self._network = NativeNetwork(model, config.precision, most, blocks, config.threads or cores())
        self._tokens = tokens
        self.select = self._network.select

    def run(self, reads: Items[Read]) -> Floats:
        ids: list[int] = []
        places: list[int] = []
        starts, rows = [0], []
        for read in reads:
            ids += read.tokens
            places += range(read.start, read.stop)
            starts.append(len(ids))
            if read.draws:
                rows.append(len(ids) - 1)
        return self._network.step(ids, places, starts, tables(reads), rows)[:, : self._tokens]


class TorchRunner:
    """The network as it is, on any device: prompts one after the other, next tokens as one batch."""

    def __init__(self, model: GPT, config: EngineConfig, blocks: int, tokens: int, device: torch.device) -> None:
        if config.precision == "int8":
            raise ConfigError("int8 needs the engine's own kernels, which cannot be used here: take bf16 or fp32")
        dtype = DTYPES[config.precision]
        self._model = copy.deepcopy(model).to(device=device, dtype=dtype).eval().requires_grad_(False)
        self._cache = self._model.new_cache(blocks * BLOCK_TOKENS)
        self._tokens = tokens
        self._device = device

        self.select = select

    @torch.inference_mode()
    def run(self, reads: Items[Read]) -> Floats:
        single = [read for read in reads if read.stop - read.start == 1 and read.draws]
        groups = [[read] for read in reads if read not in single] + ([single] if single else [])
        drawn = {}
        for group in groups:
            hidden = self._read(group)
            drawn |= {id(read): row for read, row in zip(group, hidden, strict=True) if read.draws}
        if not drawn:
            return np.empty((0, self._tokens), np.float32)
        rows = torch.stack([drawn[id(read)] for read in reads if read.draws])
        logits: Floats = self._model.logits(rows)[:, : self._tokens].float().cpu().numpy()
        return logits

    def _read(self, group: Items[Read]) -> torch.Tensor:
        """What the network makes of each read's last token: (reads, channels). All read as many tokens."""
        ids = torch.tensor([read.tokens for read in group], device=self._device)
        positions = torch.tensor([list(range(read.start, read.stop)) for read in group], device=self._device)
        blocks = torch.from_numpy(tables(group)).long()
        slots = (blocks[:, :, None] * BLOCK_TOKENS + torch.arange(BLOCK_TOKENS)).flatten(1)
        longest = max(read.stop for read in group)
        view = CacheView(self._cache, positions, slots[:, :longest].to(self._device))
        return self._model.hidden(ids, view)[:, -1]


def tables(reads: Items[Read]) -> np.ndarray:
    """The blocks of each read's sequence, filled up with the first: int32 (reads, most blocks)."""
    longest = max(len(read.sequence.blocks) for read in reads)
    rows = [read.sequence.blocks + [0] * (longest - len(read.sequence.blocks)) for read in reads]
    return np.asarray(rows, np.int32)
