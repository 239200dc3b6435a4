"""Clients who read slowly, and clients who do not read: whom the service waits for."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager

import pytest
import uvicorn
from fastapi import Response, WebSocket
from fastapi.responses import StreamingResponse
from starlette.types import Message, Scope

from tests.running_service import soon
from victorian.service.incoming import Application
from victorian.service.outbox import ABORT, PIECE_BYTES, Outbox, StalledError, within
from victorian.service.protocol import Pong

SECONDS = 30.0


class Clock(asyncio.SelectorEventLoop):
    """An event loop whose time passes when a test says so."""

    now = 0.0

    def time(self) -> float:
        return self.now

    def run(self, coming: Awaitable[None]) -> None:
        try:
            self.run_until_complete(coming)
        finally:
            self.close()


class Reader:
    """A client that takes so many seconds for each message.

    Attributes:
        taken: what it has read.
        cut_off: whether its connection was aborted.
    """

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock = clock
        self._seconds = seconds
        self.taken: list[Message] = []
        self.cut_off = False
        self.scope: Scope = {"type": "websocket", ABORT: self._abort}

    async def take(self, message: Message) -> None:
        self._clock.now += self._seconds
        for _ in range(3):  # in which the loop sees that a time is over, and tells who waits
            await asyncio.sleep(0)
        self.taken.append(message)

    def _abort(self) -> None:
        self.cut_off = True


async def opened(reader: Reader) -> WebSocket:
    async def receive() -> Message:
        return {"type": "websocket.connect"}

    made = WebSocket(reader.scope, receive, reader.take)
    await made.accept()
    return made


def body(text: bytes, *, more: bool = False) -> Message:
    return {"type": "http.response.body", "body": text, "more_body": more}


def test_who_reads_each_message_of_a_burst_in_time_is_not_cut_off() -> None:
    clock = Clock()
    reader = Reader(clock, 0.9 * SECONDS)

    async def send() -> None:
        await Outbox(await opened(reader), SECONDS).send(*[Pong()] * 5)

    clock.run(send())
    assert [one["type"] for one in reader.taken] == ["websocket.accept"] + ["websocket.send"] * 5
    assert not reader.cut_off


def test_who_leaves_one_message_unread_for_too_long_is_cut_off() -> None:
    clock = Clock()
    reader = Reader(clock, 1.1 * SECONDS)

    async def send() -> None:
        outbox = Outbox(await opened(reader), SECONDS)
        for _ in range(2):
            with pytest.raises(StalledError):
                await outbox.send(Pong(), Pong())
        assert outbox.stalled

    clock.run(send())
    assert [one["type"] for one in reader.taken] == ["websocket.accept"]
    assert reader.cut_off


@pytest.mark.parametrize("more", [True, False])
def test_who_reads_each_piece_of_an_answer_in_time_is_not_cut_off(more: bool) -> None:
    clock = Clock()
    reader = Reader(clock, 0.9 * SECONDS)
    text = bytes(range(256)) * 1000
    clock.run(within(SECONDS, reader.scope, reader.take)(body(text, more=more)))
    assert b"".join(one["body"] for one in reader.taken) == text
    assert max(len(one["body"]) for one in reader.taken) == PIECE_BYTES
    assert not reader.cut_off
    if not more:  # what waits for the text is a message without any
        assert reader.taken.pop() == body(b"")
    assert all(one["more_body"] for one in reader.taken)


def test_an_answer_that_is_one_piece_is_one_message() -> None:
    clock = Clock()
    reader = Reader(clock, 0)
    clock.run(within(SECONDS, reader.scope, reader.take)(body(b"It was")))
    assert reader.taken == [body(b"It was")]


def test_who_leaves_a_piece_unread_for_too_long_is_cut_off() -> None:
    clock = Clock()
    reader = Reader(clock, 1.1 * SECONDS)
    with pytest.raises(StalledError, match="read nothing for 30 seconds"):
        clock.run(within(SECONDS, reader.scope, reader.take)(body(bytes(100_000))))
    assert reader.cut_off


@pytest.fixture
def sent() -> list[bytes]:
    """What has been sent of an answer in parts, as far as the application knows."""
    return []


@pytest.fixture
def server(free_port: Callable[[], int], sent: list[bytes]) -> Iterator[uvicorn.Server]:
    """uvicorn, with answers that are larger than what a kernel takes, and little time to read of them."""
    app = Application()
    app.send_seconds = 0.3

    async def parts() -> AsyncIterator[bytes]:
        for _ in range(2048):
            yield bytes(16 * 1024)
            sent.append(bytes(16 * 1024))

    app.get("/whole")(lambda: Response(bytes(32 << 20)))
    app.get("/parts")(lambda: StreamingResponse(parts()))

    made = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=free_port(), log_level="warning"))
    thread = threading.Thread(target=made.run, daemon=True)
    thread.start()
    assert soon(lambda: made.started)
    yield made
    made.should_exit = True
    thread.join(timeout=10)


@contextmanager
def begun(server: uvicorn.Server, path: str) -> Iterator[None]:
    """An answer of which its client reads no more than the beginning."""
    with socket.socket() as reader:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.connect(("127.0.0.1", server.config.port))
        reader.sendall(f"GET {path} HTTP/1.1\r\nHost: here\r\n\r\n".encode())
        assert reader.recv(100).startswith(b"HTTP/1.1 200")
        yield


def test_an_answer_that_nobody_reads_does_not_stay(server: uvicorn.Server) -> None:
    with begun(server, "/whole"):
        (transport,) = [one.transport for one in server.server_state.connections]
        unread: list[int] = []

        def gone() -> bool:
            unread.append(transport.get_write_buffer_size())
            return not server.server_state.connections

        assert soon(gone)
    assert 64 * 1024 < max(unread) < 64 * 1024 + 2 * PIECE_BYTES  # uvicorn's mark, and a piece


def test_no_more_is_sent_ahead_than_tells_of_a_slow_reader(server: uvicorn.Server, sent: list[bytes]) -> None:
    """Of megabytes that a kernel takes, a reader may take long before whoever sends hears of it."""
    with begun(server, "/parts"):
        assert soon(lambda: not server.server_state.connections)
    assert 64 * 1024 <= sum(map(len, sent)) < 512 * 1024
