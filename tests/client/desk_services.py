"""Desks before services, and services that say what they are told to: words, an end, or something worse."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI, Request, WebSocket
from fastapi.responses import JSONResponse

from tests.running_service import soon
from victorian.client.desk.desk import Desk
from victorian.client.desk.service import Service
from victorian.config import SamplingParameters

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
    "type": "complete",
    "reason": "length",
    "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
    "seed": 1,
    "timings": {"first_token_seconds": 0.1, "seconds": 0.2, "tokens_per_second": 10},
}


class Script:
    """What a service says: words, and of these `complete`, `overloaded`, `wait` (for a cancel), `hang` and
    `break` do what they say. With None for a greeting it says nothing at all.

    Attributes:
        asked: the messages that asked for something.
        left: how many sockets were left while it hung.
    """

    def __init__(self, *words: str, greeting: dict[str, Any] | None = GREETING) -> None:
        self.words = words
        self.greeting = greeting
        self.asked: list[dict[str, Any]] = []
        self.left = 0

    def app(self) -> FastAPI:
        app = FastAPI()
        app.websocket("/v1/stream")(self.over_socket)
        app.post("/v1/tokenize")(self.tokenize)
        app.get("/ready")(self.models)
        app.get("/v1/models")(self.models)
        return app

    async def over_socket(self, socket: WebSocket) -> None:
        await socket.accept()
        if self.greeting is None:
            await self._hang(socket)
            return
        await socket.send_json(self.greeting)
        self.asked.append(await socket.receive_json())
        name = self.asked[-1]["id"]
        for index, word in enumerate(self.words):
            match word:
                case "complete":
                    await socket.send_json(COMPLETE | {"id": name})
                case "overloaded":
                    error = {"type": "error", "code": word, "message": "the queue is full", "retry_after_seconds": 30}
                    await socket.send_json(error | {"id": name})
                case "wait":
                    assert (await socket.receive_json())["type"] == "cancel"
                    await socket.send_json(COMPLETE | {"id": name, "reason": "cancelled"})
                case "hang":
                    await self._hang(socket)
                    return
                case "break":
                    break
                case _:
                    await socket.send_json({"type": "token", "id": name, "index": index, "text": word})
                    await asyncio.sleep(0.001)
        await socket.close(1011)

    async def _hang(self, socket: WebSocket) -> None:
        while (await socket.receive())["type"] != "websocket.disconnect":
            pass
        self.left += 1

    def models(self) -> Any:
        return {"object": "list", "data": [{"id": "toy", "created": 1}]}

    async def tokenize(self, request: Request) -> Any:
        prompt = (await request.json())["prompt"]
        body = {"tokens": [ord(letter) for letter in prompt], "count": len(prompt), "max_model_len": 64}
        return JSONResponse(body)


@contextmanager
def playing(script: Script, port: int) -> Iterator[str]:
    """A service that follows a script, for as long as the block; its address."""
    server = uvicorn.Server(
        uvicorn.Config(script.app(), host="127.0.0.1", port=port, log_level="warning", lifespan="off")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    assert soon(lambda: server.started)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = server.force_exit = True
        thread.join(timeout=10)


Play = Callable[..., tuple[str, Script]]


@pytest.fixture
def play(free_port: Callable[[], int]) -> Iterator[Play]:
    """Starts a service that follows a script; its address and the script."""
    with ExitStack() as open:

        def start(*words: str, **other: object) -> tuple[str, Script]:
            script = Script(*words, **other)  # type: ignore[arg-type]
            return open.enter_context(playing(script, free_port())), script

        yield start


FEW = SamplingParameters(max_tokens=12, seed=5)
LONG = SamplingParameters(max_tokens=30_000, min_tokens=30_000)


def desk_at(url: str, text: str = "It was", sampling: SamplingParameters = FEW, key: str | None = None) -> Desk:
    desk = Desk()
    desk.service = Service(url=url, key=key)
    desk.sampling = sampling
    if text:
        desk.edit(text)
    return desk


def over(desk: Desk) -> bool:
    """Whether what is being written comes to its end, with somebody looking."""

    def ended() -> bool:
        desk.look()
        return desk.job is None

    return soon(ended, 20)
