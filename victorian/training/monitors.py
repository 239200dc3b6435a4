"""The record of a run: one JSON object a line, a line a step, and whoever else is told of every step."""

import contextlib
import os
import threading
from pathlib import Path
from typing import Literal, Protocol

from pydantic import ValidationError

from victorian.config import Section, first_problem
from victorian.errors import StorageError
from victorian.storage import Storage

METRICS = "metrics.jsonl"
UPLOAD_SECONDS = 10.0
"""How often a record in an object store, which knows no appending, is put there again."""


TAIL_BYTES = 64 * 1024


class StepRecord(Section):
    """What is known after one optimizer step."""

    kind: Literal["step"] = "step"
    step: int
    """Steps taken, this one included."""
    tokens: int
    """Training tokens seen."""
    workers: int = 1
    """Processes that shared it."""
    loss: float
    """Mean over the step's tokens, nats a token."""
    validation_loss: float | None = None
    """Where this step was followed by a look at it, nats a token."""
    learning_rate: float
    gradient_norm: float | None
    """Before clipping; None where it overflowed and the step was skipped."""
    loss_scale: float | None = None
    """What float16 losses were multiplied with; None for other types."""
    overflows: int = 0
    """Steps so far that were skipped because their gradient overflowed."""
    seconds: float
    """Seconds of training since the run began, over all its restarts."""
    tokens_per_second: float
    """Of this step, forward, backward and optimizer, over all workers."""
    mfu: float | None = None
    """Model FLOPs utilization of this step: the share of what the devices can do; None where that is not known."""
    memory: int = 0
    """Bytes that rank 0 holds: on its accelerator, else of main memory."""
    memory_peak: int = 0
    """The most that it ever held."""
    data_wait: float
    """Seconds that this step waited for its batch, on the worker of rank 0."""
    checkpoint_wait: float = 0.0
    """Seconds that training stood still for a checkpoint before this step."""
    outside: float
    """Share of the wall time so far that was not spent in forward, backward and optimizer."""
    spent: float
    """Share of the budget that is spent, 0 to 1."""
    sample: str | None = None
    """Text that the model wrote after this step, where somebody asked for some."""


class Monitor(Protocol):
    """Somebody who is told of every step, on rank 0."""

    def begin(self, step: int) -> None:
        """The run starts, or goes on, after this step. Steps before it that come again were lost."""
        ...

    def step(self, record: StepRecord) -> None: ...

    def close(self) -> None: ...


class Journal:
    """The records of a run in its folder. Those after the step that a run goes on from are cut off first.

    On local disks lines are appended; in an object store the whole is written anew now and then, by a thread. Storage
    that fails meanwhile is tried again with what came since: a checkpoint, which matters more, tells of it.
    """

    def __init__(self, run: Storage) -> None:
        self._run = run
        self._here: Path | None = None
        self._stored = 0
        self._waiting = bytearray()  # all of it, where the whole is written anew
        self._storing = threading.Lock()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, step: int) -> None:
        kept = [record for record in read_records(self._run) if record.step <= step]
        self._waiting.extend("".join(f"{record.model_dump_json()}\n" for record in kept).encode())
        self._run.write(METRICS, bytes(self._waiting))
        self._here = self._run.local_path(METRICS)
        if self._here:
            self._stored = len(self._waiting)
            self._waiting.clear()
        else:
            self._thread = threading.Thread(target=self._upload_now_and_then, name="journal", daemon=True)
            self._thread.start()

    def step(self, record: StepRecord) -> None:
        self._waiting.extend(f"{record.model_dump_json()}\n".encode())
        if self._here:
            with contextlib.suppress(StorageError):
                self.flush()

    def flush(self) -> None:
        """Store what was told so far; StorageError if that cannot be done."""
        with self._storing:
            waiting = bytes(self._waiting)
            if self._here is None:
                self._run.write(METRICS, waiting)
                return
            try:
                with self._here.open("r+b") as file:
                    file.truncate(self._stored)  # what an append that failed left
                    file.seek(self._stored)
                    file.write(waiting)
            except OSError as error:
                raise StorageError(f"cannot write {self._here}: {error.strerror}") from error
            self._stored += len(waiting)
            del self._waiting[: len(waiting)]

    def close(self) -> None:
        if self._thread:
            self._closed.set()
            self._thread.join()
            self._thread = None
        self.flush()

    def _upload_now_and_then(self) -> None:
        while not self._closed.wait(UPLOAD_SECONDS):
            with contextlib.suppress(StorageError):
                self.flush()


def read_records(run: Storage) -> list[StepRecord]:
    """The records of the run in a folder so far; a last line that is still being written is left out.

    Raises:
        StorageError: naming the file, if a whole line of it is damaged.
    """
    if not run.exists(METRICS):
        return []
    return _parse(run, run.read(METRICS))


def latest_records(run: Storage) -> list[StepRecord]:
    """The last of them, as many as fit into a few pages: enough to tell how a run is doing, whatever its length."""
    path = run.local_path(METRICS)
    if path is None:
        return read_records(run)
    if not path.is_file():
        return []
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - TAIL_BYTES))
        tail = file.read()
    return _parse(run, tail if size <= TAIL_BYTES else tail.partition(b"\n")[2])


def _parse(run: Storage, data: bytes) -> list[StepRecord]:
    # Not `splitlines`: a sample may hold line ends of Unicode, which JSON writes as they are.
    lines = data.decode(errors="replace").split("\n")[:-1]
    try:
        return [StepRecord.model_validate_json(line) for line in lines]
    except ValidationError as error:
        raise StorageError(
            f"{run.uri}/{METRICS} is damaged ({first_problem(error)}): remove it; only the charts need it"
        ) from error
