"""A fault of the service's own: the log says what it was, and clients only that there was one."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest
from websockets.sync.client import connect

from tests.running_service import Service, running
from victorian.config import ServiceConfig

SECRET = "injected at a place that is nobody's business"
FAULT = "the service failed; its log says why"


@pytest.fixture
def broken(
    toy_artifact: Path, free_port: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Service, Callable[[str, str], None]]]:
    """A service, and how to have a part of its engine fail."""

    def fail(*_: object) -> None:
        raise RuntimeError(SECRET)

    with running(toy_artifact, free_port(), ServiceConfig()) as service:

        def break_part(part: str, method: str) -> None:
            monkeypatch.setattr(getattr(service.engine, part), method, fail)

        yield service, break_part


def ask(service: Service, **more: object) -> httpx2.Response:
    return httpx2.post(f"{service.url}/v1/completions", json={"prompt": "It", "max_tokens": 5, **more})


def over_socket(service: Service) -> dict[str, object]:
    with connect(f"ws{service.url.removeprefix('http')}/v1/stream") as socket:
        socket.recv(10)
        socket.send(json.dumps({"type": "generate", "id": "a"}))
        said: dict[str, object] = json.loads(socket.recv(10))
        return said


def test_a_text_that_fails_does_not_say_where(broken: tuple[Service, Callable[[str, str], None]]) -> None:
    service, break_part = broken
    break_part("_forward", "compute")
    for answer in (ask(service), ask(service, stream=True)):
        assert answer.status_code in (500, 503)
        assert answer.json()["error"]["message"] in (FAULT, "the engine has stopped: its log says why")
    said = over_socket(service)
    assert (said["type"], said["message"]) == ("error", "the engine has stopped: its log says why")


def test_a_text_that_fails_on_a_socket_does_not_say_where_either(
    broken: tuple[Service, Callable[[str, str], None]],
) -> None:
    service, break_part = broken
    break_part("_forward", "compute")
    said = over_socket(service)
    assert (said["type"], said["code"]) == ("error", "internal_error")
    assert said["message"] == FAULT
