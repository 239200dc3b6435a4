"""The engine: one model, one cache, one thread, many requests.

`step` is the design: schedule, run, sample, emit. Requests come in from any thread through `submit`; what happens to
them goes out through the callback given with each. `stream` and `stream_async` wrap the two for callers.
"""

import logging
import math
import secrets
import threading
import time
import uuid
from collections.abc import Sequence as Items

from victorian.config import EngineConfig, SamplingParameters
from victorian.cores import cores
from victorian.device import pick_device, use_device, use_threads
from victorian.engine.blocks import BLOCK_TOKENS, BlockPool
from victorian.engine.forward import BrokenNetworkError, Forward, Outcome
from victorian.engine.mailbox import Streams, Turns
from victorian.engine.request import Deliver, Failed, FinishReason, Load, Request
from victorian.engine.runner import new_runner
from victorian.engine.sampling import BrokenLogitsError, Sampler
from victorian.engine.scheduler import Scheduler, Sequence
from victorian.engine.telling import tell, tell_end, tell_token
from victorian.engine.text import TextStream
from victorian.errors import ConfigError, RequestError, ServiceError
from victorian.model.gpt2 import GPT
from victorian.tokens.bpe import Encoding

logger = logging.getLogger(__name__)

BROKEN_REQUESTS = 3
"""Requests that fail one after the other, with which the network itself is taken to be broken."""
WRITES_PER_CORE = 32
"""To clients, a second: each takes about a millisecond of proxy, replica and client, which is 3% of the core."""


class Engine(Streams):
    """Continuous batching over one model. Use as a context manager, or call `close`."""

    def __init__(self, model: GPT, encoding: Encoding, config: EngineConfig) -> None:
        self.encoding = encoding
        self.context = model.config.context
        self.max_unread = config.max_unread
        self.turns = Turns(config.gather_seconds, config.writes_per_second or WRITES_PER_CORE * cores())
        self._config = config
        use_threads(config.threads)  # refused here, where the caller hears of it
        self._device = device = pick_device()
        blocks = -(-(config.cache_tokens or config.max_running * self.context) // BLOCK_TOKENS)
        if blocks * BLOCK_TOKENS < self.context:
            raise ConfigError(f"a cache of {config.cache_tokens} tokens does not hold a window of {self.context}")
        runner = new_runner(model, config, blocks, encoding.size, device)
        self._forward = Forward(runner, Sampler(encoding.end_of_text, runner.draw, runner.select))
        self._scheduler = Scheduler(config.max_running, config.max_waiting, BlockPool(blocks), config.chunk)
        self._sequences: dict[str, Sequence] = {}
        self._wake = threading.Condition()
        self._closing = False
        self._retiring = False
        self._broken: Exception | None = None
        self._failures = 0
        self._last_token = -math.inf
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    # What callers use.

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
        """A request that this engine can serve; an empty prompt begins a book. The rest is as `Request` says.

        Raises:
            RequestError: if the prompt is longer than the context or holds ids that the encoding has not, or if more
                is asked for than is there.
        """
        try:
            ids = [int(i) for i in self.encoding.encode(prompt)] if isinstance(prompt, str) else prompt
        except UnicodeEncodeError as error:
            raise RequestError(f"the prompt is no text: {error.reason} at character {error.start}", "prompt") from error
        request = Request(
            request_id or uuid.uuid4().hex,
            tuple(ids or [self.encoding.end_of_text]),
            sampling,
            sampling.seed if sampling.seed is not None else secrets.randbits(63),
            priority,
            logprobs,
            prompt_logprobs,
            deadline_seconds,
        )
        request.check(self.encoding.size, self.context)
        return request

    def require_room(self, count: int = 1) -> None:
        """For so many requests more, before anything is done for them; cheap, and for any thread.

        Raises:
            OverloadedError: if the queue has no room for them now.
            RequestError: if it never has.
            ServiceError: if the engine is closed, leaving or broken.
        """
        if not self.healthy:
            why = "its log says why" if self._broken else "it was closed"  # a client of a service sees this
            raise ServiceError(f"the engine has stopped: {why}", "shutting_down") from self._broken
        self._scheduler.require_room(count)

    def submit_all(self, requests: Items[tuple[Request, Deliver]]) -> None:
        """Queue requests, all of them or none.

        What stands beside each is called on the engine's thread with its events, the last Completed or Failed.

        Raises:
            As `require_room` does.
            RequestError: also if a request of one's id is under way, or one was made for another engine and does not
                fit.
        """
        sequences = []
        for request, deliver in requests:
            request.check(self.encoding.size, self.context)
            sequences.append(Sequence(request, deliver, TextStream(self.encoding, request.sampling.stop), self.context))
        with self._wake:
            self.require_room(len(sequences))
            named = {}
            for sequence in sequences:
                if (name := sequence.request.id) in self._sequences or name in named:
                    raise under_way(name)
                named[name] = sequence
            self._scheduler.add(sequences)
            self._sequences |= named
            self._wake.notify()

    def cancel(self, request_id: str) -> None:
        """Stop a request within a step; it ends with Completed("cancelled"). Unknown ids are ignored."""
        with self._wake:
            if sequence := self._sequences.get(request_id):
                sequence.cancelled = True
                self._wake.notify()

    @property
    def healthy(self) -> bool:
        """Whether new requests are taken."""
        stopping = self._closing or self._retiring or not self._thread.is_alive()
        return self._broken is None and not stopping

    @property
    def load(self) -> Load:
        """How busy this engine is now; cheap, and for any thread."""
        scheduler = self._scheduler
        return Load(len(scheduler.running), len(scheduler.waiting), scheduler.cache_usage, self._last_token)

    def has(self, request_id: str) -> bool:
        """Whether a request of this id has not ended."""
        return request_id in self._sequences

    @property
    def active(self) -> int:
        """Requests that have not ended."""
        return len(self._sequences)

    def retire(self) -> None:
        """Take no new requests, and close by itself once those under way have ended. Returns at once."""
        with self._wake:
            self._retiring = True
            self._wake.notify()

    def close(self) -> None:
        """Stop after the step under way; what has not ended fails."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # What the engine's thread does.

    def step(self) -> None:
        """Read what is next of every running request, and draw a token for each that has been read."""
        with self._wake:
            gone = self._scheduler.drop_cancelled()
            reads = self._scheduler.schedule()
        for sequence in gone:
            self._end(sequence, "cancelled")
        if not reads:
            return
        outcomes = self._forward.compute(reads)
        with self._wake:
            self._scheduler.advance(
                [read for read, one in zip(reads, outcomes, strict=True) if isinstance(one, Outcome)]
            )
        for read, outcome in zip(reads, outcomes, strict=True):
            self._emit(read.sequence, outcome)

    def _emit(self, sequence: Sequence, outcome: Outcome | Exception) -> None:
        """Note what came of a read, tell the caller, and end the request if that was its last."""
        if isinstance(outcome, Exception):
            return self._blame(sequence, outcome)
        if outcome.drawn:  # a prompt that was read says nothing about the network's numbers
            self._failures = 0
            self._last_token = time.perf_counter()
        sequence.scores += outcome.scores
        if sequence.cancelled:
            return self._leave(sequence, "cancelled")
        if outcome.drawn is None:
            return None
        try:
            reason = tell_token(sequence, outcome.drawn, self.encoding.end_of_text)
        except Exception as error:  # whatever this request's text does to us, the others go on
            logger.exception("the text of request %s failed", sequence.request.id)
            return self._fail(sequence, f"{type(error).__name__}: {error}")
        return self._leave(sequence, reason) if reason else None

    def _blame(self, sequence: Sequence, error: Exception) -> None:
        """A request failed; if one after the other does, it is not the requests."""
        self._failures += 1
        if self._failures >= BROKEN_REQUESTS:
            raise BrokenNetworkError(f"{BROKEN_REQUESTS} requests in a row failed: {error}") from error
        logger.error("request %s failed", sequence.request.id, exc_info=error)
        self._fail(sequence, str(error) if isinstance(error, BrokenLogitsError) else f"{type(error).__name__}: {error}")

    def _leave(self, sequence: Sequence, reason: FinishReason) -> None:
        with self._wake:
            self._scheduler.finish(sequence)
        self._end(sequence, reason)

    def _fail(self, sequence: Sequence, message: str) -> None:
        """End one request; the others go on."""
        sequence.failure = Failed(message)
        self._leave(sequence, "cancelled")

    def _end(self, sequence: Sequence, reason: FinishReason) -> None:
        self._forward.sampler.leave(sequence)
        with self._wake:
            self._sequences.pop(sequence.request.id, None)
        tell_end(sequence, reason)

    def _work(self) -> None:
        try:
            use_threads(self._config.threads)  # settings of each thread
            use_device(self._device)
            while True:
                with self._wake:
                    self._wake.wait_for(lambda: self._closing or self._retiring or self._scheduler.has_work())
                    if self._closing or not self._scheduler.has_work():
                        break
                self.step()
        except Exception as error:  # whatever broke the step, nobody may be left waiting for an answer
            logger.exception("the engine's step failed")
            self._broken = error
            self._fail_all(Failed(f"{type(error).__name__}: {error}"))
        else:
            self._fail_all(Failed("the engine was closed", "shutting_down"))
        self._forward.runner.close()

    def _fail_all(self, end: Failed) -> None:
        with self._wake:
            left = list(self._sequences.values())
            self._sequences.clear()
        for sequence in left:
            tell(sequence, end)


def under_way(request_id: str) -> RequestError:
    """What is said of an id that is not free."""
    return RequestError(f"a request with the id {request_id!r} is under way already", "id")
