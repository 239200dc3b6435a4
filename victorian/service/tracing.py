"""Requests as OpenTelemetry's traces, with the names of its conventions for generative models.

A span a request, with what it waited, read and wrote below it. Spans are made when a request has ended, from times
that are known then, so a token costs nothing. OpenTelemetry is an extra, `victorian[tracing]`, and imported only here.
"""

from typing import TYPE_CHECKING

from victorian.config import ObservationConfig
from victorian.engine.request import Completed, Failed, Request
from victorian.errors import ConfigError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

SERVICE = "victorian"
OPERATION = "text_completion"
EXPORT_SECONDS = 3
"""What a receiver may take for a batch, tries and all; a service that ends waits for the last one."""


def start_tracing(config: ObservationConfig) -> "Tracing | None":
    """Traces as the configuration wants them; ConfigError if it does and OpenTelemetry is not there."""
    if config.traces_to is None:
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        message = (
            f"traces to {config.traces_to} want OpenTelemetry: pip install 'victorian[tracing]', or unset traces_to"
        )
        raise ConfigError(message) from error
    return Tracing(OTLPSpanExporter(config.traces_to, timeout=EXPORT_SECONDS), config.traced_share)


class Tracing:
    """Makes spans and sends them off, in batches and on a thread of its own.

    Args:
        share: of the requests whose callers have not decided, which are traced; 0 to 1.
    """

    def __init__(self, exporter: "SpanExporter", share: float = 1) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        resource = Resource.create({"service.name": SERVICE})
        self._provider = TracerProvider(resource=resource, sampler=ParentBasedTraceIdRatio(share))
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer(SERVICE)
        self._propagator = TraceContextTextMapPropagator()

    def record(
        self,
        model: str,
        request: Request,
        parent: dict[str, str],
        began_ns: int,
        first_token_seconds: float | None,
        seconds: float,
        end: Completed | Failed,
    ) -> None:
        """Tell a request that has ended.

        Args:
            parent: the caller's trace, as headers tell it.
            began_ns: since 1970.
            first_token_seconds: since then, if there was one.
            seconds: until the end.
        """
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

        attributes = _attributes(model, request, end)
        root = self._tracer.start_span(
            f"{OPERATION} {model}", self._propagator.extract(parent), SpanKind.SERVER, attributes, start_time=began_ns
        )
        queued = end.queued_seconds if isinstance(end, Completed) else None
        borders = {"queue": queued, "prefill": first_token_seconds, "decode": seconds}
        at = 0.0
        for name, until in borders.items():
            if until is None or (name == "decode" and first_token_seconds is None):
                continue
            until = max(at, until)
            span = self._tracer.start_span(name, set_span_in_context(root), start_time=_later(began_ns, at))
            span.end(_later(began_ns, until))
            at = until
        if isinstance(end, Failed):
            root.set_status(Status(StatusCode.ERROR, end.code))
        root.end(_later(began_ns, seconds))

    def flush(self) -> None:
        """Send what there is now."""
        self._provider.force_flush()

    def close(self) -> None:
        """Send what there is, and end the thread."""
        self._provider.shutdown()


def _later(began_ns: int, seconds: float) -> int:
    return began_ns + int(seconds * 1e9)


def _attributes(model: str, request: Request, end: Completed | Failed) -> dict[str, str | int | float | list[str]]:
    """See https://opentelemetry.io/docs/specs/semconv/gen-ai/; no texts."""
    sampling = request.sampling
    attributes: dict[str, str | int | float | list[str]] = {
        "gen_ai.operation.name": OPERATION,
        "gen_ai.provider.name": SERVICE,
        "gen_ai.request.model": model,
        "gen_ai.request.max_tokens": sampling.max_tokens,
        "gen_ai.request.temperature": sampling.temperature,
        "gen_ai.request.top_k": sampling.top_k,
        "gen_ai.request.top_p": sampling.top_p,
        "gen_ai.request.presence_penalty": sampling.presence_penalty,
        "gen_ai.request.frequency_penalty": sampling.frequency_penalty,
        "gen_ai.response.id": request.id,
        "gen_ai.response.model": model,
        "gen_ai.usage.input_tokens": len(request.prompt),
    }
    match end:
        case Completed():
            attributes["gen_ai.response.finish_reasons"] = [end.reason]
            attributes["gen_ai.usage.output_tokens"] = end.completion_tokens
            attributes["gen_ai.usage.cache_read.input_tokens"] = end.reused_tokens
        case Failed():
            attributes["error.type"] = end.code
    return attributes
