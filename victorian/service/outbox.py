"""What is on its way to a client, who may not read it: messages of a WebSocket, and answers over HTTP.

A server below holds a bounded number of bytes for a client, and then lets whoever sends wait. One that waits for too
long has a client who is gone or does not mean well: the connection is aborted, because a goodbye would wait as well.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from socket import IPPROTO_TCP, TCP_NOTSENT_LOWAT
from typing import Any

from fastapi import WebSocket, WebSocketDisconnect
from starlette.types import Message, Scope, Send

from victorian.config import Section
from victorian.service.protocol import CloseCode

ABORT = "victorian.abort"

PIECE_BYTES = 32 * 1024
"""Of an answer over HTTP, sent at once: each piece has its own time, so that who reads slowly is not cut off."""


class StalledError(Exception):
    """A client has not read for as long as that is borne."""


class Outbox:
    """The way to a client.

    Attributes:
        stalled: whether the client was cut off because it did not read.
    """

    def __init__(self, socket: WebSocket, seconds: float) -> None:
        self._socket = socket
        self._seconds = seconds
        self._turn = asyncio.Lock()
        self.stalled = False

    async def send(self, *messages: Section) -> None:
        """Hand messages over to the server below.

        Raises:
            StalledError: if the client does not read.
            WebSocketDisconnect: if it has gone.
        """
        for one in messages:  # each has its own time, so that who reads slowly is not cut off
            await self._within_limit(self._socket.send_text, one.model_dump_json(exclude_none=True))

    async def close(self, code: CloseCode, reason: str) -> None:
        """Say goodbye, to a client that may have gone already or does not read."""
        try:
            await self._within_limit(self._socket.close, int(code), reason)
        except (StalledError, WebSocketDisconnect):
            return

    async def _within_limit(self, send: Callable[..., Any], *arguments: object) -> None:
        async with self._turn:  # so that the time of one is not that of those that wait behind it
            if self.stalled:
                raise StalledError
            try:
                async with asyncio.timeout(self._seconds):
                    await send(*arguments)
            except TimeoutError as error:
                self.stalled = True
                self._socket.scope.get(ABORT, lambda: None)()
                raise StalledError from error
            except RuntimeError as error:  # what Starlette and Serve say of a socket that is closed
                raise WebSocketDisconnect from error


def within(seconds: float, scope: Scope, send: Send) -> Send:
    """The server's own `send`, in pieces, which aborts the connection of a client that takes none for so long."""

    async def sending(message: Message) -> None:
        for piece in _pieces(message):
            try:
                async with asyncio.timeout(seconds):
                    await send(piece)
            except TimeoutError as error:
                scope.get(ABORT, lambda: None)()
                raise StalledError(f"a client read nothing for {seconds:g} seconds") from error

    return sending


def _pieces(message: Message) -> Iterator[Message]:
    """The same in messages that are not large.

    uvicorn lets each wait for those before it, and nothing for the last: so that is an empty one.
    """
    body = message.get("body", b"")
    if len(body) <= PIECE_BYTES:
        yield message
        return
    for start in range(0, len(body), PIECE_BYTES):
        yield {**message, "body": body[start : start + PIECE_BYTES], "more_body": True}
    if not message.get("more_body", False):
        yield {**message, "body": b""}


def let_abort(scope: Scope, send: Send) -> None:
    """Put the way to abort a connection into its scope, for whoever is called with the server's own `send`.

    ASGI has none. uvicorn's `send` is a method of the protocol that owns the transport; under another server, as in a
    replica behind Serve's proxy, there is nothing to be found and a stalled connection is left to that server.

    The kernel is told to take little ahead. Of the megabytes that it else takes, a third must be gone before whoever
    sends hears of it, which a slow client may need longer for than it is given.
    """
    transport: Any = getattr(getattr(send, "__self__", None), "transport", None)
    if callable(abort := getattr(transport, "abort", None)):
        scope[ABORT] = abort
        if connection := transport.get_extra_info("socket"):
            with contextlib.suppress(OSError):  # it is gone, or is no TCP
                connection.setsockopt(IPPROTO_TCP, TCP_NOTSENT_LOWAT, PIECE_BYTES)
