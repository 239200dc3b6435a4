"""A run in TensorBoard: curves of every step, and what the model wrote after each look at the validation loss."""

import contextlib
import tempfile
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from victorian.errors import StorageError
from victorian.storage import Storage
from victorian.training.monitors import StepRecord

FOLDER = "tensorboard"
UPLOAD_STEPS = 100
"""How often event files go to a run folder in an object store."""

CURVES = {
    "loss/training": "loss",
    "loss/validation": "validation_loss",
    "optimizer/learning_rate": "learning_rate",
    "optimizer/gradient_norm": "gradient_norm",
    "optimizer/loss_scale": "loss_scale",
    "optimizer/overflows": "overflows",
    "speed/tokens_per_second": "tokens_per_second",
    "speed/mfu": "mfu",
    "speed/data_wait": "data_wait",
    "speed/checkpoint_wait": "checkpoint_wait",
    "memory/in_use": "memory",
    "memory/peak": "memory_peak",
}
"""Names of curves, and the fields of a record that they show."""


class TensorBoard:
    """Writes event files into `tensorboard/` of a run folder. Steps that a run repeats replace the old ones."""

    def __init__(self, run: Storage) -> None:
        self._run = run
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._writer: SummaryWriter | None = None

    def begin(self, step: int) -> None:
        here = self._run.local_path(FOLDER)
        if here is None:
            self._folder = tempfile.TemporaryDirectory(prefix="victorian-events-")
            here = Path(self._folder.name)
        self._writer = SummaryWriter(str(here), purge_step=step + 1)

    def step(self, record: StepRecord) -> None:
        try:
            self._write(record)
        except OSError:  # a full disk, on which the journal and the checkpoints have more patience
            self._writer = None

    def _write(self, record: StepRecord) -> None:
        if not self._writer:
            return
        values = record.model_dump()
        for curve, field in CURVES.items():
            if values[field] is not None:
                self._writer.add_scalar(curve, values[field], record.step)
        if record.sample is not None:
            self._writer.add_text("sample", record.sample, record.step)
        if record.step % UPLOAD_STEPS == 0:
            self._upload()

    def close(self) -> None:
        if self._writer:
            with contextlib.suppress(OSError):
                self._writer.close()
            self._upload()
        if self._folder:
            self._folder.cleanup()

    def _upload(self) -> None:
        if not self._folder or not self._writer:
            return
        self._writer.flush()
        for path in Path(self._folder.name).iterdir():
            try:
                self._run.write(f"{FOLDER}/{path.name}", path.read_bytes())
            except StorageError:
                return  # the next upload has it all again; a storage that stays away ends the run by its checkpoint
