"""A generation under way, as something to iterate over: for callers that wait, and for callers with an event loop."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Literal, Self

from victorian.client.failures import Retries
from victorian.client.generation import Generation
from victorian.client.transports import AsyncTransport, Transport
from victorian.errors import ServiceError, VictorianError
from victorian.service.protocol import Complete, Connected, TokenMessage


@dataclass(frozen=True)
class Answer:
    """A generation that came to its end."""

    text: str
    complete: Complete
    """How it ended, and what it took."""


class Progress:
    """What is known of a stream while it runs and afterwards.

    Attributes:
        closed: whether the connection has been left.
    """

    def __init__(self, generation: Generation, retries: Retries, tick: float | None) -> None:
        self.closed = False
        self._generation = generation
        self._retries = retries
        self._tick = tick
        self._cancelled = False
        self._left = False

    @property
    def text(self) -> str:
        """What has come so far; it stays when the stream breaks."""
        return self._generation.text

    @property
    def connected(self) -> Connected | None:
        """How the service greeted; None over server-sent events."""
        return self._generation.connected

    @property
    def complete(self) -> Complete | None:
        """How the generation ended, once it has; None while it runs, after an error, and where it was only left."""
        return self._generation.complete

    @property
    def reason(self) -> Literal["stop", "length", "cancelled"] | None:
        """Why it ended, if it did."""
        return self.complete.reason if self.complete else "cancelled" if self._left else None

    @property
    def _ended(self) -> bool:
        return self._left or self._generation.complete is not None

    @property
    def _patience(self) -> float:
        return self._tick or self._generation.timeout

    def _heed(self, error: VictorianError) -> None:
        """Raise the error where nothing is tried again: an answer has begun, or nobody waits for one any more.

        Whichever way it came, a service that goes away in the middle has lost the answer.
        """
        if self._generation.begun and isinstance(error, ServiceError) and error.code == "shutting_down":
            raise self._generation.lost(error) from error
        if self._generation.begun or self.closed or self._cancelled:
            raise error

    def _pause(self, error: VictorianError) -> float:
        """Seconds until it is tried again; raises the error where it is not."""
        self._heed(error)
        return self._retries.pause(error)

    def _shown(self, token: TokenMessage | None) -> bool:
        """Whether a caller that wants text is given something."""
        return bool(token.text) if token else self._tick is not None

    def _answer(self) -> Answer:
        assert self.complete is not None, "a stream that nobody cancelled ends with complete or raises"
        return Answer(self.text, self.complete)


class Stream(Progress):
    """A generation under way: iterate over it for pieces of text as they come, or over `tokens()`.

    Leaving the iteration ends the generation, and so does `close`, which a stream that is never read needs.
    """

    def __init__(
        self, open: Callable[[Generation], Transport], generation: Generation, retries: Retries, tick: float | None
    ) -> None:
        super().__init__(generation, retries, tick)
        self._open = open
        self._transport = self._connect()

    def __iter__(self) -> Iterator[str]:
        """Pieces of text, and with a tick an empty one whenever nothing came for that long.

        Raises:
            RequestError: if the service refuses the request; OverloadedError if it only has no room now.
            ReplicaLostError: if the connection breaks before the end; what came until then is in `text`.
            ServiceError: if the service fails.
        """
        for token in self._messages():
            if self._shown(token):
                yield token.text if token else ""

    def tokens(self) -> Iterator[TokenMessage]:
        """The tokens, with what else might have stood in their places where that was asked for; raises as above."""
        for token in self._messages():
            if token:
                yield token

    def cancel(self) -> None:
        """Ask for an early end: the iteration ends soon, with the reason `cancelled`. Can be called from any thread.

        What goes wrong after that is not raised, and nothing is asked again.
        """
        self._cancelled = True  # first: what is read meanwhile may be an error, which nobody asks again after
        self._left = not self._transport.cancel()

    def close(self) -> None:
        """Leave; the service stops generating."""
        self.closed = True
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _connect(self, before: VictorianError | None = None) -> Transport:
        """A way to the service, after what came of the one before."""
        while True:
            if before:
                time.sleep(self._pause(before))
                self._heed(before)
            try:
                return self._open(self._generation)
            except VictorianError as error:
                before = error

    def _messages(self) -> Iterator[TokenMessage | None]:
        """Tokens, and None where only time has passed."""
        try:
            while not self._ended:
                token = None
                try:
                    if message := self._transport.receive(self._patience):
                        token = self._generation.take(message)
                        if token is None:
                            continue
                except TimeoutError:
                    self._generation.silence()
                except VictorianError as error:
                    self._transport.close()
                    self._transport = self._connect(error)
                    self._heed(error)  # again: it may have been closed while the new way was made
                yield token
        except VictorianError:
            if not self._cancelled:
                raise
            self._left = True
        finally:
            self.close()


class AsyncStream(Progress):
    """The same for callers with an event loop; made by `begin`. Use it as a context manager, or call `aclose`."""

    _transport: AsyncTransport

    def __init__(
        self,
        open: Callable[[Generation], Awaitable[AsyncTransport]],
        generation: Generation,
        retries: Retries,
        tick: float | None,
    ) -> None:
        super().__init__(generation, retries, tick)
        self._open = open

    async def begin(self) -> Self:
        """Connect and ask."""
        self._transport = await self._connect()
        return self

    async def __aiter__(self) -> AsyncIterator[str]:
        """As `Stream.__iter__`."""
        async with aclosing(self._messages()) as messages:
            async for token in messages:
                if self._shown(token):
                    yield token.text if token else ""

    async def tokens(self) -> AsyncIterator[TokenMessage]:
        """As `Stream.tokens`."""
        async with aclosing(self._messages()) as messages:
            async for token in messages:
                if token:
                    yield token

    async def cancel(self) -> None:
        """As `Stream.cancel`, on this loop."""
        self._cancelled = True
        self._left = not await self._transport.cancel()

    async def aclose(self) -> None:
        """Leave; the service stops generating."""
        self.closed = True
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()

    async def _connect(self, before: VictorianError | None = None) -> AsyncTransport:
        """A way to the service, after what came of the one before."""
        while True:
            if before:
                await asyncio.sleep(self._pause(before))
                self._heed(before)
            try:
                return await self._open(self._generation)
            except VictorianError as error:
                before = error

    async def _messages(self) -> AsyncGenerator[TokenMessage | None, None]:
        """Tokens, and None where only time has passed."""
        try:
            while not self._ended:
                token = None
                try:
                    if message := await self._transport.receive(self._patience):
                        token = self._generation.take(message)
                        if token is None:
                            continue
                except TimeoutError:
                    self._generation.silence()
                except VictorianError as error:
                    await self._transport.close()
                    self._transport = await self._connect(error)
                    self._heed(error)  # again: it may have been closed while the new way was made
                yield token
        except VictorianError:
            if not self._cancelled:
                raise
            self._left = True
        finally:
            await self.aclose()
