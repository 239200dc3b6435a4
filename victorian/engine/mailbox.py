"""Events on their way from the engine's thread to one reader, who may be slow. Knows no torch."""

import asyncio
import contextlib
import math
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from functools import partial

from victorian.config import SamplingParameters
from victorian.engine.request import Completed, Deliver, Event, Failed, PromptEvent, Request, TokenEvent
from victorian.errors import ServiceError

LONGEST_TURN = 0.5
"""Seconds to which a turn grows because many read."""


class SlowReaderError(Exception):
    """A reader has left more tokens unread than are kept for it."""


class Mailbox:
    """Holds what was not read yet, `most` tokens at most; the end of a generation always finds room.

    Args:
        wake: called after each event, on the engine's thread.
    """

    def __init__(self, most: int, wake: Callable[[Event], None] | None = None) -> None:
        self._most = most
        self._events: deque[Event] = deque()
        self._come = threading.Condition()
        self._wake = wake

    def put(self, event: Event) -> None:
        """Keep an event for the reader.

        Raises:
            SlowReaderError: if the reader is too far behind for another token.
        """
        with self._come:
            if isinstance(event, TokenEvent) and len(self._events) >= self._most:
                raise SlowReaderError(f"the reader left {self._most} tokens unread, which is all that is kept for it")
            self._events.append(event)
            self._come.notify()
        if self._wake:
            self._wake(event)

    @property
    def half_full(self) -> bool:
        """Whether a reader who takes nothing now may soon be too far behind."""
        return 2 * len(self._events) >= self._most

    def take(self) -> list[Event]:
        """All that has come and was not taken yet."""
        with self._come:
            events = list(self._events)
            self._events.clear()
        return events

    def read(self, leave: Callable[[], None]) -> Iterator[Event]:
        """Every event to the last; `leave` is called when the reader goes before that."""
        ended = False
        try:
            while not ended:
                with self._come:
                    self._come.wait_for(lambda: bool(self._events))
                    event = self._events.popleft()
                ended = not isinstance(event, PromptEvent | TokenEvent)
                yield event
        finally:
            if not ended:
                leave()


class Turns:
    """Moments at which all readers of an engine are told what came since the last one.

    A loop that is woken for every token takes the interpreter, and a core, from the network as often; and a write to a
    client costs the same whether it brings one token or twenty. So the more readers there are, the longer a turn is.

    Args:
        seconds: length of a turn at the least; 0 tells of every token at once, however many read.
        writes: to all readers together a second; where they would be more, a turn grows, up to `LONGEST_TURN`.
        clock: seconds that only go up.
    """

    def __init__(
        self, seconds: float = 0, writes: float = math.inf, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._seconds = seconds
        self._writes = writes
        self._clock = clock
        self._readers: set[AsyncMailbox] = set()
        self._number = 0
        self._ends = -math.inf

    def number(self) -> int | None:
        """Of the turn that it is now; None where there are none."""
        if not self._seconds:
            return None
        now = self._clock()
        if now >= self._ends:
            self._number += 1
            self._ends = now + self.length
        return self._number

    @property
    def length(self) -> float:
        """Of a turn that begins now, in seconds."""
        return max(self._seconds, min(LONGEST_TURN, len(self._readers) / self._writes))

    @contextlib.contextmanager
    def reading(self, mailbox: "AsyncMailbox") -> Iterator[None]:
        """Somebody is written to for as long as the block."""
        self._readers.add(mailbox)
        try:
            yield
        finally:
            self._readers.discard(mailbox)


class AsyncMailbox:
    """The same for a reader with an event loop, who is told of several tokens at once; made inside of that loop.

    The first token and the end are told at once, the others with the first that comes in a new turn, or when half of
    the room for them is taken. Turns begin for all mailboxes of an engine at the same moments, so that a loop is woken
    once for all of them.
    """

    def __init__(self, most: int, turns: Turns) -> None:
        self._loop = asyncio.get_running_loop()
        self._come = asyncio.Event()
        self._mailbox = Mailbox(most, self._tell)
        self._turns = turns
        self._turn: int | None = None
        self.put = self._mailbox.put

    async def read(self, leave: Callable[[], None]) -> AsyncGenerator[list[Event], None]:
        """Every event to the last, those together that came together; `leave` is called when the reader goes before."""
        ended = False
        try:
            await self._come.wait()  # who waits for a place is written to by nobody
            with self._turns.reading(self):
                while not ended:
                    await self._come.wait()
                    self._come.clear()
                    if events := self._mailbox.take():
                        ended = not isinstance(events[-1], PromptEvent | TokenEvent)
                        yield events
        finally:
            if not ended:
                leave()

    def _tell(self, event: Event) -> None:
        turn = self._turns.number()
        if turn is not None:
            if turn == self._turn and isinstance(event, TokenEvent) and not self._mailbox.half_full:
                return
            self._turn = None if isinstance(event, PromptEvent) else turn  # the first token is not waited for
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is listening
            self._loop.call_soon_threadsafe(self._come.set)


class Streams(ABC):
    """What takes requests and calls back with their events, as iterations for its callers."""

    max_unread: int
    """Tokens that are kept for a reader who does not take them."""
    turns: Turns
    """When readers with an event loop are told of tokens after the first."""

    @abstractmethod
    def request(
        self,
        prompt: str | list[int],
        sampling: SamplingParameters,
        request_id: str | None = None,
        *,
        priority: int = 0,
        logprobs: int | None = None,
        prompt_logprobs: int | None = None,
        deadline_seconds: float | None = None,
    ) -> Request:
        """A request that can be served here; RequestError if what it asks for is not there."""

    @abstractmethod
    def submit_all(self, requests: Sequence[tuple[Request, Deliver]]) -> None:
        """Queue all of these, or none; their events go to what stands beside each, on another thread."""

    def submit(self, request: Request, deliver: Deliver) -> None:
        """Queue one request."""
        self.submit_all([(request, deliver)])

    @abstractmethod
    def cancel(self, request_id: str) -> None:
        """Stop a request within a step; it ends with Completed("cancelled"). Unknown ids are ignored."""

    def stream(self, request: Request) -> Iterator[Event]:
        """Submit a request; its events, for callers with a thread. Leaving the iteration cancels the request.

        An iteration that never begins cannot be left: whoever drops it must `cancel`.

        Raises:
            As `submit` does, at once and not only when the iteration begins.
        """
        mailbox = Mailbox(self.max_unread)
        self.submit(request, mailbox.put)
        return mailbox.read(lambda: self.cancel(request.id))

    def stream_async(self, request: Request) -> AsyncGenerator[list[Event], None]:
        """Submit a request; its events, for callers with an event loop. Leaving the iteration cancels the request.

        Those that came together are given together, in a list. An iteration that never begins cannot be left: whoever
        drops it must `cancel`.

        Raises:
            As `submit` does, at once and not only when the iteration begins.
        """
        return self.streams_async([request])[0]

    def streams_async(self, requests: Sequence[Request]) -> list[AsyncGenerator[list[Event], None]]:
        """The same for several requests, of which all are taken or none."""
        mailboxes = [self.mailbox() for _ in requests]
        self.submit_all([(request, mailbox.put) for request, mailbox in zip(requests, mailboxes, strict=True)])
        return [
            mailbox.read(partial(self.cancel, request.id)) for request, mailbox in zip(requests, mailboxes, strict=True)
        ]

    def mailbox(self) -> AsyncMailbox:
        """For one reader, on whose event loop this is called."""
        return AsyncMailbox(self.max_unread, self.turns)


def complete(engine: Streams, request: Request) -> tuple[str, Completed]:
    """The whole text of a request at once; ServiceError if it failed."""
    text = []
    for event in engine.stream(request):
        match event:
            case TokenEvent():
                text.append(event.text)
            case Completed():
                return "".join(text), event
            case Failed():
                raise ServiceError(event.message)
    raise AssertionError("a stream ends with Completed or Failed")


def warm_up(engine: Streams) -> None:
    """Generate one token, so that the first reader does not pay for first-time allocations."""
    complete(engine, engine.request([], SamplingParameters(max_tokens=1)))
