"""The ways to a service: WebSocket and server-sent events, each for callers with and without an event loop.

A transport is open when it is made. It gives messages and raises what is in victorian.errors; what they mean is not
its business.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from typing import Any, Protocol

import httpx2
import websockets.asyncio.client
import websockets.sync.client
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from victorian.client.events import Events
from victorian.client.failures import told_over_http, told_over_socket, unanswered, unreachable
from victorian.client.generation import Generation
from victorian.errors import RequestError, ServiceError, VictorianError
from victorian.service.protocol import CloseCode, ErrorMessage, ServerMessage

OPEN_SECONDS = 10.0
"""How long a connection may take, and then its greeting: nobody can cancel before that has come."""
CLOSE_SECONDS = 1.0
"""A service that is still sending hears of a close only when its messages are read: do not wait for its goodbye."""


class Transport(Protocol):
    """One generation's way, for callers that wait."""

    def receive(self, seconds: float) -> ServerMessage | None:
        """The next message, or None for nothing; TimeoutError if none comes in time."""

    def cancel(self) -> bool:
        """Ask for an early end; whether the service will tell of it. Can be called from any thread."""

    def close(self) -> None:
        """Leave; the service stops generating."""


class AsyncTransport(Protocol):
    """The same for callers with an event loop."""

    async def receive(self, seconds: float) -> ServerMessage | None: ...

    async def cancel(self) -> bool: ...

    async def close(self) -> None: ...


# WebSocket.


class Connection(websockets.sync.client.ClientConnection):
    """One that reads nothing before its request has been written.

    Over TLS 1.3 a server sends session tickets right after the handshake. OpenSSL must not be called by two threads at
    once: where one reads these while the other writes the request, one time in two hundred the request is never sent.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._written = threading.Event()
        super().__init__(*arguments, **options)

    def send_data(self) -> None:
        super().send_data()
        self._written.set()

    def recv_events(self) -> None:
        self._written.wait()
        super().recv_events()

    def close_socket(self) -> None:
        self._written.set()
        super().close_socket()


class SocketTransport:
    """A WebSocket of its own for a generation, so that leaving it ends the generation whatever happens."""

    def __init__(self, url: str, headers: dict[str, str], generation: Generation, direct: bool) -> None:
        self._generation = generation
        generation.connected = None
        self._open = ExitStack()
        try:
            # Prompts and texts are small; compressing a message a token costs more than it saves.
            connecting = websockets.sync.client.connect(
                url,
                additional_headers=headers,
                open_timeout=OPEN_SECONDS,
                close_timeout=CLOSE_SECONDS,
                compression=None,
                proxy=None if direct else True,
                create_connection=Connection,
            )
            self._socket = self._open.enter_context(connecting)
        except (OSError, ValueError, WebSocketException) as error:
            raise _unopened(url, error) from error
        try:
            with _in_words(generation):
                generation.greet(generation.read(self._socket.recv(_greeting_seconds(generation))))
                self._socket.send(generation.request.model_dump_json(exclude_none=True))
        except BaseException:
            self.close()
            raise

    def receive(self, seconds: float) -> ServerMessage:
        with _in_words(self._generation):
            return self._generation.read(self._socket.recv(seconds))

    def cancel(self) -> bool:
        try:
            self._socket.send(self._generation.cancellation.model_dump_json())
        except ConnectionClosed:
            return False
        return True

    def close(self) -> None:
        self._open.close()


class AsyncSocketTransport:
    """The same for callers with an event loop; made by `open`."""

    def __init__(self, socket: websockets.asyncio.client.ClientConnection, generation: Generation) -> None:
        self._socket = socket
        self._generation = generation

    @classmethod
    async def open(
        cls, url: str, headers: dict[str, str], generation: Generation, direct: bool
    ) -> "AsyncSocketTransport":
        generation.connected = None
        try:
            socket = await websockets.asyncio.client.connect(
                url,
                additional_headers=headers,
                open_timeout=OPEN_SECONDS,
                close_timeout=CLOSE_SECONDS,
                compression=None,
                proxy=None if direct else True,
            )
        except (OSError, ValueError, WebSocketException) as error:
            raise _unopened(url, error) from error
        try:
            with _in_words(generation):
                async with asyncio.timeout(_greeting_seconds(generation)):
                    generation.greet(generation.read(await socket.recv()))
                await socket.send(generation.request.model_dump_json(exclude_none=True))
        except BaseException:
            await socket.close()
            raise
        return cls(socket, generation)

    async def receive(self, seconds: float) -> ServerMessage:
        with _in_words(self._generation):
            async with asyncio.timeout(seconds):
                return self._generation.read(await self._socket.recv())

    async def cancel(self) -> bool:
        try:
            await self._socket.send(self._generation.cancellation.model_dump_json())
        except ConnectionClosed:
            return False
        return True

    async def close(self) -> None:
        await self._socket.close()


def _greeting_seconds(generation: Generation) -> float:
    return min(OPEN_SECONDS, generation.timeout)


def _unopened(url: str, error: Exception) -> VictorianError:
    """Why there is no socket."""
    if isinstance(error, InvalidStatus) and error.response.status_code != 500:  # 500 is Serve's word for no room
        answer = error.response
        body = bytes(answer.body or b"")
        if answer.status_code == 403 and not body:  # what servers of ASGI say where nobody takes a WebSocket
            return RequestError(
                f"no WebSocket is to be had at {url} (HTTP 403): is what stands before /v1 right, and the key short?"
            )
        return told_over_http(answer.status_code, body, answer.headers.get("Retry-After"))
    return unreachable(url, error)


@contextmanager
def _in_words(generation: Generation) -> Iterator[None]:
    """Tell what the WebSocket library raises as what it means here."""
    try:
        yield
    except ConnectionClosed as error:
        goodbye = error.rcvd
        if goodbye and goodbye.code in (CloseCode.GOING_AWAY, CloseCode.TRY_AGAIN_LATER) and not generation.begun:
            # Nothing has come, and the service says that it has no room: it is a refusal.
            why = goodbye.reason or "the service said to try again later"
            raise told_over_socket(ErrorMessage(code="shutting_down", message=why)) from error
        if goodbye and goodbye.code == CloseCode.TOO_BIG and error.rcvd_then_sent:
            why = goodbye.reason or "a message is above its limit"
            raise RequestError(f"the service does not read a request this large: {why}; shorten the prompt") from error
        raise generation.lost(error) from error
    except TimeoutError as error:
        if generation.connected:
            raise  # silence, which is borne for a while
        raise ServiceError(f"the service sent no greeting for {_greeting_seconds(generation):g} seconds") from error


# Server-sent events.


class EventsTransport:
    """An HTTP answer that is read while it comes."""

    def __init__(self, http: httpx2.Client, headers: dict[str, str], generation: Generation) -> None:
        self._generation = generation
        self._events = Events(generation.request)
        self._open = ExitStack()
        posting = http.sse("/v1/completions", method="POST", json=self._events.body(), headers=headers)
        try:
            with _opened_in_words(http.base_url):
                source = self._open.enter_context(posting)
                answer = source.response
                if answer.status_code != 200:
                    raise told_over_http(answer.status_code, answer.read(), answer.headers.get("Retry-After"))
        except BaseException:
            self.close()
            raise
        self._coming: Iterator[httpx2.ServerSentEvent] = iter(source)

    def receive(self, seconds: float) -> ServerMessage | None:
        with _read_in_words(self._generation):
            return self._events.read(next(self._coming).data)

    def cancel(self) -> bool:
        return False

    def close(self) -> None:
        self._open.close()


class AsyncEventsTransport:
    """The same for callers with an event loop; made by `open`."""

    def __init__(self, generation: Generation) -> None:
        self._generation = generation
        self._events = Events(generation.request)
        self._open = AsyncExitStack()
        self._coming: AsyncIterator[httpx2.ServerSentEvent]

    @classmethod
    async def open(
        cls, http: httpx2.AsyncClient, headers: dict[str, str], generation: Generation
    ) -> "AsyncEventsTransport":
        made = cls(generation)
        posting = http.sse("/v1/completions", method="POST", json=made._events.body(), headers=headers)
        try:
            with _opened_in_words(http.base_url):
                source = await made._open.enter_async_context(posting)
                answer = source.response
                if answer.status_code != 200:
                    raise told_over_http(answer.status_code, await answer.aread(), answer.headers.get("Retry-After"))
        except BaseException:
            await made.close()
            raise
        made._coming = aiter(source)
        return made

    async def receive(self, seconds: float) -> ServerMessage | None:
        with _read_in_words(self._generation):
            return self._events.read((await anext(self._coming)).data)

    async def cancel(self) -> bool:
        return False

    async def close(self) -> None:
        await self._open.aclose()


@contextmanager
def _opened_in_words(url: httpx2.URL) -> Iterator[None]:
    try:
        yield
    except httpx2.HTTPError as error:
        raise unanswered(str(url), error) from error


@contextmanager
def _read_in_words(generation: Generation) -> Iterator[None]:
    try:
        yield
    except (StopIteration, StopAsyncIteration):
        raise generation.lost("the events ended without [DONE]") from None
    except httpx2.HTTPError as error:
        raise generation.lost(str(error) or type(error).__name__) from error
