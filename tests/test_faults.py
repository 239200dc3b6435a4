"""Kill matrices: whole commands ended by SIGKILL at random moments, and run again. Run by `make test-faults`."""

import os
import random
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import psutil
import pytest
import safetensors.torch
import torch

from tests.running_service import soon
from victorian.storage import open_storage
from victorian.training.monitors import read_records

pytestmark = pytest.mark.faults

VICTORIAN = str(Path(sys.executable).parent / "victorian")
RUN = [
    "--training.steps=60", "--training.tokens-per-step=1024", "--training.sequences-per-microbatch=4",
    "--training.validation-tokens=256", "--training.checkpoint-every-steps=7", "--training.precision-cpu=fp32",
    "--model.dropout=0.1",
]  # fmt: skip


def marked(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("VICTORIAN_TEST") == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def run(arguments: list[str], folder: Path, kill_after: float | None = None) -> int:
    """A command to its end, or its driver killed after some seconds; then everything that it started is gone too."""
    mark = uuid.uuid4().hex
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            [VICTORIAN, *arguments], cwd=folder, env={**os.environ, "VICTORIAN_TEST": mark}, stdout=log, stderr=log
        )
    try:
        code = process.wait(timeout=kill_after)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        code = process.wait()
    assert soon(lambda: not marked(mark), 30), marked(mark)
    return code


@pytest.mark.timeout(1800)
def test_training_killed_at_random_moments_ends_with_the_bits_of_a_run_that_was_not(tmp_path: Path) -> None:
    assert run(["prepare", "sample", "--output", "data"], tmp_path) == 0
    whole = ["train", "--data", "data", "--run", "whole", *RUN]
    began = time.monotonic()
    assert run(whole, tmp_path) == 0, (tmp_path / "log").read_text()[-3000:]
    length = time.monotonic() - began
    dice = random.Random(1871)
    for attempt in range(3):
        cut = ["train", "--data", "data", "--run", f"cut-{attempt}", *RUN]
        kills = 0
        while run(cut, tmp_path, kill_after=dice.uniform(0.3, 0.9) * length if kills < 3 else None) != 0:
            kills += 1
            assert kills <= 3, (tmp_path / "log").read_text()[-3000:]
        assert kills, "no moment was early enough"
        folders = tmp_path / "whole", tmp_path / f"cut-{attempt}"
        losses = [[(r.step, r.loss, r.validation_loss) for r in read_records(open_storage(f))] for f in folders]
        assert losses[0] == losses[1]
        first, second = (safetensors.torch.load_file(f / "artifact" / "model.safetensors") for f in folders)
        assert all(torch.equal(first[name], second[name]) for name in first)
