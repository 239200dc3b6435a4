"""A client that leaves costs no more than two tokens, whichever way it came and whichever way it goes."""

import asyncio
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, aclosing
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest
from websockets.sync.client import connect

from tests.running_service import Service, running, soon
from victorian.client import AsyncClient, Client
from victorian.config import EngineConfig, SamplingParameters, ServiceConfig
from victorian.engine.engine import Engine
from victorian.engine.request import Deliver, Event, Request, TokenEvent

PACE_SECONDS = 0.06
LONG = SamplingParameters(max_tokens=30_000, min_tokens=30_000)
BODY = {"prompt": "It", "max_tokens": 30_000, "min_tokens": 30_000}


class PacedEngine(Engine):
    """An engine as slow as one with a real model, which counts its tokens."""

    generated = 0

    def submit_all(self, requests: Sequence[tuple[Request, Deliver]]) -> None:
        def counted(deliver: Deliver, event: Event) -> None:
            self.generated += isinstance(event, TokenEvent)
            deliver(event)

        super().submit_all([(request, partial(counted, deliver)) for request, deliver in requests])

    def step(self) -> None:
        time.sleep(PACE_SECONDS)
        super().step()


Leave = Callable[[], object]
Begin = Callable[[Service, Callable[[], bool]], Leave]
"""Begins a generation, waits until it is under way, and returns the way out."""


@pytest.fixture(scope="module")
def paced(toy_artifact: Path, free_port: Callable[[], int]) -> Iterator[Service]:
    with running(
        toy_artifact, free_port(), ServiceConfig(engine=EngineConfig(max_running=4)), engine_type=PacedEngine
    ) as made:
        yield made


def over_socket(leave: str) -> Begin:
    def begin(service: Service, under_way: Callable[[], bool]) -> Leave:
        client = ExitStack().enter_context(connect(service.socket_url, close_timeout=0))
        client.recv()
        client.send(
            json.dumps(
                {
                    "type": "generate",
                    "id": "a",
                    "prompt": "It",
                    "parameters": {"max_tokens": 30_000, "min_tokens": 30_000},
                }
            )
        )
        assert under_way()
        match leave:
            case "cancel":
                return lambda: client.send('{"type": "cancel", "id": "a"}')
            case "goodbye":
                return client.close
            case "no goodbye":
                return lambda: client.socket.shutdown(socket.SHUT_RDWR)
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return lambda: (client.socket.shutdown(socket.SHUT_RD), client.socket.close())

    return begin


def over_http(body: dict[str, object]) -> Begin:
    def begin(service: Service, under_way: Callable[[], bool]) -> Leave:
        address = urlsplit(service.url)
        connection = socket.create_connection((address.hostname, address.port))
        data = json.dumps(body).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: application/json\r\n"
        connection.sendall(head.encode() + f"Content-Length: {len(data)}\r\n\r\n".encode() + data)
        assert under_way()
        return connection.close

    return begin


def with_client(transport: str, leave: str) -> Begin:
    def begin(service: Service, under_way: Callable[[], bool]) -> Leave:
        client = Client(service.url, transport=transport)  # type: ignore[arg-type]
        stream = client.stream("It", LONG)
        pieces = iter(stream)
        next(pieces)
        assert under_way()
        if leave == "cancel":
            return lambda: (stream.cancel(), list(pieces))
        return pieces.close if leave == "iteration" else client.close  # type: ignore[attr-defined]

    return begin


def with_async_client(transport: str) -> Begin:
    """Its task is cancelled, as a web framework does when whoever it works for has left."""

    def begin(service: Service, under_way: Callable[[], bool]) -> Leave:
        async def read(client: AsyncClient) -> None:
            async for _ in await client.stream("It", LONG):
                pass

        async def start() -> tuple[AsyncClient, "asyncio.Task[None]"]:
            client = AsyncClient(service.url, transport=transport)  # type: ignore[arg-type]
            task = asyncio.create_task(read(client))
            assert await asyncio.to_thread(under_way)
            return client, task

        async def leave(client: AsyncClient, task: "asyncio.Task[None]") -> None:
            async with aclosing(client):
                task.cancel()
                await asyncio.wait([task])

        runner = asyncio.Runner()
        client, task = runner.run(start())
        return lambda: (runner.run(leave(client, task)), runner.close())

    return begin


def killed(service: Service, under_way: Callable[[], bool]) -> Leave:
    command = [sys.executable, "-m", "victorian.cli", "ask", "It", "--url", service.url, "--max-tokens", "30000"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    assert under_way()
    return lambda: (os.kill(process.pid, signal.SIGKILL), process.wait())


@pytest.mark.parametrize(
    "begin",
    [
        pytest.param(over_socket("cancel"), id="socket: cancel"),
        pytest.param(over_socket("goodbye"), id="socket: goodbye"),
        pytest.param(over_socket("no goodbye"), id="socket: no goodbye"),
        pytest.param(over_socket("reset"), id="socket: reset"),
        pytest.param(over_http(BODY | {"stream": True}), id="events"),
        pytest.param(over_http(BODY), id="plain"),
        *(
            pytest.param(with_client(transport, leave), id=f"client, {transport}: {leave}")
            for transport in ("websocket", "sse")
            for leave in ("iteration", "close", "cancel")
        ),
        *(
            pytest.param(with_async_client(transport), id=f"async client, {transport}")
            for transport in ("websocket", "sse")
        ),
        pytest.param(killed, id="process killed"),
    ],
)
def test_two_tokens_at_most_are_generated_after_a_client_has_left(paced: Service, begin: Begin) -> None:
    engine = paced.engine
    assert isinstance(engine, PacedEngine)
    before = engine.generated
    leave = begin(paced, lambda: soon(lambda: engine.generated >= before + 2, 20))
    left_at = engine.generated
    leave()
    assert paced.idle()
    assert engine.generated - left_at <= 2


def test_a_client_that_stays_gets_every_token(paced: Service) -> None:
    body = {"prompt": "It", "max_tokens": 5}
    answer = httpx2.post(f"{paced.url}/v1/completions", json=body, timeout=20).json()
    assert answer["usage"]["completion_tokens"] == 5
