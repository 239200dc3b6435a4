"""Who runs in the next step, and in which row of the cache. Knows no torch.

First come, first served. At most one request joins in a step, so that prompts hold the running ones up one at a time;
all running requests then advance by one token together. Rows in use are 0 to n-1: when a request
leaves, the last row moves into its place.
"""

from collections import deque
from dataclasses import dataclass, field
from time import perf_counter

from victorian.engine.request import Deliver, Request
from victorian.engine.text import TextStream
from victorian.errors import OverloadedError


@dataclass(eq=False)
class Sequence:
    """A request on its way: its tokens, and how many of its window the cache holds."""

    request: Request
    deliver: Deliver
    text: TextStream
    context: int
    tokens: list[int] = field(default_factory=list)
    """Prompt and output."""
    window_start: int = 0
    """First token that the network still sees."""
    cached: int = 0
    """Tokens of the window that are in the cache."""
    cancelled: bool = False
    submitted: float = field(default_factory=perf_counter)
    first_token: float | None = None

    def __post_init__(self) -> None:
        self.tokens.extend(self.request.prompt)

    @property
    def generated(self) -> int:
        return len(self.tokens) - len(self.request.prompt)

    @property
    def window(self) -> list[int]:
        return self.tokens[self.window_start :]

    def slide(self) -> None:
        """When prompt and output outgrow the context, go on from the later half of it, read afresh.

        Positions are learned, so cached keys cannot be moved: half a context is read once for every half written.
        """
        if len(self.tokens) - self.window_start > self.context:
            self.window_start = len(self.tokens) - self.context // 2
            self.cached = 0


@dataclass(frozen=True)
class Fill:
    """Tokens to put into the cache of a row, from its beginning, before the step."""

    row: int
    tokens: list[int]


@dataclass(frozen=True)
class Plan:
    """One step: first the fills, then one token for each of `running`, whose index is its row."""

    joined: list[int]
    """Rows that belong to another request than before."""
    fills: list[Fill]
    running: list[Sequence]


@dataclass(frozen=True)
class Move:
    """Row `source` is now row `target`."""

    source: int
    target: int


class Scheduler:
    """The queue and the rows."""

    def __init__(self, max_running: int, max_waiting: int) -> None:
        self._max_running = max_running
        self._max_waiting = max_waiting
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []

    def add(self, sequence: Sequence) -> None:
        """Queue a request; OverloadedError where the queue is full."""
        free = self._max_running - len(self.running)
        if len(self.waiting) >= self._max_waiting + free:
            raise OverloadedError(
                f"{len(self.running)} requests are running and {len(self.waiting)} waiting, which is all there is "
                "room for; try again in a moment"
            )
        self.waiting.append(sequence)

    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    def drop_cancelled_waiting(self) -> list[Sequence]:
        """Take cancelled requests that have not begun out of the queue."""
        gone = [s for s in self.waiting if s.cancelled]
        if gone:
            self.waiting = deque(s for s in self.waiting if not s.cancelled)
        return gone

    def schedule(self) -> Plan:
        """Let the next request in if a row is free, and say what has to be cached before the step."""
        joined: list[int] = []
        if self.waiting and len(self.running) < self._max_running:
            self.running.append(self.waiting.popleft())
            joined.append(len(self.running) - 1)
        fills = []
        for row, sequence in enumerate(self.running):
            sequence.slide()
            prefix = sequence.window[:-1]  # the last token is the one that the step itself reads
            if not sequence.cached and prefix:
                fills.append(Fill(row, prefix))
                sequence.cached = len(prefix)
        return Plan(joined, fills, list(self.running))

    def finish(self, sequence: Sequence) -> Move | None:
        """Free the row of a request; the last row takes its place."""
        row = self.running.index(sequence)
        last = self.running.pop()
        if last is sequence:
            return None
        self.running[row] = last
        return Move(len(self.running), row)
