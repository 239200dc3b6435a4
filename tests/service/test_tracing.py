"""Traces: what a request waited, read and wrote, as spans of its caller's trace."""

import gzip
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx2
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from tests.running_service import Service, running, soon
from victorian.config import EngineConfig, ObservationConfig, ServiceConfig
from victorian.errors import ConfigError
from victorian.service.observation import Observer
from victorian.service.tracing import Tracing

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SECRET = "Xanthippe"


class Traces:
    """A service and the spans that it has made."""

    def __init__(self, service: Service, exporter: InMemorySpanExporter, tracing: Tracing) -> None:
        self.service = service
        self._exporter = exporter
        self._tracing = tracing

    def spans(self) -> dict[str, ReadableSpan]:
        """By name, and gone from here afterwards."""
        self._tracing.flush()
        spans = {span.name: span for span in self._exporter.get_finished_spans()}
        self._exporter.clear()
        return spans

    def ask(self, **body: object) -> httpx2.Response:
        return httpx2.post(f"{self.service.url}/v1/completions", json=body, headers={"traceparent": PARENT})


@pytest.fixture(scope="module")
def traces(toy_artifact: Path, free_port: Callable[[], int]) -> Iterator[Traces]:
    exporter = InMemorySpanExporter()
    tracing = Tracing(exporter)
    config = ServiceConfig(engine=EngineConfig(max_running=1))
    with running(toy_artifact, free_port(), config, Observer(config.observe, tracing=tracing)) as service:
        yield Traces(service, exporter, tracing)


def test_a_request_is_a_span_of_its_callers_trace(traces: Traces) -> None:
    answer = traces.ask(prompt=SECRET, max_tokens=5, min_tokens=5, temperature=0.5).json()
    spans = traces.spans()
    root = spans.pop("text_completion toy")
    assert root.parent is not None
    assert root.context is not None
    assert root.kind == SpanKind.SERVER
    assert f"{root.parent.trace_id:032x}-{root.parent.span_id:016x}" == PARENT[3:-3]
    assert root.attributes is not None
    told = {name: root.attributes[f"gen_ai.{name}"] for name in ("request.model", "request.temperature", "response.id")}
    assert told == {"request.model": "toy", "request.temperature": 0.5, "response.id": answer["id"]}
    assert root.attributes["gen_ai.usage.input_tokens"] == answer["usage"]["prompt_tokens"]
    assert root.attributes["gen_ai.usage.output_tokens"] == 5
    assert root.attributes["gen_ai.response.finish_reasons"] == ("length",)

    assert list(spans) == ["queue", "prefill", "decode"]
    at = root.start_time
    for span in spans.values():
        assert span.parent is not None
        assert span.parent.span_id == root.context.span_id
        assert span.start_time == at
        at = span.end_time
    assert at == root.end_time


def test_no_span_tells_what_was_written(traces: Traces) -> None:
    traces.ask(prompt=SECRET, max_tokens=5, stop=[SECRET])
    assert all(SECRET not in span.to_json() for span in traces.spans().values())


def test_a_failure_is_told_with_its_code(traces: Traces, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("injected")

    with monkeypatch.context() as patched:
        patched.setattr(traces.service.engine._forward.runner, "run", fail)
        assert traces.ask(prompt="It").status_code == 500
    spans = traces.spans()
    assert list(spans) == ["text_completion toy"]
    (root,) = spans.values()
    assert root.status.status_code == StatusCode.ERROR
    assert root.attributes is not None
    assert root.attributes["error.type"] == "internal_error"


def test_a_caller_who_is_not_traced_is_left_alone(traces: Traces) -> None:
    headers = {"traceparent": PARENT.removesuffix("01") + "00"}
    httpx2.post(f"{traces.service.url}/v1/completions", json={"max_tokens": 1, "min_tokens": 1}, headers=headers)
    assert traces.spans() == {}


@pytest.mark.parametrize("nonsense", ["", "00-0-0-01", "x" * 5000])
def test_a_trace_that_makes_no_sense_begins_a_new_one(traces: Traces, nonsense: str) -> None:
    headers = {"traceparent": nonsense}
    answer = httpx2.post(
        f"{traces.service.url}/v1/completions", json={"max_tokens": 1, "min_tokens": 1}, headers=headers
    )
    assert answer.status_code == 200
    assert traces.spans()["text_completion toy"].parent is None


def test_spans_reach_a_receiver(toy_artifact: Path, free_port: Callable[[], int]) -> None:
    received: list[bytes] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append(gzip.decompress(body) if self.headers["Content-Encoding"] == "gzip" else body)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Receiver) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        observe = ObservationConfig(traces_to=f"http://127.0.0.1:{server.server_port}/v1/traces")
        with running(toy_artifact, free_port(), ServiceConfig(observe=observe)) as service:
            httpx2.post(f"{service.url}/v1/completions", json={"max_tokens": 2, "min_tokens": 2})
        assert soon(lambda: bool(received))  # the service has ended, and sent what it had
        server.shutdown()
    (resource,) = ExportTraceServiceRequest.FromString(received[0]).resource_spans
    assert [(one.key, one.value.string_value) for one in resource.resource.attributes if one.key == "service.name"]
    names = [span.name for scope in resource.scope_spans for span in scope.spans]
    assert sorted(names) == ["decode", "prefill", "queue", "text_completion toy"]


def test_a_receiver_that_is_not_there_disturbs_nobody(toy_artifact: Path, free_port: Callable[[], int]) -> None:
    observe = ObservationConfig(traces_to=f"http://127.0.0.1:{free_port()}/v1/traces")
    with running(toy_artifact, free_port(), ServiceConfig(observe=observe)) as service:
        answer = httpx2.post(f"{service.url}/v1/completions", json={"max_tokens": 2})
        assert answer.status_code == 200
        assert httpx2.get(f"{service.url}/health").status_code == 200


def test_traces_without_their_libraries_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(ConfigError, match=r"pip install 'victorian\[tracing\]'"):
        Observer(ObservationConfig(traces_to="http://127.0.0.1:4318/v1/traces"))
    Observer(ObservationConfig())
