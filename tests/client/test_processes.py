"""Both ends as processes: a replica that is killed, and Ctrl-C on a reader."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.running_service import Service, soon
from victorian.client import Client
from victorian.config import SamplingParameters
from victorian.errors import ReplicaLostError, ServiceError

LONG = SamplingParameters(max_tokens=30_000, min_tokens=30_000)

SERVE = """
import sys, threading
from pathlib import Path
from tests.running_service import running
from victorian.config import ServiceConfig

with running(Path(sys.argv[1]), int(sys.argv[2]), ServiceConfig()):
    threading.Event().wait()
"""


@pytest.fixture
def replica(toy_artifact: Path, free_port: Callable[[], int]) -> Iterator[tuple[str, int]]:
    """Address and process of a service of its own."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-c", SERVE, str(toy_artifact), str(port)])
    try:
        with Client(f"http://127.0.0.1:{port}") as client:
            assert soon(client.ready, 60)
        yield f"http://127.0.0.1:{port}", process.pid
    finally:
        process.kill()
        process.wait()


def test_a_replica_that_is_killed_leaves_what_it_has_said(replica: tuple[str, int]) -> None:
    url, pid = replica
    with Client(url) as client, Client(url, transport="sse") as other:
        streams = [client.stream("It", LONG), other.stream("It", LONG)]
        readers = [iter(stream) for stream in streams]
        begun = [next(pieces) for pieces in readers]
        os.kill(pid, signal.SIGKILL)
        for stream, pieces, first in zip(streams, readers, begun, strict=True):
            rest: list[str] = []
            with pytest.raises(ReplicaLostError) as caught:
                rest.extend(pieces)
            assert stream.text == caught.value.text
            assert stream.text.startswith(first)
            assert stream.complete is None
        with pytest.raises(ServiceError, match="no service answers"):
            client.stream("It")


def test_ctrl_c_ends_ask_and_its_generation(service: Service) -> None:
    command = [sys.executable, "-m", "victorian.cli", "ask", "It", "--url", service.url, "--max-tokens", "30000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(20)
        assert service.engine.active == 1
        process.send_signal(signal.SIGINT)
        _, complaints = process.communicate(timeout=10)
    assert process.returncode == 130
    assert complaints == b""
    assert service.idle()
