"""What a run is of, and whose its folder is."""

import errno
from pathlib import Path

import pytest

from tests.conftest import TOY
from victorian.errors import TrainingError
from victorian.storage import open_storage
from victorian.training.divergence import LEFT_OUT
from victorian.training.identity import LOCK, Identity, taken

OTHER = TOY.model_copy(update={"training": TOY.training.model_copy(update={"steps": 11})})


def test_a_run_that_left_a_batch_out_is_no_other_run_afterwards(tmp_path: Path) -> None:
    run = open_storage(tmp_path / "run")
    Identity(TOY, "the data", "").write(run)
    other = Identity(OTHER, "the data", "")
    other.check(run, "run")  # nothing was learnt or decided yet
    run.write(LEFT_OUT, b"[0]")
    with pytest.raises(TrainingError, match="run holds a run of another recipe"):
        other.check(run, "run")


def test_a_file_without_a_lock_keeps_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", unknown)
    (tmp_path / LOCK).touch()  # as a process that died has left it
    with taken(open_storage(tmp_path), "run"):
        pass
