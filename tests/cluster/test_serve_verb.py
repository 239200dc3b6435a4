"""`victorian serve` from its start to its end, behind Serve's own proxy and behind HAProxy."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from tests.running_service import soon
from victorian.client import Client
from victorian.config import SamplingParameters
from victorian.errors import OverloadedError, ReplicaLostError

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

LONG = SamplingParameters(max_tokens=10_000, min_tokens=10_000, seed=3)
ENDLESS = SamplingParameters(max_tokens=32_768, min_tokens=32_768)
SHORT = {"prompt": "It", "max_tokens": 1}
WAYS: tuple[Any, ...] = ("websocket", "sse")


@dataclass
class Serving:
    """The command, in a session of its own as in a terminal."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path

    def __post_init__(self) -> None:
        assert soon(lambda: self.says("Ctrl-C ends it") or self.process.poll() is not None, 120)
        assert self.process.poll() is None, self.log.read_text()
        self.processes = psutil.Process(self.process.pid).children(recursive=True)

    def says(self, words: str) -> bool:
        return words in self.log.read_text()

    def status(self) -> int:
        return httpx2.post(f"{self.url}/v1/completions", json=SHORT, timeout=60).status_code

    def end(self, code: int) -> None:
        """It has ended with this code, and all that it began with it."""
        assert self.process.wait(timeout=60) == code, self.log.read_text()
        _, left = psutil.wait_procs(self.processes, timeout=20)
        assert not left
        assert not self.says("Traceback"), self.log.read_text()

    def kill(self) -> None:
        for process in self.processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.kill()
        self.process.wait()


@pytest.fixture
def serve(toy_artifact: Path, free_port: Callable[[], int], tmp_path: Path) -> Iterator[Callable[..., Serving]]:
    """Starts the command: `serve("--threads", "1", SOME_VARIABLE="1")`."""
    begun: list[Serving] = []

    def start(*arguments: str, **environment: str) -> Serving:
        port, log = free_port(), tmp_path / "log"
        command = [str(Path(sys.executable).parent / "victorian"), "serve", "--artifact", str(toy_artifact)]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command, f"--port={port}", *arguments],
                cwd=tmp_path,
                env=os.environ | environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        begun.append(Serving(process, f"http://127.0.0.1:{port}", log))
        return begun[-1]

    yield start
    for one in begun:
        one.kill()


@pytest.fixture
def sockets() -> Iterator[Path]:
    """For HAProxy's Unix sockets, whose paths have at most 97 characters, and Ray adds 57; pytest's are too long."""
    with tempfile.TemporaryDirectory(prefix="vt-", dir="/tmp") as folder:
        yield Path(folder)


def test_sigterm_lets_streams_end_and_refuses_new_ones(serve: Callable[..., Serving]) -> None:
    serving = serve("--drain-seconds=120")

    begun = threading.Barrier(3)

    def read(transport: Any) -> str:
        with Client(serving.url, transport=transport, retries=0) as client:
            stream = client.stream("It was", LONG)
            pieces = iter(stream)
            next(pieces)
            begun.wait(60)
            list(pieces)
            assert stream.reason == "length"
            return stream.text

    with ThreadPoolExecutor(2) as readers:
        reading = [readers.submit(read, transport) for transport in WAYS]
        begun.wait(60)
        serving.process.send_signal(signal.SIGTERM)
        assert soon(lambda: serving.status() == 503, 20)
        assert not any(one.done() for one in reading), "the streams are too short for this test"
        first, second = (one.result(timeout=120) for one in reading)
    assert first == second
    serving.end(0)
    assert serving.says("nothing new is taken")
    assert not serving.says("not finished")


def test_haproxy_streams_and_cancels_and_a_second_ctrl_c_waits_for_nobody(
    serve: Callable[..., Serving], free_port: Callable[[], int], sockets: Path
) -> None:
    metrics, statistics = free_port(), free_port()
    serving = serve(
        "--max-running=1", "--max-waiting=0", "--probe-seconds=600",
        RAY_SERVE_ENABLE_HA_PROXY="1",
        RAY_SERVE_HAPROXY_METRICS_PORT=str(metrics),
        RAY_SERVE_HAPROXY_STATS_PORT=str(statistics),
        RAY_SERVE_HAPROXY_CONFIG_FILE_LOC=str(sockets / "haproxy.cfg"),
        RAY_SERVE_HAPROXY_SOCKET_PATH=str(sockets / "admin.sock"),
        RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH=str(sockets / "metrics.sock"),
        RAY_SERVE_HAPROXY_SERVER_STATE_BASE=str(sockets),
        RAY_SERVE_HAPROXY_SERVER_STATE_FILE=str(sockets / "server-state"),
    )  # fmt: skip
    port = int(serving.url.rpartition(":")[2])
    assert listening(serving, "haproxy") == {("127.0.0.1", port), ("0.0.0.0", metrics), ("0.0.0.0", statistics)}

    for transport in WAYS:
        with Client(serving.url, transport=transport, retries=0) as client:
            stream = client.stream("It was", ENDLESS)
            pieces = iter(stream)
            assert next(pieces)  # which comes before the end
            with pytest.raises(OverloadedError):
                client.complete("It was")
            stream.close()
        assert soon(lambda: serving.status() == 200, 5), f"leaving {transport} did not end the generation"

    with Client(serving.url) as client:
        stream = client.stream("It was", ENDLESS)
        pieces = iter(stream)
        assert next(pieces)
        os.killpg(serving.process.pid, signal.SIGINT)
        assert soon(lambda: serving.says("nothing new is taken"), 20)
        assert next(pieces)
        os.killpg(serving.process.pid, signal.SIGINT)
        with pytest.raises(ReplicaLostError):
            list(pieces)
    serving.end(0)
    assert serving.says("ended at once")


def listening(serving: Serving, name: str) -> set[tuple[str, int]]:
    """Where the processes of this name wait for connections."""
    found = [
        process for process in psutil.Process(serving.process.pid).children(recursive=True) if name in process.name()
    ]
    connections = [one for process in found for one in process.net_connections("tcp")]
    return {(one.laddr.ip, one.laddr.port) for one in connections if one.status == psutil.CONN_LISTEN}
