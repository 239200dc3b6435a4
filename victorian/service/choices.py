"""The choices of one completions request: requests to the engine, under way side by side, and pieces of their texts.

A whole answer is its pieces joined, and a stream is its pieces sent, so both say the same.
"""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from io import StringIO
from typing import NamedTuple

from pydantic import ValidationError

from victorian.config import ServiceConfig, first_problem
from victorian.engine.request import Completed, Event, Failed, PromptEvent, Request, TokenEvent
from victorian.errors import RequestError
from victorian.service.logprobs import LogprobsWriter, extend, text_of
from victorian.service.models import Served
from victorian.service.protocol import Choice, CompletionRequest, Logprobs, Usage, usage
from victorian.tokens.bpe import Encoding

MAX_LOGPROBS_AT_ONCE = 2**18
"""Log-probabilities in an answer that is no stream, and so is held whole: 32 MiB with 20 alternatives a token, 132 with
none."""


def choice_seed(seed: int, number: int) -> int:
    """The seed of a prompt's choice: the request's own for the first, so that it is what `n=1` gives.

    For later ones the low 63 bits of an eight-byte BLAKE2b hash of both, each as eight bytes, all little-endian.
    """
    if not number:
        return seed
    data = seed.to_bytes(8, "little") + number.to_bytes(8, "little")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little") >> 1


def engine_requests(served: Served, body: CompletionRequest, config: ServiceConfig, name: str) -> list[Request]:
    """What the engine is asked for: `n` choices of each prompt, the first prompt's before the second's.

    Args:
        name: the engine's id of the only one; of several each has its index behind it.

    Raises:
        RequestError: if one of them cannot be served as asked.
    """
    prompts = body.prompts()
    if body.best_of not in (None, body.n):
        raise RequestError(f"expected as many as n, which is {body.n}, got {body.best_of}", "best_of")
    if not body.max_tokens and not body.echo:
        raise RequestError("0 tokens can be asked for with echo only, to score the prompt", "max_tokens")
    several = len(prompts) * body.n > 1
    try:
        sampling = body.sampling()
    except ValidationError as error:
        raise RequestError(first_problem(error), str(error.errors()[0]["loc"][0])) from error
    samplings = [
        sampling if sampling.seed is None else sampling.model_copy(update={"seed": choice_seed(sampling.seed, number)})
        for number in range(body.n)
    ]
    requests = [
        served.engine.request(
            prompt,
            samplings[index % body.n],
            f"{name}-{index}" if several else name,
            logprobs=body.logprobs,
            prompt_logprobs=body.logprobs if body.echo else None,
            deadline_seconds=config.deadline(body.deadline_seconds),
        )
        for index, prompt in enumerate(prompt for prompt in prompts for _ in range(body.n))
    ]
    _require_few_logprobs(requests, body)
    return requests


def _require_few_logprobs(requests: list[Request], body: CompletionRequest) -> None:
    """RequestError where an answer would hold more of them than it may; a stream holds few at any time."""
    if body.logprobs is None or body.stream:
        return
    tokens = sum(body.max_tokens + len(request.prompt) * body.echo for request in requests)
    each = body.logprobs + 1  # of the token, and of those in its place
    if tokens * each > MAX_LOGPROBS_AT_ONCE:
        asked = f"{tokens} tokens with {each} log-probabilities each are {tokens * each}"
        most = f"an answer that is no stream has at most {MAX_LOGPROBS_AT_ONCE}"
        raise RequestError(f"{asked}; {most}: set stream, or ask for fewer", "logprobs")


class Piece(NamedTuple):
    """What a text gains."""

    choice: Choice
    completion_tokens: int
    """Of all choices of the request, up to here."""


Pieces = AsyncGenerator[list[Piece] | Failed, None]
"""Of every text as they come, together those that came together; a failure is the last."""


class Choices:
    """Some requests of one client, under way; all of them are taken, or none is.

    Attributes:
        requests: as the engine has them.
    """

    def __init__(self, served: Served, requests: list[Request], body: CompletionRequest) -> None:
        self.requests = requests
        self._served = served
        self._writers = [Writer(index, one, body, served.engine.encoding) for index, one in enumerate(requests)]
        self._choices_a_prompt = body.n
        self._streams: list[AsyncGenerator[list[Event], None]] = []

    def submit(self) -> None:
        """Hand them to the engine; raises as `Engine.submit_all` does."""
        self._streams = self._served.streams(self.requests)

    def cancel(self) -> None:
        """Stop them all within a step."""
        for request in self.requests:
            self._served.engine.cancel(request.id)

    async def pieces(self) -> Pieces:
        """What the texts gain. Leaving the iteration cancels what is under way."""
        async with aclosing(self._events()) as come:
            async for writer, events in come:
                pieces = []
                for event in events:
                    if isinstance(event, Failed):
                        break
                    pieces += [Piece(choice, self._completion_tokens) for choice in writer.pieces(event)]
                if pieces:
                    yield pieces
                if isinstance(events[-1], Failed):
                    yield events[-1]
                    return

    async def _events(self) -> AsyncGenerator[tuple["Writer", list[Event]], None]:
        """Of all choices, each with its writer, until all have ended."""
        if len(self._streams) == 1:
            async with aclosing(self._streams[0]) as stream:
                async for events in stream:
                    yield self._writers[0], events
            return
        come: asyncio.Queue[tuple[Writer, list[Event] | Exception]] = asyncio.Queue(
            len(self._streams)
        )  # a slow reader stops the others

        async def read(writer: Writer, stream: AsyncGenerator[list[Event], None]) -> None:
            try:
                async with aclosing(stream):
                    async for events in stream:
                        await come.put((writer, events))
            except Exception as error:  # a bug of ours, which nobody may wait behind
                await come.put((writer, error))

        pairs = zip(self._writers, self._streams, strict=True)
        readers = [asyncio.create_task(read(writer, stream)) for writer, stream in pairs]
        try:
            while not all(writer.completed for writer in self._writers):
                writer, found = await come.get()
                if isinstance(found, Exception):
                    raise found
                yield writer, found
        finally:
            for reader in readers:  # all have begun by now, so leaving their streams cancels the requests
                reader.cancel()
            await asyncio.gather(*readers, return_exceptions=True)

    @property
    def usage(self) -> Usage:
        """So far: each prompt once, however many choices it has, and all that was generated."""
        return self.usage_with(self._completion_tokens)

    def usage_with(self, completion_tokens: int) -> Usage:
        """The same when so many were generated."""
        return usage(sum(len(one.prompt) for one in self.requests[:: self._choices_a_prompt]), completion_tokens)

    @property
    def _completion_tokens(self) -> int:
        return sum(writer.tokens for writer in self._writers)


class Writer:
    """One choice: events of the engine in, pieces of the answer out.

    Attributes:
        tokens: that were generated, the end of the text not counted.
        completed: whether the last event has come.
    """

    def __init__(self, index: int, request: Request, body: CompletionRequest, encoding: Encoding) -> None:
        self.tokens = 0
        self.completed = False
        self._index = index
        self._scores_only = not body.max_tokens  # the engine generates one token all the same
        prompt = text_of(encoding, request.prompt) if body.echo or body.logprobs is not None else ""
        self._echo = prompt if body.echo else ""
        self._of_prompt = LogprobsWriter(encoding, 0)
        self._of_output = LogprobsWriter(encoding, len(prompt))
        self._end = encoding.end_of_text

    def pieces(self, event: PromptEvent | TokenEvent | Completed) -> Iterator[Choice]:
        """What an event adds to the answer; the prompt, where it is wanted, comes before anything else."""
        if isinstance(event, PromptEvent):
            scores = self._of_prompt.write(event.scores)
            yield Choice(index=self._index, text=self._echo, logprobs=scores, finish_reason=None)
            self._echo = ""
            return
        if self._echo:
            yield Choice(index=self._index, text=self._echo, finish_reason=None)
            self._echo = ""
        match event:
            case TokenEvent() if not self._scores_only:
                self.tokens += event.token != self._end
                told = None if event.logprob is None else self._of_output.write([event])
                yield Choice(index=self._index, text=event.text, logprobs=told, finish_reason=None)
            case Completed():
                self.completed = True
                reason = "length" if self._scores_only and event.reason == "stop" else event.reason
                yield Choice(index=self._index, text="", finish_reason=reason)


class Whole:
    """The choices of an answer that is no stream, as far as they have come.

    Of half a million tokens it holds the texts and scores, and not the pieces that brought them, which are ten times as
    large.
    """

    def __init__(self) -> None:
        self._last: dict[int, Choice] = {}
        self._texts: dict[int, StringIO] = {}
        self._logprobs: dict[int, Logprobs] = {}

    def add(self, piece: Choice) -> None:
        """The next piece of its choice."""
        index = piece.index
        self._last[index] = piece
        self._texts.setdefault(index, StringIO()).write(piece.text)
        if piece.logprobs and (known := self._logprobs.setdefault(index, piece.logprobs)) is not piece.logprobs:
            extend(known, piece.logprobs)

    def choices(self) -> list[Choice]:
        """In their order."""
        return [
            Choice(
                index=index,
                text=self._texts[index].getvalue(),
                logprobs=self._logprobs.get(index),
                finish_reason=last.finish_reason,
            )
            for index, last in sorted(self._last.items())
        ]
