"""A service that is being stopped: what is under way ends, nothing new begins, and everybody is told why."""

import json
import socket as network
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.running_service import Service, running, soon
from victorian.client import Client
from victorian.config import EngineConfig, SamplingParameters, ServiceConfig
from victorian.errors import ServiceError

LONG = SamplingParameters(max_tokens=3000, min_tokens=3000, seed=5)
SHORT = {"prompt": "It", "max_tokens": 3}
WAYS: Any = pytest.mark.parametrize("transport", ["websocket", "sse"])


def messages(socket: ClientConnection) -> Iterator[str | bytes]:
    """All that comes until the socket is closed."""
    try:
        while True:
            yield socket.recv(timeout=10)
    except ConnectionClosed:
        return


def goodbye(socket: ClientConnection) -> tuple[int | None, str | None]:
    """How a socket is closed, past all that still comes."""
    list(messages(socket))
    return socket.close_code, socket.close_reason


LARGE = {"max_tokens": 2000, "min_tokens": 2000}
"""A megabyte and more, with all alternatives."""


def written_but_unread(service: Service) -> bool:
    """Whether the engine is done and an answer is not, after its event loop has done all that it could."""
    done = soon(lambda: service.engine.active == 0)
    return done and httpx2.get(f"{service.url}/health").is_success and service.models.unanswered == 1


@pytest.fixture
def stopping(toy_artifact: Path, free_port: Callable[[], int]) -> Iterator[Service]:
    with running(toy_artifact, free_port(), ServiceConfig(engine=EngineConfig(max_running=4))) as made:
        yield made


AWAY = (1001, "this process takes nothing new: connect again")


@WAYS
def test_what_is_under_way_ends_and_nothing_new_begins(stopping: Service, transport: Any) -> None:
    with Client(stopping.url, transport=transport, retries=0) as client:
        tokens = (stream := client.stream("It was", LONG)).tokens()
        assert next(tokens)
        stopping.models.drain()
        with pytest.raises(ServiceError, match="takes nothing new") as caught:
            client.complete("It was")
        assert caught.value.code == "shutting_down"
        assert stream.complete is None, "the text is too short for this test"
        assert len(list(tokens)) >= 2999
    assert stream.complete.usage.completion_tokens == 3000
    assert stopping.models.active == 0


@pytest.fixture
def narrow(stopping: Service) -> Service:
    """The kernel holds little of what its clients do not read."""
    [listening] = stopping.server.servers[0].sockets
    listening.setsockopt(network.SOL_SOCKET, network.SO_SNDBUF, 1 << 16)
    return stopping


LEAVES: Any = pytest.mark.parametrize("leaves", [False, True])


@LEAVES
@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_is_under_way_until_it_was_read_or_its_client_left(
    narrow: Service, stream: bool, leaves: bool
) -> None:
    body = {"prompt": "It", "logprobs": 20, "stream": stream} | LARGE
    with httpx2.stream("POST", f"{narrow.url}/v1/completions", json=body) as answer:
        narrow.models.drain()
        assert written_but_unread(narrow)
        if not leaves:
            assert answer.read().endswith(b"data: [DONE]\n\n" if stream else b"}")
            assert soon(lambda: narrow.models.unanswered == 0)
    assert soon(lambda: narrow.models.unanswered == 0)


@LEAVES
def test_a_generation_is_under_way_until_its_last_message_was_read_or_its_client_left(
    narrow: Service, leaves: bool
) -> None:
    with connect(narrow.socket_url, compression=None, close_timeout=0.1) as socket:
        assert json.loads(socket.recv())["type"] == "connected"
        socket.send(
            json.dumps({"type": "generate", "id": "a", "prompt": "It", "alternatives": 20, "parameters": LARGE})
        )
        assert json.loads(socket.recv())["type"] == "token"
        narrow.models.drain()
        assert written_but_unread(narrow)
        if not leaves:
            *_, end = messages(socket)
            assert json.loads(end)["type"] == "complete"
            assert narrow.models.unanswered == 0
    assert soon(lambda: narrow.models.unanswered == 0)


def test_http_is_told_in_an_error_object_and_a_load_balancer_looks_elsewhere(stopping: Service) -> None:
    stopping.models.drain()
    answer = httpx2.post(f"{stopping.url}/v1/completions", json=SHORT)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["error"]["code"] == "shutting_down"
    ready = httpx2.get(f"{stopping.url}/ready")
    assert (ready.status_code, ready.json()["error"]["code"]) == (503, "not_ready")
    assert httpx2.get(f"{stopping.url}/health").status_code == 200


def test_an_open_socket_ends_its_generation_takes_no_other_and_is_closed(stopping: Service) -> None:
    with connect(stopping.socket_url) as busy, connect(stopping.socket_url) as idle:
        assert all(json.loads(socket.recv())["type"] == "connected" for socket in (busy, idle))
        begin = {"type": "generate", "prompt": "It", "parameters": {"max_tokens": 2000, "min_tokens": 2000}}
        busy.send(json.dumps(begin | {"id": "a"}))
        assert json.loads(busy.recv())["type"] == "token"
        stopping.models.leave()
        busy.send(json.dumps(begin | {"id": "b"}))
        assert goodbye(idle) == AWAY
        ends = [message for message in map(json.loads, messages(busy)) if message["type"] != "token"]
        assert [(one["id"], one["type"], one.get("code")) for one in ends] == [
            ("b", "error", "shutting_down"),
            ("a", "complete", None),
        ]
        assert goodbye(busy) == AWAY
    with connect(stopping.socket_url) as late:
        assert json.loads(late.recv())["code"] == "shutting_down"
        assert goodbye(late) == AWAY


def test_a_process_that_others_replace_still_answers_over_http(stopping: Service) -> None:
    """Serve may send it a request that was on its way."""
    stopping.models.leave()
    assert httpx2.post(f"{stopping.url}/v1/completions", json=SHORT).status_code == 200
