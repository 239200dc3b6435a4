"""Running a trainer to its end: in a thread beside the driver, and again where storage was away for a moment."""

import threading
import time
from collections.abc import Callable
from typing import Any

import ray
import ray.train
import ray.train.torch

from victorian.errors import StorageError
from victorian.storage import Storage
from victorian.training.saving import PAUSES, unstored

LOOK_SECONDS = 0.5
"""How often a driver looks after its run."""
PROBE = "answers"
"""Blob that is written and removed to see whether storage can be written."""


def fit(
    new_trainer: Callable[[], ray.train.torch.TorchTrainer],
    storage: Storage,
    switchboard: Any,
    failures: int,
    meanwhile: Callable[[], None],
) -> None:
    """Run a trainer to its end, and call `meanwhile` now and then.

    Ray's controller keeps its own state beside the checkpoints and gives up at the first write that fails; it is then
    started again, `failures` times at most, as soon as storage can be written.

    Raises:
        UnstoredError: if storage stays away, naming the last checkpoint that is whole.
        ray.train.TrainingFailedError: if the run failed in another way.
    """
    for left in range(failures, -1, -1):
        try:
            _fit_once(new_trainer(), meanwhile)
        except ray.train.ControllerError as error:
            if not isinstance(error.controller_failure, OSError):
                raise
            _wait_for(storage, switchboard)
            if not left:
                raise
        else:
            return


def _wait_for(storage: Storage, switchboard: Any) -> None:
    for pause in (*PAUSES, None):
        try:
            storage.write(PROBE, b"")
            storage.delete(PROBE)
        except StorageError as error:
            if pause is None:
                raise unstored("the run", error, ray.get(switchboard.stored.remote())) from error
            time.sleep(pause)
        else:
            return


def _fit_once(trainer: ray.train.torch.TorchTrainer, meanwhile: Callable[[], None]) -> None:
    """`fit` runs in a thread of its own: in the main one it would take Ctrl-C for itself, and never give it back."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            trainer.fit()
        except BaseException as error:  # raised again below, in the caller's thread
            failures.append(error)

    thread = threading.Thread(target=run, name="fit", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(LOOK_SECONDS)
        meanwhile()
    if failures:
        raise failures[0]
