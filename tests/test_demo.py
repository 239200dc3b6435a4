"""The whole way in one command, made short; and nothing of it is left when it ends."""

import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import psutil
import pytest

from tests.running_service import soon
from victorian.corpus.sources import SAMPLE, find_books
from victorian.demo import corpus_identity, terminating_like_interrupt

pytestmark = pytest.mark.cluster

SHORT = [
    "--training.steps=3", "--training.validation-tokens=256", "--training.tokens-per-step=1024",
    "--training.sequences-per-microbatch=4",
]  # fmt: skip


@dataclass
class Demo:
    """A demo in a process group of its own, as a terminal would start it; its processes carry a mark."""

    process: subprocess.Popen[bytes]
    log: Path
    mark: str

    def processes(self) -> list[psutil.Process]:
        """Every process that it started, however far down and whoever adopted it."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("VICTORIAN_TEST") == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def says(self, text: str, seconds: float = 150) -> None:
        end = time.monotonic() + seconds
        while text not in self.log.read_text():
            assert self.process.poll() is None or text in self.log.read_text(), self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.1)


@pytest.fixture
def start(tmp_path: Path, free_port: Callable[[], int]) -> Iterator[Callable[..., Demo]]:
    started: list[Demo] = []

    def begin(*arguments: str, folder: Path) -> Demo:
        mark = uuid.uuid4().hex
        log = tmp_path / f"{mark}.log"
        command = [str(Path(sys.executable).parent / "victorian"), "demo", *SHORT, *arguments]
        with log.open("wb") as file:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env={**os.environ, "VICTORIAN_TEST": mark},
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        started.append(Demo(process, log, mark))
        return started[-1]

    yield begin
    for demo in started:
        for process in demo.processes():
            process.kill()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the demos of this module keep their results, so that later ones can reuse them."""
    return tmp_path_factory.mktemp("demo")


def test_once_streams_a_passage_and_leaves_results_but_no_process(
    start: Callable[..., Demo], free_port: Callable[[], int], folder: Path
) -> None:
    demo = start("--once", f"--port={free_port()}", folder=folder)
    demo.says("first passage")
    assert demo.process.wait(timeout=60) == 0
    text = demo.log.read_text()
    for stage in (
        "corpus: 14 books",
        "weights: pretrained, trained on ",
        "tokens: ",
        "training: 3 steps",
        "artifact: ",
        "service: http",
        "first passage",
    ):
        assert stage in text
    assert "(reused" not in text
    assert float(re.findall(r"loss (\d\.\d+)", text)[0]) < 5.5  # from nothing, three steps leave it at 9
    passage = text[text.index("The old house stood") :]
    assert len(passage) > 300
    (run,) = (folder / "runs").iterdir()
    assert (run / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert (run / "artifact" / "training.json").is_file()
    assert soon(lambda: not demo.processes(), 10), demo.processes()


def test_a_second_run_reuses_what_is_whole_and_ctrl_c_ends_everything(
    start: Callable[..., Demo], free_port: Callable[[], int], folder: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}
    port, app_port = free_port(), free_port()
    demo = start(f"--port={port}", f"--app-port={app_port}", folder=folder)
    demo.says("Ctrl-C ends both")
    reused = re.findall(r"\] (\w+): .*\(reused", demo.log.read_text())
    assert reused == ["tokens", "training", "artifact"]
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")} == before
    assert httpx2.get(f"http://127.0.0.1:{port}/ready").status_code == 200
    assert httpx2.get(f"http://127.0.0.1:{app_port}/_stcore/health").status_code == 200
    assert len(demo.processes()) > 5
    os.killpg(demo.process.pid, signal.SIGINT)
    assert demo.process.wait(timeout=60) == 0
    assert soon(lambda: not demo.processes(), 10), demo.processes()
    assert "Traceback" not in demo.log.read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_an_end_from_outside_is_an_interrupt_unless_it_was_to_be_ignored(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), terminating_like_interrupt():
        signal.raise_signal(number)
    assert signal.getsignal(number) == before
    signal.signal(number, signal.SIG_IGN)  # as nohup starts a program
    try:
        with terminating_like_interrupt():
            signal.raise_signal(number)
    finally:
        signal.signal(number, before)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.faults)])
def test_an_interrupt_while_training_ends_everything_and_leaves_no_artifact(
    start: Callable[..., Demo], free_port: Callable[[], int], tmp_path: Path, number: signal.Signals
) -> None:
    demo = start("--once", "--from-scratch", f"--port={free_port()}", "--training.steps=100000", folder=tmp_path)
    demo.says("tokens: ")
    assert soon(lambda: any(tmp_path.glob("runs/*/metrics.jsonl")), 60)
    os.killpg(demo.process.pid, number) if number == signal.SIGINT else demo.process.send_signal(number)
    assert demo.process.wait(timeout=60) == 130
    assert soon(lambda: not demo.processes(), 10), demo.processes()
    assert not list(tmp_path.glob("runs/*/artifact"))
    assert list(tmp_path.glob("runs/tiny-sample-*"))
    assert "weights:" not in demo.log.read_text()
    assert "Traceback" not in demo.log.read_text()


def test_books_that_another_version_cleaned_are_another_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    books = find_books(SAMPLE).books
    before = corpus_identity(books)
    assert corpus_identity(books) == before
    monkeypatch.setattr("victorian.demo.CLEANING_VERSION", 1)
    assert corpus_identity(books) != before
