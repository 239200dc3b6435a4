"""Services that ask for keys, and clients that have them."""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.running_service import Service, running
from victorian.config import AccessConfig, EngineConfig, SamplingParameters, ServiceConfig
from victorian.service.keys import make_key

FEW = SamplingParameters(max_tokens=3)
BODY = {"prompt": "It", "max_tokens": 3}

Start = Callable[..., AbstractContextManager[Service]]


class Keys:
    """A file of three keys, and the keys."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.reader, self._reader_line = make_key("reader", ["generate"])
        self.other, other = make_key("other", ["generate"])
        self.admin, admin = make_key("operator", ["admin"])
        self._rest = [other, admin]
        self.hashes = [line.split()[2].removeprefix("sha256:") for line in (self._reader_line, *self._rest)]
        file.touch(mode=0o600)
        self.write([self._reader_line, *self._rest])

    def write(self, lines: Iterable[str]) -> None:
        self.file.write_text("\n".join(lines))

    def take_back_the_readers(self) -> None:
        self.write(self._rest)


@pytest.fixture(scope="module")
def start(toy_artifact: Path, free_port: Callable[[], int]) -> Start:
    """Begins a service of its own: `start(requests_per_minute=5)`."""

    def begin(**access: Any) -> AbstractContextManager[Service]:
        engine = EngineConfig(max_running=4, max_waiting=4)
        return running(toy_artifact, free_port(), ServiceConfig(engine=engine, access=AccessConfig(**access)))

    return begin


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys(tmp_path_factory.mktemp("keys") / "keys")


@pytest.fixture(scope="module")
def guarded(start: Start, keys: Keys) -> Iterator[Service]:
    with start(keys_file=str(keys.file)) as made:
        yield made


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def open_socket(service: Service, key: str | None = None, **options: Any) -> ClientConnection:
    return connect(service.socket_url, additional_headers=bearer(key) if key else None, **options)


def receive(socket: ClientConnection) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(socket.recv(timeout=10))
    return message


def generate(socket: ClientConnection, name: str) -> dict[str, Any]:
    """The message that ends a small generation."""
    socket.send(json.dumps({"type": "generate", "id": name, "prompt": "It", "parameters": {"max_tokens": 2}}))
    while (message := receive(socket))["type"] == "token":
        pass
    assert message["id"] == name
    return message


def turned_away(socket: ClientConnection) -> tuple[str, int]:
    """The code of the error that a socket begins with, and that of the close which follows."""
    message = receive(socket)
    assert message["type"] == "error"
    with pytest.raises(ConnectionClosed) as caught:
        socket.recv(timeout=10)
    assert caught.value.rcvd is not None
    return message["code"], caught.value.rcvd.code
