"""What the next step reads: which sequences, how many tokens of each, in which blocks of the cache. Knows no torch.

First come, first served, those of a higher priority before. Running sequences that only want their next token all get
it; what is left of a step's tokens goes to prompts, a chunk each. A sequence joins when the cache has room for all of
its window; when the cache is full the last that joined gives way, and reads its window again when there is room.
"""

from bisect import insort
from collections.abc import Sequence as Items
from dataclasses import dataclass, field
from itertools import chain, count
from math import inf
from time import perf_counter
from typing import NamedTuple

from victorian.engine.blocks import BLOCK_TOKENS, BlockPool, Key, block_keys
from victorian.engine.request import Deliver, Failed, Request, Scored
from victorian.engine.text import TextStream
from victorian.errors import OverloadedError, RequestError

_arrivals = count()


@dataclass(eq=False)
class Sequence:
    """A request on its way: its tokens, and how many of its window the cache holds."""

    request: Request
    deliver: Deliver
    text: TextStream
    context: int
    tokens: list[int] = field(default_factory=list)
    """Prompt and output."""
    kept: int = 0
    """Tokens of the prompt's beginning that the network still sees when the window has moved on."""
    window_start: int = 0
    """First token that the network still sees but for those."""
    cached: int = 0
    """Tokens of the window that are in the cache."""
    blocks: list[int] = field(default_factory=list)
    """Of the cache, in the window's order."""
    keys: list[Key] = field(default_factory=list)
    """Of the window's full blocks that are in the cache."""
    reused: int = 0
    """Tokens of the prompt that the cache held already when the sequence joined."""
    scores: list[Scored] = field(default_factory=list)
    """Of the prompt from its second token on, where they were asked for."""
    cancelled: bool = False
    failure: Failed | None = None
    """Why it was cancelled, if nobody asked for that."""
    arrival: int = field(default_factory=lambda: next(_arrivals))
    submitted: float = field(default_factory=perf_counter)
    deadline: float = inf
    """When it is overdue, on the clock of `perf_counter`."""
    joined: float | None = None
    preemptions: int = 0
    first_token: float | None = None

    def __post_init__(self) -> None:
        self.tokens.extend(self.request.prompt)
        if self.request.deadline_seconds is not None:
            self.deadline = self.submitted + self.request.deadline_seconds
        self.kept = min(self.request.sampling.keep_tokens, len(self.tokens), self.context // 2)

    @property
    def generated(self) -> int:
        return len(self.tokens) - len(self.request.prompt)

    @property
    def length(self) -> int:
        """Tokens of the window."""
        return len(self.tokens) - self.window_start + (self.kept if self.window_start else 0)

    @property
    def rank(self) -> tuple[int, int]:
        """Place in the order of service."""
        return -self.request.priority, self.arrival

    def window(self, start: int, stop: int) -> list[int]:
        """Tokens that stand at these places of the window."""
        if not self.window_start:
            return self.tokens[start:stop]
        moved = self.window_start - self.kept
        beginning = self.tokens[start : min(stop, self.kept)]
        return beginning + self.tokens[moved + max(start, self.kept) : moved + max(stop, self.kept)]

    def outgrown(self) -> bool:
        """Go on from the later half of the window when prompt and output outgrow it; that is read afresh then.

        Positions are learned, so cached keys cannot be moved: half a context is read once for every half written.
        What is kept of the prompt stands in front of it, and leaves half of the rest.
        """
        if self.length <= self.context:
            return False
        self.window_start = len(self.tokens) - (self.context - self.kept) // 2
        return True


class Read(NamedTuple):
    """Tokens `start` to `stop` of a sequence's window are read; after the window's last a token is drawn."""

    sequence: Sequence
    start: int
    stop: int
    draws: bool

    @property
    def tokens(self) -> list[int]:
        return self.sequence.window(self.start, self.stop)

    @property
    def scored(self) -> range:
        """Places after which the prompt's own next token is looked up, if somebody asked and it was not yet done."""
        sequence = self.sequence
        if sequence.request.prompt_logprobs is None:
            return NOTHING
        return range(max(self.start, len(sequence.scores)), min(self.stop, len(sequence.request.prompt) - 1))

    @property
    def wanted(self) -> list[int]:
        """Places after which logits are wanted."""
        return [*self.scored, *([self.stop - 1] if self.draws else [])]


NOTHING = range(0)


class Scheduler:
    """The queue, the running sequences, and their blocks.

    Args:
        max_running: sequences at once.
        max_waiting: sequences that may wait beyond those that have room.
        blocks: of the cache; a window of the whole context must fit.
        chunk: tokens of a prompt that a step reads at the most, of all prompts together.
    """

    def __init__(self, max_running: int, max_waiting: int, blocks: BlockPool, chunk: int) -> None:
        self._max_running = max_running
        self._max_waiting = max_waiting
        self._pool = blocks
        self._chunk = chunk
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        """Both in the order of service."""

    def require_room(self, count: int) -> None:
        """For so many requests more; cheap, and for any thread.

        Raises:
            OverloadedError: where the queue has no room for them now.
            RequestError: where it never has.
        """
        most = self._max_running + self._max_waiting
        if count > most:
            raise RequestError(f"{count} texts at once are more than there ever is room for, {most}", "n")
        running, waiting = len(self.running), len(self.waiting)
        if running + waiting + count > most:
            raise OverloadedError(
                f"{running} requests are running and {waiting} waiting, which is all there is room for; try again in "
                "a moment"
            )

    def add(self, sequences: Items[Sequence]) -> None:
        """Queue requests, all or none; raises as `require_room` does."""
        self.require_room(len(sequences))
        for sequence in sequences:
            insort(self.waiting, sequence, key=lambda s: s.rank)

    @property
    def cache_usage(self) -> float:
        """Share of the cache's blocks that sequences use."""
        return 1 - self._pool.available / self._pool.count

    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    def drop_cancelled(self) -> list[Sequence]:
        """Take cancelled and overdue requests out, running or waiting; their blocks are free at once."""
        now = perf_counter()
        gone = [s for s in chain(self.running, self.waiting) if s.cancelled or now > s.deadline]
        for sequence in gone:
            if not sequence.cancelled:
                why = f"not done within the {sequence.request.deadline_seconds:g} s that it had"
                sequence.cancelled, sequence.failure = True, Failed(why, "deadline_exceeded")
            self.finish(sequence)
        return gone

    def schedule(self) -> list[Read]:
        """The next step. Empty only if nothing is running or waiting."""
        for sequence in self.running:
            if sequence.outgrown():
                self._release(sequence)
                keys = self._keys_to_share(sequence)
                self._share(sequence, keys, self._pool.find(keys))  # what is kept of the prompt need not be read again
        reads: list[Read] = []
        left = self._chunk
        full = False
        # Next tokens first, so that no prompt holds them up; then prompts, oldest first.
        for sequence in sorted(self.running, key=lambda s: s.length - s.cached > 1):
            if full and sequence not in self.running:
                continue  # it gave way to one before
            missing = sequence.length - sequence.cached
            wanted = missing if missing == 1 else min(missing, left)
            if not wanted:
                continue
            while not self._reserve(sequence, wanted):
                full = True
                last = max(self.running, key=lambda s: s.rank)
                self._give_way(last)
                reads = [read for read in reads if read.sequence is not last]
                if last is sequence:
                    break
            else:
                left -= wanted if missing > 1 else 0
                reads.append(self._read(sequence, wanted))
        while self.waiting and len(self.running) < self._max_running and left and not full:
            sequence = self.waiting[0]
            if not self._join(sequence):
                break
            wanted = min(sequence.length - sequence.cached, left)
            left -= wanted
            reads.append(self._read(sequence, wanted))
        return reads

    def advance(self, reads: list[Read]) -> None:
        """What a step was to read is in the cache now, and others may use it."""
        for read in reads:
            sequence = read.sequence
            sequence.cached = read.stop
            known = len(sequence.keys)
            if read.stop // BLOCK_TOKENS > known:
                window = sequence.window(0, read.stop)
                before = sequence.keys[-1] if sequence.keys else b""
                fresh = block_keys(window, before, known * BLOCK_TOKENS)
                sequence.keys += fresh
                for index, key in enumerate(fresh, known):
                    self._pool.hold(sequence.blocks[index], key)

    def finish(self, sequence: Sequence) -> None:
        """A request is over; its blocks keep what they hold until somebody needs the room."""
        self._release(sequence)
        (self.running if sequence in self.running else self.waiting).remove(sequence)

    @staticmethod
    def _read(sequence: Sequence, wanted: int) -> Read:
        stop = sequence.cached + wanted
        return Read(sequence, sequence.cached, stop, stop == sequence.length)

    def _reserve(self, sequence: Sequence, wanted: int) -> bool:
        """Have blocks for some more tokens of a running sequence, if there are."""
        missing = _blocks(sequence.cached + wanted) - len(sequence.blocks)
        if missing > self._pool.available:
            return False
        if missing > 0:
            sequence.blocks += self._pool.take(missing)
        return True

    def _join(self, sequence: Sequence) -> bool:
        """Let a waiting sequence run, with the blocks of those that began as it does, if its window has room."""
        keys = self._keys_to_share(sequence)
        shared = self._pool.find(keys)
        missing = _blocks(sequence.length) - len(shared)
        if missing > self._pool.available - self._pool.unused(shared):
            return False
        self._share(sequence, keys, shared)
        sequence.blocks += self._pool.take(missing)
        if sequence.joined is None:
            sequence.joined = perf_counter()
            sequence.reused = sequence.cached
        self.waiting.remove(sequence)
        insort(self.running, sequence, key=lambda s: s.rank)
        return True

    @staticmethod
    def _keys_to_share(sequence: Sequence) -> list[Key]:
        """Of the blocks that another may have read for this one: all but those whose logits are wanted."""
        readable = sequence.length - 1
        if sequence.request.prompt_logprobs is not None and len(sequence.scores) < len(sequence.request.prompt) - 1:
            readable = len(sequence.scores)
        return block_keys(sequence.window(0, readable // BLOCK_TOKENS * BLOCK_TOKENS))

    def _share(self, sequence: Sequence, keys: list[Key], blocks: list[int]) -> None:
        self._pool.share(blocks)
        sequence.blocks, sequence.keys = blocks, keys[: len(blocks)]
        sequence.cached = len(blocks) * BLOCK_TOKENS

    def _give_way(self, sequence: Sequence) -> None:
        sequence.preemptions += 1
        self._release(sequence)
        self.running.remove(sequence)
        insort(self.waiting, sequence, key=lambda s: s.rank)

    def _release(self, sequence: Sequence) -> None:
        self._pool.give_back(sequence.blocks)
        sequence.blocks, sequence.keys, sequence.cached = [], [], 0


def _blocks(tokens: int) -> int:
    return -(-tokens // BLOCK_TOKENS)
