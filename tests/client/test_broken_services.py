"""Services that break off, refuse, or are not there: what has come is kept, and what has begun is not asked again."""

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI, Request, WebSocket
from fastapi.responses import JSONResponse, PlainTextResponse, RedirectResponse, StreamingResponse

from tests.running_service import soon
from victorian.client import AsyncClient, Client
from victorian.errors import OverloadedError, ReplicaLostError, RequestError, ServiceError

GREETING = {
    "type": "connected",
    "protocol": 1,
    "session": "s",
    "models": [{"id": "toy", "context": 64, "max_tokens": 100}],
    "limits": {
        "generations": 8, "message_bytes": 1000, "alternatives": 20, "deadline_seconds": 9, "idle_seconds": 9,
        "send_seconds": 9,
    },
}  # fmt: skip
COMPLETE = {
    "reason": "length",
    "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
    "seed": 1,
    "timings": {"first_token_seconds": 0.1, "seconds": 0.2, "tokens_per_second": 10},
}
ENTIRE = ("It ", "was", "complete")
"""What a service of this file says: two tokens, and the end."""
WAYS: Any = pytest.mark.parametrize("transport", ["websocket", "sse"])


class Script:
    """A service that does what it is told, one connection after the other, and what it does last from then on.

    To `wait` is to wait for a cancel.

    Args:
        more: fields that its messages have beside those of today.

    Attributes:
        asked: how many generations were asked for.
    """

    def __init__(self, *acts: tuple[str, ...], more: dict[str, Any]) -> None:
        self._acts = acts
        self._more = more
        self.asked = 0

    def act(self) -> tuple[str, ...]:
        self.asked += 1
        return self._acts[min(self.asked, len(self._acts)) - 1]

    def app(self) -> FastAPI:
        app = FastAPI()
        app.websocket("/v1/stream")(self.over_socket)
        app.post("/v1/completions")(self.over_http)
        app.post("/v1/tokenize")(self.tokenize)
        return app

    async def over_socket(self, socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_json(GREETING | self._more)
        name = (await socket.receive_json())["id"]
        for index, word in enumerate(self.act()):
            match word:
                case "complete":
                    await socket.send_json({"type": "complete", "id": name, **COMPLETE, **self._more})
                case "overloaded" | "rate_limited" | "shutting_down" | "internal_error":
                    error = {"type": "error", "code": word, "message": "no", "id": name, "retry_after_seconds": 0.05}
                    await socket.send_json(error)
                case "try again":
                    await socket.close(1013)
                    return
                case "wait":
                    if (await socket.receive())["type"] == "websocket.disconnect":
                        return
                case "died" | "silent":
                    await socket.close(1011)
                    return
                case _:
                    await socket.send_json({"type": "token", "id": name, "index": index, "text": word, **self._more})
        await socket.close(1011)

    async def over_http(self, request: Request) -> Any:
        acts = self.act()
        if acts[0] in ("overloaded", "rate_limited"):
            error = {"message": "no", "type": "rate_limit_error", "param": None, "code": acts[0]}
            return JSONResponse({"error": error}, 429, {"Retry-After": "0"})
        if acts[0] == "died":
            return PlainTextResponse("Internal Server Error", 500)
        if acts[0] == "moved":
            return RedirectResponse("https://127.0.0.1/v1/completions", 301)
        if acts[0] == "not there":
            return PlainTextResponse("Path '/v1/completions' not found.", 404)
        if acts[0] in ("shutting_down", "try again"):
            return JSONResponse({"error": {"message": "no", "type": "server_error"}}, 503)
        return StreamingResponse(events(acts, self._more), media_type="text/event-stream")

    async def tokenize(self, request: Request) -> Any:
        prompt = (await request.json())["prompt"]
        if not prompt:
            return JSONResponse({"error": {"message": "no prompt", "type": "t", "param": "prompt", **self._more}}, 400)
        return {"tokens": [ord(letter) for letter in prompt], "count": len(prompt), "max_model_len": 64, **self._more}


async def events(acts: tuple[str, ...], more: dict[str, Any]) -> Any:
    for word in acts:
        chunk: dict[str, Any] = {"id": "c", "created": 1, "model": "toy", "choices": [], **more}
        match word:
            case "complete":
                usage = COMPLETE["usage"]
                yield f"data: {json.dumps(chunk | {'choices': [{'text': '', 'finish_reason': 'length'}]})}\n\n"
                yield f"data: {json.dumps(chunk | {'usage': usage})}\n\n"
                yield "data: [DONE]\n\n"
            case "internal_error" | "shutting_down":
                error = {"message": "no", "type": "server_error", "code": word}
                yield f"data: {json.dumps({'error': error})}\n\n"
            case "silent":
                return
            case _:
                yield f"data: {json.dumps(chunk | {'choices': [{'text': word, 'finish_reason': None}]})}\n\n"


@pytest.fixture
def play(free_port: Callable[[], int]) -> Iterator[Callable[..., tuple[str, Script]]]:
    """Starts a service that follows a script; its address and the script."""
    servers: list[tuple[uvicorn.Server, threading.Thread]] = []

    def start(*acts: tuple[str, ...], **more: Any) -> tuple[str, Script]:
        script, port = Script(*acts, more=more), free_port()
        server = uvicorn.Server(uvicorn.Config(script.app(), host="127.0.0.1", port=port, log_level="warning"))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        servers.append((server, thread))
        assert soon(lambda: server.started)
        return f"http://127.0.0.1:{port}", script

    yield start
    for server, thread in servers:
        server.should_exit = True
        thread.join(timeout=10)


@WAYS
def test_a_stream_that_breaks_keeps_its_text_and_is_not_asked_again(play: Any, transport: Any) -> None:
    url, script = play(("It ", "was"), ENTIRE)
    with Client(url, transport=transport) as client:
        stream = client.stream("x")
        with pytest.raises(ReplicaLostError) as caught:
            list(stream)
    assert (caught.value.code, caught.value.text, stream.text) == ("replica_lost", "It was", "It was")
    assert stream.complete is None
    assert stream.reason is None
    assert script.asked == 1


@WAYS
def test_an_async_stream_that_breaks_keeps_its_text_too(play: Any, transport: Any) -> None:
    url, script = play(("It ", "was"), ENTIRE)

    async def ask() -> None:
        async with AsyncClient(url, transport=transport) as client:
            with pytest.raises(ReplicaLostError, match="broke before the end") as caught:
                await client.complete("x")
            assert caught.value.text == "It was"

    asyncio.run(ask())
    assert script.asked == 1


@WAYS
@pytest.mark.parametrize("refusal", ["overloaded", "rate_limited", "shutting_down", "try again"])
def test_what_was_refused_for_want_of_room_is_asked_again(play: Any, transport: Any, refusal: str) -> None:
    url, script = play((refusal,), (refusal,), ENTIRE)
    with Client(url, transport=transport) as client:
        assert client.complete("x").text == "It was"
    assert script.asked == 3


@WAYS
@pytest.mark.parametrize("end", ["died", "silent"])
def test_what_was_lost_before_anything_came_is_asked_again(play: Any, transport: Any, end: str) -> None:
    """As Serve's proxy tells of a replica that died: HTTP 500 in plain text, a socket that ends, events that end."""
    url, script = play((end,), ENTIRE)
    with Client(url, transport=transport) as client:
        assert client.complete("x").text == "It was"
    assert script.asked == 2
    url, script = play((end,))
    with Client(url, transport=transport) as client, pytest.raises(ReplicaLostError) as caught:
        client.complete("x")
    assert (caught.value.code, caught.value.text, script.asked) == ("replica_lost", "", 3)


def test_a_proxy_without_the_service_is_asked_again(play: Any) -> None:
    url, script = play(("not there",), ENTIRE)
    with Client(url, transport="sse") as client:
        assert client.complete("x").text == "It was"
    assert script.asked == 2
    url, _ = play(("not there",))
    with Client(url, transport="sse", retries=0) as client, pytest.raises(ServiceError, match="no service is at this"):
        client.complete("x")


def test_an_address_that_points_to_another_is_told_as_that(play: Any) -> None:
    url, script = play(("moved",))
    with Client(url, transport="sse") as client, pytest.raises(ServiceError, match=r"HTTP 301: .* perhaps of https"):
        client.complete("x")
    assert script.asked == 1


def test_an_async_client_asks_again_as_well(play: Any) -> None:
    url, script = play(("overloaded",), ENTIRE)

    async def ask() -> str:
        async with AsyncClient(url) as client:
            return (await client.complete("x")).text

    assert asyncio.run(ask()) == "It was"
    assert script.asked == 2


def test_a_stream_that_was_cancelled_ends_whatever_the_service_answers(play: Any) -> None:
    url, script = play(("wait", "shutting_down"), ENTIRE)
    with Client(url) as client:
        stream = client.stream("x")
        stream.cancel()
        assert list(stream) == []
    assert (stream.reason, stream.complete, script.asked) == ("cancelled", None, 1)


def test_an_async_stream_that_was_cancelled_does_too(play: Any) -> None:
    url, script = play(("wait", "shutting_down"), ENTIRE)

    async def ask() -> None:
        async with AsyncClient(url) as client:
            stream = await client.stream("x")
            await stream.cancel()
            assert [piece async for piece in stream] == []
            assert stream.reason == "cancelled"

    asyncio.run(ask())
    assert script.asked == 1


def test_a_stream_that_was_closed_is_not_asked_again(play: Any) -> None:
    url, script = play(("wait",), ENTIRE)
    with Client(url) as client:
        stream = client.stream("x")
        stream.close()
        with pytest.raises(ReplicaLostError):
            list(stream)
    assert script.asked <= 1  # it may be left before its request is read


@WAYS
def test_patience_has_an_end_and_can_be_had_without(play: Any, transport: Any) -> None:
    url, script = play(("overloaded",))
    for retries, asked in ((2, 3), (0, 4)):
        with Client(url, transport=transport, retries=retries) as client, pytest.raises(OverloadedError):
            client.complete("x")
        assert script.asked == asked


@WAYS
def test_a_failure_in_the_middle_is_not_tried_again(play: Any, transport: Any) -> None:
    url, script = play(("It ", "internal_error"), ENTIRE)
    with Client(url, transport=transport) as client:
        stream = client.stream("x")
        with pytest.raises(ServiceError) as caught:
            list(stream)
    assert (caught.value.code, stream.text, script.asked) == ("internal_error", "It ", 1)


@WAYS
def test_a_service_that_goes_away_in_the_middle_has_lost_the_answer(play: Any, transport: Any) -> None:
    url, script = play(("It ", "shutting_down"))

    async def ask() -> None:
        async with AsyncClient(url, transport=transport) as client:
            await client.complete("x")

    with Client(url, transport=transport) as client, pytest.raises(ReplicaLostError) as caught:
        client.complete("x")
    with pytest.raises(ReplicaLostError) as caught_too:
        asyncio.run(ask())
    for lost in (caught.value, caught_too.value):
        assert (lost.code, lost.text) == ("replica_lost", "It ")
        assert str(lost) == "the connection broke before the end of the text: no"
    assert script.asked == 2


@WAYS
def test_a_service_that_comes_up_meanwhile_is_reached(free_port: Any, transport: Any) -> None:
    port = free_port()
    script = Script(ENTIRE, more={})
    server = uvicorn.Server(uvicorn.Config(script.app(), host="127.0.0.1", port=port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    starting = threading.Timer(0.1, thread.start)
    starting.start()
    try:
        with Client(f"http://127.0.0.1:{port}", transport=transport, retries=5) as client:
            assert client.complete("x").text == "It was"
    finally:
        starting.join()
        server.should_exit = True
        thread.join(timeout=10)


def test_ask_prints_what_its_terminal_has_no_letters_for(play: Any) -> None:
    url, _ = play(("It was", " dark \u2014 \u201cvery\u201d", "complete"))
    done = subprocess.run(
        [sys.executable, "-m", "victorian.cli", "ask", "x", "--url", url],
        capture_output=True, timeout=60, check=False, env=os.environ | {"PYTHONIOENCODING": "latin-1"},
    )  # fmt: skip
    assert (done.stdout, done.stderr) == (b"It was dark ? ?very?\n", b"")


def test_what_breaks_an_answer_off_does_not_stand_on_its_last_line(play: Any) -> None:
    url, _ = play(("It ", "was"))
    done = subprocess.run(
        [sys.executable, "-m", "victorian.cli", "ask", "x", "--url", url], capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (2, b"It was\n")
    assert done.stderr.startswith(b"victorian: the connection broke before the end of the text")


@WAYS
def test_fields_of_a_later_service_or_of_a_gateway_are_passed_over(play: Any, transport: Any) -> None:
    url, _ = play(ENTIRE, system_fingerprint="fp", later={"a": 1})
    with Client(url, transport=transport) as client:
        assert client.complete("x").text == "It was"
        assert client.tokenize("ab").count == 2
        with pytest.raises(RequestError, match="no prompt") as caught:
            client.tokenize("")
    assert caught.value.parameter == "prompt"


def test_a_text_is_told_as_tokens(play: Any) -> None:
    url, _ = play(ENTIRE)
    with Client(url) as client:
        tokens = client.tokenize("ab")
        assert (tokens.tokens, tokens.count, tokens.max_model_len) == ([97, 98], 2, 64)
        with pytest.raises(RequestError) as caught:
            client.tokenize("")
    assert caught.value.parameter == "prompt"
