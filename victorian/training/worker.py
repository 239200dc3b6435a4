"""What the training loop asks of the place where it runs: who it is among how many, and where checkpoints go."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import nn

from victorian.device import pick_device
from victorian.storage import LocalStorage, Storage
from victorian.training.checkpoint import STATE, Snapshot
from victorian.training.saving import Attempts, Keep, Saver

Notice = Literal["none", "save", "stop"]
"""What a run was told from outside: nothing; that a machine will be gone soon; or to end with a checkpoint."""


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

    def notice(self) -> Notice:
        """What this run was told; the same answer for every worker."""
        ...

    def save(self, step: int, take: Callable[[], Snapshot]) -> None:
        """Keep a checkpoint: rank 0 takes it, and stores it while training goes on."""
        ...

    def settle(self) -> None:
        """Wait until the last checkpoint is stored; TrainingError if it could not be."""
        ...

    def restored(self) -> Storage | None:
        """Where the latest checkpoint lies; None if there is none."""
        ...


class LocalWorker:
    """A run of one process without Ray. It keeps its latest checkpoint in `folder`.

    Args:
        keep: what is kept beside each checkpoint.
    """

    rank = 0
    world_size = 1

    def __init__(self, folder: Path, keep: Keep = lambda _: None) -> None:
        self.device = pick_device()
        self._folder = folder
        self._attempts = Attempts(keep=keep)
        self._saver = Saver(self._store)

    def wrap(self, model: nn.Module) -> nn.Module:
        return model

    def total(self, values: list[float]) -> list[float]:
        return values

    def notice(self) -> Notice:
        return "none"

    def save(self, step: int, take: Callable[[], Snapshot]) -> None:
        self._saver.save(take)

    def settle(self) -> None:
        self._saver.settle()

    def restored(self) -> Storage | None:
        whole = self._checkpoints()
        return LocalStorage(whole[-1]) if whole else None

    def _store(self, snapshot: Snapshot) -> None:
        fresh = self._folder / f"checkpoint-{snapshot.position.step:08d}"
        self._attempts.write(snapshot, LocalStorage(fresh))
        for other in self._folder.glob("checkpoint-*"):  # older ones, and what an interruption left
            if other != fresh:
                shutil.rmtree(other)

    def _checkpoints(self) -> list[Path]:
        return sorted(path.parent for path in self._folder.glob(f"checkpoint-*/{STATE}"))
