"""A worker of Ray Train, as the training loop sees it."""

import threading
from collections.abc import Callable
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
from ray.train import CheckpointUploadMode
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from torch import nn

from victorian.errors import TrainingError
from victorian.storage import Storage, open_storage
from victorian.training.checkpoint import Snapshot
from victorian.training.saving import Attempts, Keep
from victorian.training.worker import Notice

CHECKPOINTS = "ray"
"""Folder of a run in which Ray keeps its checkpoints and its own state."""


@ray.remote(num_cpus=0)
class Switchboard:
    """What a driver and the worker of rank 0 tell each other while a run lasts, whatever becomes of its storage."""

    def __init__(self) -> None:
        self._stop = False
        self._stored = 0
        self._failure: TrainingError | None = None

    def stop(self) -> None:
        """The run is to end with a checkpoint."""
        self._stop = True

    def stopped(self) -> bool:
        return self._stop

    def begin(self, step: int) -> None:
        """The run begins, or goes on from the checkpoint of a step."""
        self._stored = step

    def store(self, step: int) -> None:
        """The checkpoint of a step is whole; what an attempt before may have failed with is over."""
        self._stored = step
        self._failure = None

    def stored(self) -> int:
        """Step of the last whole checkpoint; 0 if there is none."""
        return self._stored

    def fail(self, error: TrainingError) -> None:
        """The run has ended with an error that another attempt would end with as well."""
        self._failure = error

    def failure(self) -> TrainingError | None:
        return self._failure


def new_switchboard() -> Any:
    """One on the driver's own machine: others may be lost."""
    here = ray.get_runtime_context().get_node_id()
    where = NodeAffinitySchedulingStrategy(here, soft=True)
    return Switchboard.options(scheduling_strategy=where).remote()  # type: ignore[attr-defined]  # Ray's decorator adds it


class RayWorker:
    """See `training.worker.Worker`. Checkpoints are stored beside training, by a thread of Ray's.

    Args:
        run: the run's folder.
        switchboard: where the driver says that the run is to end.
        before: called before a checkpoint is written.
        keep: what is kept beside each checkpoint.
    """

    def __init__(self, run: str, switchboard: Any, before: Callable[[], None], keep: Keep) -> None:
        context = ray.train.get_context()
        self.rank = context.get_world_rank()
        self.world_size = context.get_world_size()
        self.device = ray.train.torch.get_device()
        self._run = run
        self._switchboard = switchboard
        self._stored = threading.Event()
        self._stored.set()
        self._failure: BaseException | None = None
        self._told_of: object = None
        resumed = self.restored()
        at = int(resumed.uri.rpartition("-")[2]) if resumed else 0
        self._attempts = Attempts(at, before, keep)
        if self.rank == 0:
            switchboard.begin.remote(at)

    def wrap(self, model: nn.Module) -> nn.Module:
        wrapped: nn.Module = ray.train.torch.prepare_model(model)
        return wrapped

    def total(self, values: list[float]) -> list[float]:
        if self.world_size == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(tensor)
        return [float(value) for value in tensor.tolist()]

    def notice(self) -> Notice:
        info = ray.train.get_preemption_info()
        told = info is not None and info != self._told_of
        self._told_of = info
        # Workers hear of a loss one after the other, and must all save at the same step.
        stop, save = self.total([float(self.rank == 0 and self._is_told_to_stop()), float(told)])
        return "stop" if stop else "save" if save else "none"

    def _is_told_to_stop(self) -> bool:
        try:
            return bool(ray.get(self._switchboard.stopped.remote()))
        except ray.exceptions.RayActorError:
            return False  # it went with the driver's machine, and the driver will be missed soon enough

    def save(self, step: int, take: Callable[[], Snapshot]) -> None:
        if self.rank != 0:
            ray.train.report({"step": step})
            return
        self.settle()
        name = f"step-{step:08d}"
        self._stored.clear()
        ray.train.report(
            {"step": step},
            checkpoint=self._checkpoint(name),
            checkpoint_dir_name=name,
            checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
            delete_local_checkpoint_after_upload=False,
            checkpoint_upload_fn=partial(self._store, take()),
        )

    def settle(self) -> None:
        self._stored.wait()
        if self._failure:
            raise self._failure

    def restored(self) -> Storage | None:
        checkpoint = ray.train.get_checkpoint()
        return self._place(PurePosixPath(checkpoint.path).name) if checkpoint else None

    def _store(self, snapshot: Snapshot, checkpoint: ray.train.Checkpoint, name: str) -> ray.train.Checkpoint:
        try:
            self._attempts.write(snapshot, self._place(name))
            self._switchboard.store.remote(snapshot.position.step)
        except BaseException as error:
            self._failure = error
            raise
        finally:
            self._stored.set()
        return checkpoint

    def _place(self, name: str) -> Storage:
        return open_storage(f"{self._run}/{CHECKPOINTS}/{name}")

    def _checkpoint(self, name: str) -> ray.train.Checkpoint:
        """What Ray knows a checkpoint by; nothing needs to be there yet."""
        storage = ray.train.get_context().get_storage()
        path = storage.build_checkpoint_path_from_name(name)
        return ray.train.Checkpoint(path, filesystem=storage.storage_filesystem)
