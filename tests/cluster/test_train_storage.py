"""Runs whose storage goes away under them: an object store that stops answering, a disk that is full.

Run by `make test-faults`.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.test_train_kills import EVERY, assert_the_same, flags, reached, recipe_of
from tests.conftest import train_plainly
from tests.object_store import ObjectStore
from victorian.s3 import client_for
from victorian.storage import open_storage
from victorian.training.checkpoint import STATE
from victorian.training.saving import PAUSES

pytestmark = [pytest.mark.faults, pytest.mark.cluster, pytest.mark.timeout(900)]

RECIPE = recipe_of(training={"steps": 400})
DISK_BYTES = 8_000_000
PATIENCE = sum(PAUSES) + 180
"""Seconds in which a run must have ended after its storage went away."""


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    """A server of this test's own, as it is killed."""
    made = ObjectStore(Path(tempfile.mkdtemp(prefix="vs3-")))
    made.start()
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    client_for.cache_clear()
    yield made
    made.close()
    client_for.cache_clear()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of a few megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid():
        pytest.skip("only root may mount a disk")
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", place], check=True)
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def train(data: Path, place: str, then: Callable[[], None] | None = None) -> tuple[int, str]:
    """`victorian train` on a cluster of its own; `then` is called when two checkpoints are whole."""
    command = [str(Path(sys.executable).parent / "victorian"), "train", "--data", str(data), "--run", place]
    with subprocess.Popen(
        [*command, *flags(RECIPE)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        try:
            end = time.monotonic() + 300
            while then and not reached(open_storage(place), 2 * EVERY):
                assert process.poll() is None, process.stdout.read()
                assert time.monotonic() < end
                time.sleep(0.05)
            if then:
                then()
            printed = process.communicate(timeout=PATIENCE)[0]
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        return process.returncode, printed


def assert_the_last_checkpoint_is_named(code: int, printed: str, place: str) -> None:
    assert code == 2, printed
    found = re.search(
        r"could not be stored \(.+\); the last whole checkpoint is of step (\d+): run the same command", printed
    )
    assert found, printed
    assert open_storage(place).exists(f"ray/step-{int(found[1]):08d}/{STATE}")
    assert "Traceback" not in printed


def test_a_store_that_stops_answering(store: ObjectStore, toy_data: Path, tmp_path: Path) -> None:
    place = f"{store.bucket('runs')}/cut"
    code, printed = train(toy_data, place, store.kill)
    store.start()
    assert_the_last_checkpoint_is_named(code, printed, place)
    code, printed = train(toy_data, place)
    assert code == 0, printed
    assert_the_same(place, train_plainly(RECIPE, toy_data, tmp_path / "whole").parent)


def test_a_disk_that_fills(disk: Path, toy_data: Path, tmp_path: Path) -> None:
    place = disk / "cut"

    def fill() -> None:
        with (disk / "filler").open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                return

    code, printed = train(toy_data, str(place), fill)
    (disk / "filler").unlink()
    assert_the_last_checkpoint_is_named(code, printed, str(place))
    assert "No space left" in printed
    code, printed = train(toy_data, str(place))
    assert code == 0, printed
    assert_the_same(str(place), train_plainly(RECIPE, toy_data, tmp_path / "whole").parent)
