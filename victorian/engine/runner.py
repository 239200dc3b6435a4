"""Runs the network for one step: some tokens of some sequences. Nothing else in the engine calls it."""

import copy
import logging
from collections.abc import Sequence as Items
from typing import Protocol

import numpy as np
import torch

from victorian.config import EngineConfig
from victorian.cores import cores
from victorian.device import DTYPES, use_device
from victorian.engine.blocks import BLOCK_TOKENS
from victorian.engine.compilation import why_not
from victorian.engine.decoding import Decoding
from victorian.engine.distribution import Draw, Floats, Select, draw, select
from victorian.engine.native import Ints, NativeNetwork
from victorian.engine.scheduler import Read
from victorian.errors import ConfigError
from victorian.model.gpt2 import GPT
from victorian.model.kv_cache import CacheView

logger = logging.getLogger(__name__)


class Runner(Protocol):
    """A network with its cache."""

    @property
    def select(self) -> Select:
        """How the largest logits are found."""

    @property
    def draw(self) -> Draw:
        """How tokens are drawn."""

    def run(self, reads: Items[Read]) -> Floats:
        """Read tokens into the cache; logits after the places that are wanted: (places, tokens), no padding rows."""

    def close(self) -> None:
        """Give the memory back."""


def new_runner(model: GPT, config: EngineConfig, blocks: int, tokens: int, device: torch.device) -> Runner:
    """The quickest that this machine and this network allow.

    Args:
        blocks: of the cache.
        tokens: of the encoding; rows beyond are padding.
    """
    reason = "an accelerator has kernels of its own" if device.type != "cpu" else why_not(model.config)
    if reason is None and config.kernels != "torch":
        try:
            return NativeRunner(model, config, blocks, tokens)
        except ConfigError as error:
            reason = str(error)
    if config.kernels == "native":
        raise ConfigError(f"the engine's own kernels cannot be used: {reason}")
    if config.batch_invariant:
        raise ConfigError(f"only the engine's own kernels are batch invariant: {reason or 'torch was asked for'}")
    if config.precision == "int8":
        why = reason or "torch was asked for"
        raise ConfigError(f"int8 needs the engine's own kernels, take bf16 or fp32: {why}")
    if reason and device.type == "cpu":
        logger.warning("the network runs in plain torch, which is slower: %s", reason)
    return TorchRunner(model, config, blocks, tokens, device)


class NativeRunner:
    """The kernels in machine code. A row gives the same bits whatever the others are."""

    def __init__(self, model: GPT, config: EngineConfig, blocks: int, tokens: int) -> None:
        most = config.max_running + config.chunk
        self._network = NativeNetwork(model, config.precision, most, blocks, config.threads or cores())
        self._tokens = tokens

    @property
    def select(self) -> Select:
        return self._network.select

    @property
    def draw(self) -> Draw:
        return self._network.draw

    def close(self) -> None:
        self._network.close()

    def run(self, reads: Items[Read]) -> Floats:
        ids: list[int] = []
        places: list[int] = []
        starts, rows = [0], []
        for read in reads:
            rows += [len(ids) + place - read.start for place in read.wanted]
            ids += read.tokens
            places += range(read.start, read.stop)
            starts.append(len(ids))
        return self._network.step(ids, places, starts, tables(reads, 0), rows)[:, : self._tokens]


class TorchRunner:
    """The network as it is, on any device: prompts one after the other, next tokens as one batch."""

    def __init__(self, model: GPT, config: EngineConfig, blocks: int, tokens: int, device: torch.device) -> None:
        dtype = DTYPES[config.precision]
        self._model = copy.deepcopy(model).to(device=device, dtype=dtype).eval().requires_grad_(False)
        self._cache = self._model.new_cache((blocks + 1) * BLOCK_TOKENS)  # one that `Decoding` fills rows up with
        self._tokens = tokens
        self._device = device
        self._spare = blocks
        use_device(device)
        record = device.type == "cuda"
        self._decoding = Decoding(self._model, self._cache, config.max_running, record) if record else None

    @property
    def select(self) -> Select:
        return select

    @property
    def draw(self) -> Draw:
        return draw

    @torch.inference_mode()
    def run(self, reads: Items[Read]) -> Floats:
        single = [read for read in reads if read.stop - read.start == 1]
        groups = [[read] for read in reads if read not in single] + ([single] if single else [])
        rows: dict[int, torch.Tensor] = {}
        for group in groups:
            for read, hidden in zip(group, self._read(group), strict=True):
                rows[id(read)] = hidden[[place - read.start for place in read.wanted]]
        wanted = torch.cat([rows[id(read)] for read in reads])
        logits: Floats = self._model.logits(wanted)[:, : self._tokens].float().cpu().numpy()
        return logits

    def close(self) -> None:
        del self._model, self._cache, self._decoding

    def _read(self, group: Items[Read]) -> torch.Tensor:
        """What the network makes of some reads of as many tokens: (reads, tokens, channels)."""
        ids = torch.tensor([read.tokens for read in group], device=self._device)
        positions = torch.tensor([list(range(read.start, read.stop)) for read in group], device=self._device)
        self._clear(group)
        blocks = torch.from_numpy(tables(group, self._spare)).long()
        slots = (blocks[:, :, None] * BLOCK_TOKENS + torch.arange(BLOCK_TOKENS)).flatten(1)
        longest = max(read.stop for read in group)
        slots = slots[:, :longest].to(self._device)
        if self._decoding and ids.shape[1] == 1:
            return self._decoding.hidden(ids, positions, slots)[:, None]
        return self._model.hidden(ids, CacheView(self._cache, positions, slots))

    def _clear(self, group: Items[Read]) -> None:
        """Wipe blocks that are begun: what an earlier owner left there may be no numbers, which no weight hides."""
        begun = [
            read.sequence.blocks[place // BLOCK_TOKENS]
            for read in group
            for place in range(-(-read.start // BLOCK_TOKENS) * BLOCK_TOKENS, read.stop, BLOCK_TOKENS)
        ]
        if begun:
            slots = (torch.tensor(begun)[:, None] * BLOCK_TOKENS + torch.arange(BLOCK_TOKENS)).flatten()
            for held in (self._cache.keys, self._cache.values):
                held.index_fill_(1, slots.to(self._device), 0)


def tables(reads: Items[Read], spare: int) -> Ints:
    """The blocks of each read's sequence, filled up with a spare one: int32 (reads, most blocks)."""
    counts = [-(-read.stop // BLOCK_TOKENS) for read in reads]  # what is behind belongs to nobody's numbers yet
    longest = max(counts)
    rows = [
        read.sequence.blocks[:count] + [spare] * (longest - count) for read, count in zip(reads, counts, strict=True)
    ]
    return np.asarray(rows, np.int32)
