"""The record of a run: one JSON object a line, a line a step, for whoever wants to watch or draw it."""

import os
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from victorian.config import Section, first_problem
from victorian.errors import StorageError

METRICS = "metrics.jsonl"


class StepRecord(Section):
    """What is known after one optimizer step."""

    kind: Literal["step"] = "step"
    step: int
    """Steps taken, this one included."""
    tokens: int
    """Training tokens seen."""
    loss: float
    """Mean over the step's tokens, nats a token."""
    validation_loss: float | None = None
    """Where this step was followed by a look at it, nats a token."""
    learning_rate: float
    gradient_norm: float | None
    """Before clipping; None where it overflowed and the step was skipped."""
    seconds: float
    """Seconds of training since the run began, over all its restarts."""
    tokens_per_second: float
    """Of this step, forward, backward and optimizer, over all workers."""
    data_wait: float
    """Seconds that this step waited for its batch, on the worker of rank 0."""
    outside: float
    """Share of the wall time so far that was not spent in forward, backward and optimizer."""
    spent: float
    """Share of the budget that is spent, 0 to 1."""


class JsonLines:
    """Appends records to a file. Records after the step that a run resumes from are cut off first."""

    def __init__(self, path: Path, resumed_at: int) -> None:
        self.path = path
        kept = [record for record in read_records(path) if record.step <= resumed_at]
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".writing-{path.name}")
            temporary.write_text("".join(f"{record.model_dump_json()}\n" for record in kept))
            os.replace(temporary, path)
            self._file = path.open("a", buffering=1)
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error.strerror}") from error

    def write(self, record: StepRecord) -> None:
        self._file.write(record.model_dump_json() + "\n")

    def close(self) -> None:
        self._file.close()


def read_records(path: Path) -> list[StepRecord]:
    """The records of a run so far; a last line that is still being written is left out.

    Raises:
        StorageError: naming the file, if a whole line of it is damaged.
    """
    if not path.is_file():
        return []
    lines = path.read_text(errors="replace").splitlines(keepends=True)
    try:
        return [StepRecord.model_validate_json(line) for line in lines if line.endswith("\n")]
    except ValidationError as error:
        raise StorageError(f"{path} is damaged ({first_problem(error)}): remove it; only the chart needs it") from error
