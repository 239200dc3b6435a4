"""Real Ray clusters: one inside the test process, and one that is started as an operator starts it."""

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.object_store import ObjectStore
from tests.ports import free_ports
from victorian.cluster.session import prepare_environment, session

prepare_environment()  # test modules import Ray, which reads the environment when it is imported

BIN = Path(sys.executable).parent


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """A cluster of this process, shared by every test that wants one."""
    with session():
        yield


@dataclass(frozen=True)
class Head:
    """A cluster started with `ray start --head`, and how to reach it."""

    address: str
    dashboard: str
    environment: dict[str, str]
    folder: Path
    """Where `ray start` was typed: relative paths in a Serve configuration begin there."""
    logs: Path
    """What its processes say."""
    pid: int
    """Of `ray start`, whose children all its processes are."""

    def run(self, *command: str, cwd: Path, seconds: float = 180) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(BIN / command[0]), *command[1:]],
            cwd=cwd,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )


@pytest.fixture(scope="session")
def head(object_store: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """A head node on ports and with a token and folders of its own; it ends with its own process."""
    # Unix sockets below it have a limit of 107 characters, which pytest's own folders exceed.
    folder = Path(f"/tmp/vt-{secrets.token_hex(3)}")
    token = tmp_path_factory.mktemp("token") / "auth_token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    names = (
        "port", "dashboard-port", "ray-client-server-port", "node-manager-port", "object-manager-port",
        "dashboard-agent-listen-port", "dashboard-agent-grpc-port", "metrics-export-port", "runtime-env-agent-port",
    )  # fmt: skip
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    address, dashboard = f"127.0.0.1:{ports['port']}", f"http://127.0.0.1:{ports['dashboard-port']}"
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONFAULTHANDLER": "1",  # a driver that dies of a signal says where it was
        **object_store.environment,  # as an instance's role would give every node its access
    }
    command = [
        str(BIN / "ray"), "start", "--head", "--block", "--num-cpus=4", "--node-ip-address=127.0.0.1",
        f"--temp-dir={folder}", "--object-store-memory=200000000", "--dashboard-host=127.0.0.1",
        *(f"--{name}={port}" for name, port in ports.items()),
    ]  # fmt: skip
    log = (tmp_path_factory.mktemp("head") / "log").open("w+")
    home = tmp_path_factory.mktemp("home")
    process = subprocess.Popen(command, cwd=home, env=environment, stdout=log, stderr=log, start_new_session=True)
    addresses = {"RAY_ADDRESS": address, "RAY_API_SERVER_ADDRESS": dashboard}
    made = Head(address, dashboard, environment | addresses, home, folder / "session_latest" / "logs", process.pid)
    end = time.monotonic() + 90
    while not answers(f"{dashboard}/api/jobs/", token.read_text()):  # the last part to answer
        log.seek(0)
        assert process.poll() is None, log.read()
        assert time.monotonic() < end, log.read()
        time.sleep(0.2)
    yield made
    # There is nothing to save, and an orderly end takes half a minute.
    starter = psutil.Process(process.pid)
    for one in [*starter.children(recursive=True), starter]:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    process.wait()
    shutil.rmtree(folder, ignore_errors=True)


def answers(url: str, token: str) -> bool:
    try:
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(request, timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
