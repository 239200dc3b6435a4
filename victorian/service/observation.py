"""What every request leaves behind: numbers, a line in the log, and a span if traces are wanted.

Events are seen where the engine hands them over, so that a slow reader does not look like a slow engine and one who
leaves is still told to the end. A token costs a look at the clock and an entry in a list. Nothing of a request's text
is kept unless `log_texts` says so.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from functools import partial
from time import perf_counter, time_ns

from victorian.config import ObservationConfig
from victorian.engine.mailbox import AsyncMailbox
from victorian.engine.request import Completed, Event, Failed, Load, Request, TokenEvent
from victorian.engine.succession import Succession
from victorian.errors import AuthenticationError, OverloadedError, RequestError, ServiceError
from victorian.service import metrics
from victorian.service.incoming import Incoming, incoming
from victorian.service.logs import fields
from victorian.service.metrics import Meter, Metric, PrometheusMeter, Rejection
from victorian.service.tracing import Tracing, start_tracing

logger = logging.getLogger(__name__)

HAND_OVER_SECONDS = 1.0
"""How often the numbers of a stream that goes on are handed over."""


class Observer:
    """Sees every request of a service.

    Args:
        meters: what gets the numbers beside Prometheus's own.
        tracing: where spans go; by default where the configuration says.

    Raises:
        ConfigError: if traces are wanted and OpenTelemetry is not installed.
    """

    def __init__(self, config: ObservationConfig, meters: Iterable[Meter] = (), tracing: Tracing | None = None) -> None:
        self.prometheus = PrometheusMeter()
        self.tracing = tracing or start_tracing(config)
        self.texts = config.log_texts
        self._meters: tuple[Meter, ...] = (self.prometheus, *meters)

    def streams(
        self, model: str, engine: Succession, requests: Sequence[Request]
    ) -> list[AsyncGenerator[list[Event], None]]:
        """As `Engine.streams_async`, and seen."""
        accounts = [Account(self, model, engine, request) for request in requests]
        mailboxes = [engine.mailbox() for _ in requests]

        def deliver(account: Account, mailbox: AsyncMailbox, event: Event) -> None:
            account.enter(event)
            mailbox.put(event)

        delivers = [partial(deliver, *both) for both in zip(accounts, mailboxes, strict=True)]
        engine.submit_all(list(zip(requests, delivers, strict=True)))
        return [
            mailbox.read(partial(engine.cancel, request.id))
            for request, mailbox in zip(requests, mailboxes, strict=True)
        ]

    def refuse(self, error: Exception, model: str = "") -> None:
        """Count what was asked for and not taken, and note it for the line about it.

        Args:
            model: the one that was meant; nothing where it did not come to that.
        """
        reason = rejection(error)
        self.count(metrics.REJECTIONS, model, 1, reason)
        incoming().refusal = {"model": model or None, "reason": reason}

    def show(self, loads: Mapping[str, Load]) -> None:
        """Tell how busy the models are."""
        for meter in self._meters:
            meter.show(loads)

    def count(self, metric: Metric, model: str, amount: int = 1, value: str | None = None) -> None:
        """Add to a counter, if there is something to add."""
        if amount > 0:
            for meter in self._meters:
                meter.count(metric, model, amount, value)

    def measure(self, metric: Metric, model: str, *seconds: float) -> None:
        """Add to a histogram."""
        for meter in self._meters:
            meter.measure(metric, model, seconds)

    def close(self) -> None:
        """Send off what was traced."""
        if self.tracing:
            self.tracing.close()


def rejection(error: Exception) -> Rejection:
    """What a refusal is counted by."""
    match error:
        case OverloadedError():
            return "rate_limited" if error.code == "rate_limited" else "overloaded"
        case AuthenticationError():
            return "unauthorized"
        case RequestError():
            return "model_not_found" if error.code == "model_not_found" else "invalid_request"
        case ServiceError():
            return "stopped"
        case _:
            return "invalid_message"


class Account:
    """Of one request, from its submission to its end; made where its event loop runs."""

    def __init__(self, observer: Observer, model: str, engine: Succession, request: Request) -> None:
        self._observer = observer
        self._model = model
        self._engine = engine
        self._request = request
        self._asking: Incoming = incoming()
        self._loop = asyncio.get_running_loop()
        self._began_ns = time_ns()
        self._began = self._last = self._handed_over = perf_counter()
        self._first_token_seconds: float | None = None
        self._tokens = 0
        self._counted = 0
        self._gaps: list[float] = []
        self._texts: list[str] = []

    def enter(self, event: Event) -> None:
        """Note what happens, now; on the engine's thread."""
        if isinstance(event, TokenEvent):
            now = perf_counter()
            self._tokens += 1
            if self._first_token_seconds is None:
                self._first_token_seconds = now - self._began
                self._observer.count(metrics.PROMPT_TOKENS, self._model, len(self._request.prompt))
                self._observer.measure(metrics.FIRST_TOKEN, self._model, self._first_token_seconds)
            else:
                self._gaps.append(now - self._last)
            self._last = now
            if self._observer.texts:
                self._texts.append(event.text)
            if now - self._handed_over > HAND_OVER_SECONDS:
                self._handed_over = now
                gaps, self._gaps = self._gaps, []
                # Not the last: what a stop string held back may come as one more event, which is no token.
                self._later(partial(self._hand_over, self._tokens - 1, gaps))
        elif isinstance(event, Completed | Failed):
            self._later(partial(self._close, event))

    def _later(self, work: Callable[[], None]) -> None:
        """On the event loop: what is slow here is none of the engine's business."""
        try:
            self._loop.call_soon_threadsafe(work)
        except RuntimeError:  # the loop is closed
            work()

    def _hand_over(self, tokens: int, gaps: list[float]) -> None:
        self._observer.count(metrics.GENERATION_TOKENS, self._model, tokens - self._counted)
        self._counted = max(tokens, self._counted)
        if gaps:
            self._observer.measure(metrics.BETWEEN_TOKENS, self._model, *gaps)

    def _close(self, end: Completed | Failed) -> None:
        seconds = perf_counter() - self._began
        observer, model, prompt_tokens = self._observer, self._model, len(self._request.prompt)
        if self._first_token_seconds is None and isinstance(end, Completed):
            observer.count(metrics.PROMPT_TOKENS, model, prompt_tokens)
        self._tokens = end.completion_tokens if isinstance(end, Completed) else self._tokens
        self._hand_over(self._tokens, self._gaps)
        observer.measure(metrics.LATENCY, model, seconds)
        counts = {"prompt_tokens": prompt_tokens, "completion_tokens": self._tokens}
        times = {"first_token_seconds": self._first_token_seconds, "seconds": seconds}
        match end:
            case Completed():
                observer.count(metrics.SUCCESSES, model, 1, end.reason)
                observer.count(metrics.CACHE_QUERIES, model, prompt_tokens)
                observer.count(metrics.CACHE_HITS, model, end.reused_tokens)
                observer.count(metrics.PREEMPTIONS, model, end.preemptions)
                observer.measure(metrics.QUEUED, model, end.queued_seconds)
                reused, queued = end.reused_tokens, end.queued_seconds
                more = {**counts, "reused_tokens": reused, "queued_seconds": queued, **times}
                self._log(logging.INFO, "request finished", status="completed", reason=end.reason, **more)
            case Failed():
                observer.count(metrics.FAILURES, model, 1, end.code)
                level = logging.ERROR if end.code == "internal_error" else logging.WARNING
                told = {"reason": end.code, "message": end.message}
                self._log(level, "request failed", status="failed", **told, **counts, **times)
        if observer.tracing:
            observer.tracing.record(
                model, self._request, self._asking.trace, self._began_ns, self._first_token_seconds, seconds, end
            )

    def _log(self, level: int, event: str, **particulars: object) -> None:
        self._asking.told = True
        who = {"request_id": self._asking.request_id, "id": self._request.id, "model": self._model}
        told = {name: round(value, 6) if isinstance(value, float) else value for name, value in particulars.items()}
        if self._observer.texts:
            told["prompt"] = self._engine.encoding.decode(list(self._request.prompt))
            told["text"] = "".join(self._texts)
        logger.log(level, event, extra=fields(**who, **told))
