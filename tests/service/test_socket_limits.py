"""What one socket may take, and how it is told that it is over."""

import json
import socket as network
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

import pytest
from starlette.testclient import TestClient
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.running_service import Service, running, soon
from victorian.config import EngineConfig, ModelsConfig, ModelSource, ServiceConfig, SocketConfig
from victorian.service.ingress import create_app
from victorian.service.models import Models

IDLE_SECONDS, SEND_SECONDS = 0.4, 0.5
STRICT = ServiceConfig(
    engine=EngineConfig(max_running=4, max_waiting=4),
    socket=SocketConfig(idle_seconds=IDLE_SECONDS, send_seconds=SEND_SECONDS, generations=2, message_bytes=2048),
    deadline_seconds=5,
)
LONG = {"max_tokens": 30_000, "min_tokens": 30_000}


@pytest.fixture(scope="module")
def strict(toy_artifact: Path, free_port: Callable[[], int]) -> Iterator[Service]:
    with running(toy_artifact, free_port(), STRICT) as made:
        yield made


@pytest.fixture
def passing(toy_artifact: Path, free_port: Callable[[], int]) -> Iterator[Service]:
    """A service whose models the test takes away."""
    with running(toy_artifact, free_port(), ServiceConfig(engine=EngineConfig(max_running=4))) as made:
        yield made


def say(socket: ClientConnection, **message: object) -> None:
    socket.send(json.dumps(message))


def hear(socket: ClientConnection, seconds: float = 10) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(socket.recv(timeout=seconds))
    return message


def read_to_goodbye(socket: ClientConnection) -> tuple[int, str]:
    """Code and reason that the service closes with."""

    def read_on() -> None:
        while True:
            socket.recv(timeout=10)

    with pytest.raises(ConnectionClosed) as caught:
        read_on()
    assert caught.value.rcvd is not None
    return int(caught.value.rcvd.code), caught.value.rcvd.reason


def read_to_end(socket: ClientConnection, name: str) -> dict[str, Any]:
    while (message := hear(socket)).get("id") != name or message["type"] == "token":
        continue
    return message


def test_the_greeting_tells_the_limits_that_hold(strict: Service) -> None:
    with connect(strict.socket_url) as socket:
        limits = hear(socket)["limits"]
    assert (limits["generations"], limits["message_bytes"], limits["deadline_seconds"]) == (2, 2048, 5)
    assert (limits["idle_seconds"], limits["send_seconds"]) == (IDLE_SECONDS, SEND_SECONDS)


def test_a_ping_is_answered(strict: Service) -> None:
    with connect(strict.socket_url) as socket:
        hear(socket)
        say(socket, type="ping")
        assert hear(socket) == {"type": "pong"}


def test_an_idle_socket_is_closed_and_told_why(strict: Service) -> None:
    with connect(strict.socket_url) as socket:
        hear(socket)
        began = monotonic()
        assert read_to_goodbye(socket) == (1000, "idle for 0.4 seconds")
        assert IDLE_SECONDS * 0.9 < monotonic() - began < IDLE_SECONDS + 8


def test_neither_generating_nor_speaking_is_idle(strict: Service) -> None:
    with connect(strict.socket_url) as socket:
        hear(socket)
        say(socket, type="generate", id="a", prompt="It", parameters=LONG)
        end = monotonic() + 2 * IDLE_SECONDS
        while monotonic() < end:
            assert hear(socket)["type"] == "token"
        say(socket, type="cancel", id="a")
        assert read_to_end(socket, "a")["reason"] == "cancelled"
        end = monotonic() + 2 * IDLE_SECONDS
        while monotonic() < end:
            say(socket, type="ping")
            assert hear(socket)["type"] == "pong"
            with pytest.raises(TimeoutError):
                socket.recv(timeout=IDLE_SECONDS / 4)
        assert read_to_goodbye(socket)[0] == 1000


def test_a_message_above_the_limit_closes_the_socket(strict: Service) -> None:
    with connect(strict.socket_url) as socket:
        hear(socket)
        socket.send("x" * 2049)
        assert read_to_goodbye(socket) == (1009, "a message has 2049 bytes, at most 2048 are read")


def test_one_generation_too_many_is_refused_and_told_when_to_come_back(strict: Service) -> None:
    with connect(strict.socket_url, close_timeout=0.1) as socket:
        hear(socket)
        for name in "abc":
            say(socket, type="generate", id=name, prompt="It", parameters=LONG)
        refusal = read_to_end(socket, "c")
    assert (refusal["code"], refusal["retry_after_seconds"]) == ("overloaded", 1.0)
    assert strict.idle()


def test_a_generation_that_takes_too_long_is_told_so(strict: Service) -> None:
    with connect(strict.socket_url) as socket:
        hear(socket)
        say(socket, type="generate", id="a", prompt="It", parameters=LONG, deadline_seconds=0.2)
        error = read_to_end(socket, "a")
        assert (error["type"], error["code"]) == ("error", "deadline_exceeded")
        say(socket, type="generate", id="a", prompt="It", parameters={"max_tokens": 2})
        assert read_to_end(socket, "a")["type"] == "complete"


@pytest.mark.parametrize(
    ("change", "code", "param"),
    [
        ({"model": "gpt-5"}, "model_not_found", "model"),
        ({"prompt": [999]}, "invalid_request", "prompt"),
        ({"prompt": 5}, "invalid_message", "prompt"),
        ({"prompt": [44, -1]}, "invalid_message", "prompt.1"),
        ({"parameters": {"keep_tokens": 60}}, "invalid_request", "keep_tokens"),
        ({"parameters": {"top_k": 500}}, "invalid_message", "parameters.top_k"),
        ({"alternatives": 21}, "invalid_message", "alternatives"),
        ({"deadline_seconds": 0}, "invalid_message", "deadline_seconds"),
    ],
)
def test_an_error_names_its_code_and_the_field_at_fault(
    strict: Service, change: dict[str, object], code: str, param: str
) -> None:
    with connect(strict.socket_url) as socket:
        hear(socket)
        say(socket, **({"type": "generate", "id": "a", "prompt": "It"} | change))
        error = hear(socket)
    assert (error["type"], error["code"], error["id"], error.get("param")) == ("error", code, "a", param)


def test_a_client_that_does_not_read_is_cut_off_and_the_others_go_on(strict: Service) -> None:
    address = urlsplit(strict.url)
    assert soon(lambda: strict.connections == 0)
    raw = network.socket()
    raw.setsockopt(network.SOL_SOCKET, network.SO_RCVBUF, 4096)
    raw.connect((address.hostname, address.port))
    with connect(strict.socket_url, sock=raw, max_queue=1, compression=None, close_timeout=0.1) as stalled:
        hear(stalled)
        (transport,) = [one.transport for one in strict.server.server_state.connections]
        for name in "ab":
            say(stalled, type="generate", id=name, prompt="It", parameters=LONG, alternatives=20)
        with connect(strict.socket_url) as other:
            hear(other)
            say(other, type="generate", id="mine", prompt="It", parameters=LONG)
            most = 0
            while strict.connections == 2:
                most = max(most, transport.get_write_buffer_size())
                assert hear(other)["type"] == "token"
            assert soon(lambda: strict.engine.active == 1)
            say(other, type="cancel", id="mine")
            assert read_to_end(other, "mine")["reason"] == "cancelled"
    assert 64 * 1024 < most < 80 * 1024  # uvicorn's mark, and a message more for each generation
    assert strict.idle()


def test_where_models_change_sockets_close_once_their_generations_have_ended(
    passing: Service, toy_artifact: Path
) -> None:
    with connect(passing.socket_url) as idle, connect(passing.socket_url) as busy:
        hear(idle)
        hear(busy)
        say(busy, type="generate", id="a", prompt="It", parameters=LONG)
        assert hear(busy)["type"] == "token"
        renamed = ModelsConfig(models=(ModelSource(artifact=str(toy_artifact), name="other"),))
        passing.models.load(renamed, EngineConfig(max_running=1))
        assert read_to_goodbye(idle) == (1001, "what is served has changed: connect again")
        say(busy, type="generate", id="b", model="toy", prompt="It")
        assert read_to_end(busy, "b")["code"] == "model_not_found"
        say(busy, type="cancel", id="a")
        assert read_to_end(busy, "a")["reason"] == "cancelled"
        assert read_to_goodbye(busy)[0] == 1001
    with connect(passing.socket_url) as socket:
        assert [one["id"] for one in hear(socket)["models"]] == ["other"]
        say(socket, type="generate", id="a", prompt="It", parameters=LONG)
        assert hear(socket)["type"] == "token"
        passing.models.close()
        error = read_to_end(socket, "a")
        assert (error["type"], error["code"]) == ("error", "shutting_down")
        assert read_to_goodbye(socket)[0] == 1001


def test_before_a_model_is_loaded_a_client_is_told_to_come_back() -> None:
    with TestClient(create_app(Models(), STRICT)).websocket_connect("/v1/stream") as socket:
        error = socket.receive_json()
        assert (error["code"], error["retry_after_seconds"]) == ("overloaded", 1.0)
        assert socket.receive()["code"] == 1013


def test_a_reader_of_events_who_stalls_is_cut_off_too(strict: Service) -> None:
    place = urlsplit(strict.url)
    body = json.dumps({"prompt": "It", "stream": True, "min_tokens": 30_000, "logprobs": 20} | LONG)
    with network.socket() as reader:
        reader.setsockopt(network.SOL_SOCKET, network.SO_RCVBUF, 4096)
        reader.connect((place.hostname, place.port))
        head = "POST /v1/completions HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\n"
        reader.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        assert reader.recv(100).startswith(b"HTTP/1.1 200")
        assert soon(lambda: not strict.connections, seconds=20)
    assert strict.idle()
