"""What the training loop asks of the place where it runs: who it is among how many, and where checkpoints go."""

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from victorian.device import pick_device


class Worker(Protocol):
    """One process of a run. All workers of a run make the same calls in the same order."""

    rank: int
    world_size: int
    device: torch.device

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model as it is to be called for training: itself, or a module that averages gradients over workers."""
        ...

    def total(self, values: list[float]) -> list[float]:
        """The element-wise sum of every worker's values; each gets the same answer."""
        ...

    def save(self, step: int, write: Callable[[Path], None]) -> None:
        """Keep a checkpoint: `write` fills an empty folder, on the worker of rank 0 alone."""
        ...

    def restored(self) -> AbstractContextManager[Path | None]:
        """The folder of the latest checkpoint while the context lasts; None if there is none."""
        ...


class LocalWorker:
    """A run of one process without Ray. It keeps its latest checkpoint in `folder`."""

    rank = 0
    world_size = 1

    def __init__(self, folder: Path) -> None:
        self.device = pick_device()
        self._latest = folder / "checkpoint"

    def wrap(self, model: nn.Module) -> nn.Module:
        return model

    def total(self, values: list[float]) -> list[float]:
        return values

    def save(self, step: int, write: Callable[[Path], None]) -> None:
        fresh = self._latest.with_name("checkpoint-new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        write(fresh)
        shutil.rmtree(self._latest, ignore_errors=True)
        fresh.rename(self._latest)

    def restored(self) -> AbstractContextManager[Path | None]:
        return nullcontext(self._latest if self._latest.is_dir() else None)
