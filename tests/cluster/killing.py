"""Runs a command on a cluster and kills a part of it with SIGKILL at a moment that is asked for."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from tests.cluster.conftest import BIN, Head
from tests.conftest import PlainWorkers
from victorian.config import DataConfig, SelectionConfig
from victorian.recipes import TINY
from victorian.storage import open_storage
from victorian.tokens.preparation import prepare_with

Kind = Literal["driver", "worker", "node"]
DATA = DataConfig(
    tokens=TINY.tokens.model_copy(update={"tokens_per_shard": 1_500_000}),
    selection=SelectionConfig(edition_similarity=None, held_out_overlap=None),
)
"""The books are made of the same paragraphs."""
FLAGS = [
    "--selection.edition-similarity", "None", "--selection.held-out-overlap", "None",
    "--tokens.tokens-per-shard", "1500000",
]  # fmt: skip
BOOKS = 6


def write_corpus(root: Path) -> Path:
    """Books of more than a unit's size each, so that there are as many units as books."""
    sample = Path(__file__).parents[2] / "victorian" / "corpus" / "sample" / "train"
    paragraphs = [p for path in sorted(sample.glob("*.txt")) for p in path.read_text().split("\n\n")]
    lines = []
    for number in range(BOOKS):
        split = "train" if number < BOOKS - 2 else ("validation", "test")[number - BOOKS]
        random.Random(number).shuffle(paragraphs)
        (root / split).mkdir(parents=True, exist_ok=True)
        (root / split / f"{number}.txt").write_text("\n\n".join(paragraphs * 6))
        lines.append(f'{number},"Title {number} by Nobody",1860,http://example.org/{number}\n')
    (root / "metadata.csv").write_text("".join(lines))
    return root


def undisturbed(corpus: str, output: str) -> dict[str, bytes]:
    """What one process makes of the corpus, without a cluster."""
    prepare_with(PlainWorkers(), corpus, output, DATA)
    return contents(output)


def contents(uri: str) -> dict[str, bytes]:
    """Every file of a data set but its report."""
    storage = open_storage(uri)
    return {name: storage.read(name) for name in storage.names() if name != "report.html"}


@dataclass(frozen=True)
class Ended:
    """A command that has come to its end, by itself or not."""

    code: int
    printed: str
    killed: bool


@contextmanager
def second_node(head: Head, cpus: int = 4) -> Iterator[psutil.Process]:
    """Another node of the cluster, as a raylet of its own on this machine."""
    command = [str(BIN / "ray"), "start", f"--address={head.address}", f"--num-cpus={cpus}"]
    command += ["--node-ip-address=127.0.0.1"]
    command += ["--block", "--object-store-memory=100000000"]
    process = subprocess.Popen(
        command, env=head.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    starter = psutil.Process(process.pid)
    try:
        end = time.monotonic() + 60
        while not (raylets := [p for p in starter.children(recursive=True) if called(p) == "raylet"]):
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.1)
        while not [p for p in raylets[0].children(recursive=True) if called(p).startswith("ray::")]:
            assert time.monotonic() < end  # its workers are up when it has joined
            time.sleep(0.1)
        yield raylets[0]
    finally:
        for one in [*starter.children(recursive=True), starter]:
            _kill(one)
        process.wait()


def prepare(
    head: Head,
    source: str,
    output: str,
    kind: Kind | None,
    moment: Callable[[], bool],
    node: psutil.Process | None = None,
) -> Ended:
    """`victorian prepare` on the cluster; when `moment` comes, a part of it is killed."""
    strike = (lambda driver: _strike(kind, driver, head, node)) if kind else None
    return run(head, ["prepare", source, "--output", output, *FLAGS], strike, moment)


def run(
    head: Head,
    arguments: list[str],
    strike: Callable[["subprocess.Popen[str]"], bool] | None = None,
    moment: Callable[[], bool] = lambda: True,
    seconds: float = 300,
) -> Ended:
    """A `victorian` command on the cluster; when `moment` comes, `strike` is called until it says that it struck."""
    command = [str(BIN / "victorian"), *arguments]
    environment = head.environment | {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=head.folder
    ) as process:
        assert process.stdout is not None
        killed = False
        end = time.monotonic() + seconds
        try:
            while process.poll() is None and strike and not killed:
                assert time.monotonic() < end
                if moment():
                    killed = strike(process)
                time.sleep(0.02)
            printed = process.stdout.read()
        except BaseException:  # a test's limit of time too: else the end of the block would wait for the process
            process.kill()
            raise
        return Ended(process.wait(), printed, killed)


def send(number: signal.Signals) -> Callable[["subprocess.Popen[str]"], bool]:
    """A strike at the command itself."""

    def strike(driver: "subprocess.Popen[str]") -> bool:
        driver.send_signal(number)
        return True

    return strike


def kill_node(node: psutil.Process) -> None:
    """End a raylet and all its workers at once."""
    for one in [node, *node.children(recursive=True)]:
        _kill(one)


def _strike(kind: Kind, driver: "subprocess.Popen[str]", head: Head, node: psutil.Process | None) -> bool:
    if kind == "driver":
        driver.send_signal(signal.SIGKILL)
        return True
    if kind == "node":
        assert node is not None
        kill_node(node)
        return True
    busy = [process for process in workers(head) if "MapBatches" in called(process)]
    if busy:
        _kill(busy[0])
    return bool(busy)


def workers(head: Head) -> list[psutil.Process]:
    """Worker processes of this cluster, the ones at work named after what they do."""
    found = []
    for process in psutil.process_iter():
        try:
            names = process.cmdline()
            token = process.environ().get("RAY_AUTH_TOKEN_PATH")
        except psutil.Error:
            continue
        if names and names[0].startswith("ray::") and token == head.environment["RAY_AUTH_TOKEN_PATH"]:
            found.append(process)
    return found


def called(process: psutil.Process) -> str:
    """What a process calls itself, which may have gone meanwhile: nothing then."""
    try:
        return (process.cmdline() or [""])[0].rpartition("/")[2]
    except psutil.Error:
        return ""


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return
