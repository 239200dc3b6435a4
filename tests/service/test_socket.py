"""The WebSocket's messages, with a plain WebSocket client."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.running_service import Service


@pytest.fixture
def socket(service: Service) -> Iterator[ClientConnection]:
    with connect(service.socket_url, close_timeout=1) as made:
        made.greeting = json.loads(made.recv())  # type: ignore[attr-defined]
        yield made
    assert service.idle()


def receive(socket: ClientConnection) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(socket.recv(timeout=10))
    return message


def send(socket: ClientConnection, **message: object) -> None:
    socket.send(json.dumps(message))


def read_to_end(socket: ClientConnection, name: str) -> tuple[str, dict[str, Any]]:
    text = ""
    while True:
        message = receive(socket)
        assert message["id"] == name
        if message["type"] != "token":
            return text, message
        text += message["text"]


def test_the_greeting_tells_session_model_and_limits(socket: ClientConnection) -> None:
    greeting = socket.greeting  # type: ignore[attr-defined]
    assert greeting["type"] == "connected"
    assert greeting["protocol"] == 1
    assert greeting["session"]
    assert greeting["models"] == [{"id": "toy", "context": 64, "max_tokens": 32768}]
    assert greeting["limits"] == {
        "generations": 8, "message_bytes": 1048576, "alternatives": 20, "deadline_seconds": 600, "idle_seconds": 300,
        "send_seconds": 30,
    }  # fmt: skip


def test_a_generation_from_tokens_to_complete(socket: ClientConnection) -> None:
    send(socket, type="generate", id="a", prompt="It was", parameters={"max_tokens": 10, "seed": 4})
    indices = []
    while (message := receive(socket))["type"] == "token":
        indices.append(message["index"])
    assert indices == list(range(10))
    assert message["type"] == "complete"
    assert message["reason"] == "length"
    assert message["usage"]["completion_tokens"] == 10
    assert message["timings"]["tokens_per_second"] > 0


def test_the_text_is_that_of_http(socket: ClientConnection, service: Service) -> None:
    import httpx2

    body = {"prompt": "It was", "max_tokens": 50, "seed": 9}
    plain = httpx2.post(f"{service.url}/v1/completions", json=body).json()["choices"][0]["text"]
    send(socket, type="generate", id="a", prompt="It was", parameters={"max_tokens": 50, "seed": 9})
    assert read_to_end(socket, "a")[0] == plain


def test_several_generations_share_a_socket(socket: ClientConnection) -> None:
    for name in "abc":
        send(socket, type="generate", id=name, prompt=name, parameters={"max_tokens": 40, "seed": 1})
    ended: list[str] = []
    order: list[str] = []
    while len(ended) < 3:
        message = receive(socket)
        order.append(message["id"])
        if message["type"] == "complete":
            ended.append(message["id"])
    assert sorted(ended) == ["a", "b", "c"]
    assert len(set(order[:60])) == 3


def test_cancel_ends_one_generation_and_no_other(socket: ClientConnection) -> None:
    send(socket, type="generate", id="long", prompt="It", parameters={"max_tokens": 30_000, "min_tokens": 30_000})
    assert receive(socket)["type"] == "token"
    send(socket, type="cancel", id="nobody")
    send(socket, type="cancel", id="long")
    _, end = read_to_end(socket, "long")
    assert (end["type"], end["reason"]) == ("complete", "cancelled")
    send(socket, type="generate", id="long", prompt="It", parameters={"max_tokens": 3})
    assert read_to_end(socket, "long")[1]["reason"] == "length"


def test_a_client_that_leaves_stops_its_generations(service: Service) -> None:
    with connect(service.socket_url, close_timeout=1) as socket:
        receive(socket)
        for name in "abc":
            send(socket, type="generate", id=name, prompt="It", parameters={"max_tokens": 30_000, "min_tokens": 30_000})
        heard: set[str] = set()
        while heard != set("abc"):
            message = receive(socket)
            assert message["type"] == "token"
            heard.add(message["id"])
        assert service.engine.active == 3
    assert service.idle()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "Invalid JSON"),
        ("", "Invalid JSON"),
        ("[]", "should be an object"),
        ('"generate"', "should be an object"),
        ('{"type": "sing", "id": "a"}', "sing"),
        ('{"type": "generate"}', "id"),
        ('{"type": "generate", "id": ""}', "at least 1 character"),
        ('{"type": "generate", "id": "a", "prompt": 5}', "prompt"),
        ('{"type": "generate", "id": "a", "parameters": {"temperature": 9}}', "temperature"),
        ('{"type": "generate", "id": "a", "parameters": {"temprature": 1}}', "temprature"),
        ("\x00\x01", "Invalid JSON"),
    ],
)
def test_a_malformed_message_is_answered_and_the_socket_lives(
    socket: ClientConnection, text: str, complaint: str
) -> None:
    socket.send(text)
    message = receive(socket)
    assert (message["type"], message["code"]) == ("error", "invalid_message")
    assert complaint in message["message"]
    send(socket, type="generate", id="after", prompt="It", parameters={"max_tokens": 2})
    assert read_to_end(socket, "after")[1]["type"] == "complete"


def test_bytes_that_are_no_text_are_answered_too(socket: ClientConnection) -> None:
    socket.send(b"\xff\xfe")
    assert receive(socket)["code"] == "invalid_message"


def test_a_cancel_that_follows_at_once_is_heeded(socket: ClientConnection) -> None:
    for number in range(5):
        name = str(number)
        send(socket, type="generate", id=name, prompt="It", parameters={"max_tokens": 30_000, "min_tokens": 30_000})
        send(socket, type="cancel", id=name)
        assert read_to_end(socket, name)[1]["reason"] == "cancelled"


def test_an_id_that_is_no_text_is_refused_and_the_socket_lives(socket: ClientConnection) -> None:
    socket.send('{"type": "generate", "id": "\\ud800"}')
    message = receive(socket)
    assert message["code"] == "invalid_message"
    assert "id" not in message
    send(socket, type="generate", id="after", prompt="It", parameters={"max_tokens": 2})
    assert read_to_end(socket, "after")[1]["type"] == "complete"


def test_a_bad_message_about_a_running_generation_does_not_end_it(socket: ClientConnection) -> None:
    send(socket, type="generate", id="a", prompt="It", parameters={"max_tokens": 50})
    send(socket, type="cancel", id="a", why=1)
    messages = [receive(socket)]
    while messages[-1]["type"] != "complete":
        messages.append(receive(socket))
    assert [m.get("id") for m in messages if m["type"] == "error"] == [None]
    assert messages[-1]["reason"] == "length"


def test_an_error_names_the_generation_it_is_about(socket: ClientConnection) -> None:
    send(socket, type="generate", id="mine", prompt="word " * 200)
    message = receive(socket)
    assert (message["type"], message["code"], message["id"]) == ("error", "invalid_request", "mine")
    assert "the model sees 64" in message["message"]
    send(socket, type="generate", id="mine", prompt="It", parameters={"top_k": 500})
    assert receive(socket)["id"] == "mine"


def test_one_id_twice_and_too_many_at_once_are_refused(socket: ClientConnection) -> None:
    for number in range(8):
        send(
            socket,
            type="generate",
            id=str(number),
            prompt="It",
            parameters={"max_tokens": 30_000, "min_tokens": 30_000},
        )
    send(socket, type="generate", id="0", prompt="It")
    send(socket, type="generate", id="ninth", prompt="It")
    errors = []
    while len(errors) < 2:
        if (message := receive(socket))["type"] == "error":
            errors.append((message["code"], message.get("id")))
    assert ("invalid_request", None) in errors
    assert ("overloaded", "ninth") in errors


def test_a_message_too_large_closes_the_socket(service: Service) -> None:
    with connect(service.socket_url) as socket:
        receive(socket)
        socket.send("x" * (1 << 20) + "x")
        with pytest.raises(ConnectionClosed) as caught:
            socket.recv(timeout=10)
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 1009


def test_a_page_of_another_origin_is_kept_out(service: Service) -> None:
    with pytest.raises(InvalidStatus) as caught:
        connect(service.socket_url, origin="https://elsewhere.example")  # type: ignore[arg-type]
    assert caught.value.response.status_code == 403
    with pytest.raises(InvalidStatus) as caught:
        connect(service.socket_url, origin="http://[x")  # type: ignore[arg-type]
    assert caught.value.response.status_code == 403
    with connect(service.socket_url, origin=service.url) as socket:  # type: ignore[arg-type]
        assert receive(socket)["type"] == "connected"
