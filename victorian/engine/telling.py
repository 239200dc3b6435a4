"""What the one who asked is told: a token, the end. Called on the engine's thread; knows no torch."""

import logging
from time import perf_counter

from victorian.engine.mailbox import SlowReaderError
from victorian.engine.request import Completed, Event, Failed, FinishReason, PromptEvent, Scored, TokenEvent
from victorian.engine.scheduler import Sequence

logger = logging.getLogger(__name__)


def tell_token(sequence: Sequence, drawn: Scored, end_of_text: int) -> FinishReason | None:
    """Add a token to its sequence and its text to what was told; why the request ends with it, if it does."""
    token, request = drawn.token, sequence.request
    if request.prompt_logprobs is not None and not sequence.generated:
        tell(sequence, PromptEvent((Scored(request.prompt[0]), *sequence.scores)))
    if token == end_of_text:  # not part of the text, and not counted
        tail = sequence.text.flush()
        if tail or request.logprobs is not None:  # how likely the end was is for those who asked
            tell(sequence, TokenEvent(sequence.generated, token, tail, drawn.logprob, drawn.likeliest))
        return "stop"
    if sequence.first_token is None:
        sequence.first_token = perf_counter()
    sequence.tokens.append(token)
    text = sequence.text.push(token)
    reason: FinishReason | None = None
    if sequence.text.stopped:
        reason = "stop"
    elif sequence.generated >= request.sampling.max_tokens:
        reason = "length"
        text += sequence.text.flush()
    tell(sequence, TokenEvent(sequence.generated - 1, token, text, drawn.logprob, drawn.likeliest))
    return reason


def tell_end(sequence: Sequence, reason: FinishReason) -> None:
    """The last that is told of a request: how it ended, or what its sequence says that went wrong."""
    if sequence.failure:
        return tell(sequence, sequence.failure)
    now = perf_counter()
    queued = (sequence.joined or now) - sequence.submitted
    first = sequence.first_token - sequence.submitted if sequence.first_token else 0.0
    counts = len(sequence.request.prompt), sequence.generated, sequence.reused
    seconds = queued, first, now - sequence.submitted
    return tell(sequence, Completed(reason, *counts, *seconds, sequence.preemptions))


def tell(sequence: Sequence, event: Event) -> None:
    """Call back; a request whose caller cannot be told is cancelled with the reason, and nobody else hears of it."""
    try:
        sequence.deliver(event)
    except SlowReaderError as error:
        sequence.cancelled, sequence.failure = True, Failed(str(error), "slow_reader")
    except Exception as error:
        logger.exception("the callback of request %s failed", sequence.request.id)
        sequence.cancelled, sequence.failure = True, Failed(f"its callback failed: {type(error).__name__}")
