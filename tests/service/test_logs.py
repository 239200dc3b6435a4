"""A line an event; ids that come back to who asked; and no line that tells what somebody wrote."""

import io
import json
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from pydantic import BaseModel
from websockets.sync.client import connect

from tests.running_service import Service, running, soon
from victorian.config import EngineConfig, ModelsConfig, ModelSource, ObservationConfig, ServiceConfig
from victorian.service.logs import fields, write_logs
from victorian.service.models import Models

SECRET = "Xanthippe"
LONG = {"prompt": SECRET, "max_tokens": 30_000, "min_tokens": 30_000, "stream": True}


class Log:
    """What a process with this configuration writes."""

    def __init__(self, config: ObservationConfig) -> None:
        self.stream = io.StringIO()
        self._handler = write_logs(config, self.stream)

    def close(self) -> None:
        logger = logging.getLogger("victorian")
        logger.removeHandler(self._handler)
        logger.setLevel(logging.NOTSET)
        logger.propagate = True

    @property
    def entries(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]

    def of(self, request_id: str, event: str) -> dict[str, Any]:
        """The one line about a request, once it is there."""
        found: list[dict[str, Any]] = []

        def come() -> bool:
            found[:] = [e for e in self.entries if (e.get("request_id"), e["event"]) == (request_id, event)]
            return bool(found)

        assert soon(come), self.stream.getvalue()
        (entry,) = found
        return entry


@pytest.fixture
def log(request: pytest.FixtureRequest) -> Iterator[Log]:
    made = Log(getattr(request, "param", ObservationConfig()))
    yield made
    made.close()


@pytest.fixture(scope="module")
def small(toy_artifact: Path, free_port: Callable[[], int]) -> Iterator[Service]:
    observe = ObservationConfig(probe_seconds=600)  # a probe would take the only place from a request
    config = ServiceConfig(engine=EngineConfig(max_running=1, max_waiting=0), observe=observe)
    with running(toy_artifact, free_port(), config) as made:
        yield made


def post(service: Service, request_id: str, **body: object) -> httpx2.Response:
    return httpx2.post(f"{service.url}/v1/completions", json=body, headers={"X-Request-Id": request_id})


def test_a_request_leaves_one_line_with_its_counts_and_times(small: Service, log: Log) -> None:
    answer = post(small, "mine-1", prompt=SECRET, max_tokens=5, min_tokens=5)
    usage = answer.json()["usage"]
    entry = log.of("mine-1", "request finished")
    assert (entry["level"], entry["model"]) == ("info", "toy")
    assert (entry["status"], entry["reason"]) == ("completed", "length")
    assert entry["id"] == answer.json()["id"]
    assert (entry["prompt_tokens"], entry["completion_tokens"]) == (usage["prompt_tokens"], 5)
    assert 0 < entry["queued_seconds"] < entry["first_token_seconds"] < entry["seconds"] < 10
    assert entry["time"].endswith("+00:00")


def test_refusals_and_failures_have_their_lines(small: Service, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    with httpx2.stream("POST", f"{small.url}/v1/completions", json=LONG, headers={"X-Request-Id": "leaves"}) as answer:
        lines = answer.iter_lines()  # closes the stream when it is dropped
        next(lines)
        assert post(small, "full", prompt=SECRET).status_code == 429
    assert post(small, "long", prompt="word " * 200).status_code == 400
    assert log.of("leaves", "request finished")["reason"] == "cancelled"
    assert log.of("full", "request refused")["reason"] == "overloaded"
    assert log.of("long", "request refused")["http_status"] == 400

    def fail(*_: object) -> None:
        raise RuntimeError("injected")

    assert small.idle()
    with monkeypatch.context() as patched:
        patched.setattr(small.engine._forward.runner, "run", fail)
        assert post(small, "broken", prompt=SECRET).status_code == 500
    entry = log.of("broken", "request failed")
    assert (entry["level"], entry["reason"], entry["message"]) == ("error", "internal_error", "RuntimeError: injected")
    about = [entry["request_id"] for entry in log.entries if "request_id" in entry]
    assert sorted(about) == ["broken", "full", "leaves", "long"]


@pytest.mark.parametrize(
    "log", [ObservationConfig(log_level="debug", log_format=f) for f in ("json", "text")], indirect=True
)  # type: ignore[arg-type]
def test_no_line_tells_what_was_written(small: Service, log: Log) -> None:
    told = post(small, "whole", prompt=SECRET, max_tokens=40, min_tokens=40, stop=[SECRET]).json()["choices"][0]["text"]
    post(small, "wrong", prompt=SECRET, temperature=SECRET)
    post(small, "unknown", prompt=SECRET, **{SECRET: SECRET})
    httpx2.get(f"{small.url}/v1/models?prompt={SECRET}")
    with connect(small.socket_url) as socket:
        socket.recv()
        for message in (
            {"type": "generate", "id": "a", "prompt": SECRET, "parameters": {"max_tokens": 3}},
            {"no": SECRET},
        ):
            socket.send(json.dumps(message))
        while "complete" not in socket.recv(timeout=10):
            pass
    assert soon(lambda: log.stream.getvalue().count("request finished") == 2)
    written = log.stream.getvalue()
    assert "request refused" in written
    assert SECRET not in written
    assert told[:20] not in written


def test_texts_are_logged_where_that_is_asked_for(toy_artifact: Path, free_port: Callable[[], int]) -> None:
    config = ObservationConfig(log_texts=True)
    log = Log(config)
    with running(toy_artifact, free_port(), ServiceConfig(observe=config)) as service:
        text = post(service, "open", prompt=SECRET, max_tokens=12).json()["choices"][0]["text"]
        entry = log.of("open", "request finished")
    log.close()
    assert (entry["prompt"], entry["text"]) == (SECRET, text)


def test_errors_that_quote_are_told_without_their_words(log: Log) -> None:
    class Message(BaseModel):
        prompt: int

    def meet(value: object) -> None:
        try:
            Message.model_validate({"prompt": value})
        except ValueError as error:
            raise RuntimeError(f"about {error}") from error

    try:
        meet(SECRET)
    except RuntimeError:
        logging.getLogger("victorian.anything").exception("something broke", extra=fields(model="toy"))
    try:
        raise RuntimeError("out of memory")
    except RuntimeError:
        logging.getLogger("victorian.anything").exception("something broke")
    quoting, plain = log.entries
    assert (quoting["error"], quoting["model"], quoting["level"]) == ("RuntimeError", "toy", "error")
    assert "test_logs.py" in quoting["traceback"]
    assert SECRET not in json.dumps(quoting)
    assert "out of memory" in plain["traceback"]


@pytest.mark.parametrize("log", [ObservationConfig(log_format="text", log_level="warning")], indirect=True)
def test_text_is_for_eyes_and_levels_are_heeded(log: Log) -> None:
    logger = logging.getLogger("victorian.anything")
    logger.info("not this")
    logger.warning("request refused", extra=fields(model="a\nb", status=429))
    (line,) = log.stream.getvalue().splitlines()
    assert line.endswith(r'warning request refused logger="victorian.anything" model="a\nb" status=429')


def test_models_that_come_and_go_are_told(toy_artifact: Path, log: Log) -> None:
    models = Models()
    engine = EngineConfig(max_running=1)
    try:
        for name in ("first", "second"):
            models.load(ModelsConfig(models=(ModelSource(artifact=str(toy_artifact), name=name),)), engine)
    finally:
        models.close()
    told = [entry for entry in log.entries if entry["logger"] == "victorian.service.models"]
    assert [entry["event"] for entry in told] == ["model loaded", "model loaded", "models replaced"]
    assert (told[0]["model"], told[0]["artifact"]) == ("first", str(toy_artifact))
    assert told[2]["models"] == ["second"]


class TestRequestId:
    """`X-Request-Id`, on every answer."""

    @pytest.mark.parametrize("sent", ["mine", "A-b_c.9", "x" * 128])
    def test_a_sane_one_comes_back(self, small: Service, sent: str) -> None:
        assert httpx2.get(f"{small.url}/health", headers={"X-Request-Id": sent}).headers["x-request-id"] == sent

    @pytest.mark.parametrize("sent", ["", "x" * 129, "two words", "a\tb", '"quoted"', "é", "a;b"])
    def test_another_is_made_where_it_is_not_sane(self, small: Service, sent: str) -> None:
        headers = {"X-Request-Id": sent.encode()}
        made = {httpx2.get(f"{small.url}/health", headers=headers).headers["x-request-id"] for _ in range(2)}
        assert sent not in made
        assert len(made) == 2
        assert all(len(one) == 32 for one in made)

    def test_it_is_on_errors_too(self, small: Service, monkeypatch: pytest.MonkeyPatch, log: Log) -> None:
        headers = {"X-Request-Id": "mine"}
        assert httpx2.get(f"{small.url}/nowhere", headers=headers).headers["x-request-id"] == "mine"
        assert post(small, "mine", prompt=5).headers["x-request-id"] == "mine"
        assert post(small, "mine", prompt="x" * (1 << 20)).headers["x-request-id"] == "mine"

        def fail(*_: object, **__: object) -> None:
            raise RuntimeError(SECRET)

        with monkeypatch.context() as patched:
            patched.setattr(small.engine, "request", fail)
            answer = post(small, "unforeseen", prompt="It")
        assert (answer.status_code, answer.headers["x-request-id"]) == (500, "unforeseen")
        assert log.of("unforeseen", "request met an error of ours")["error"] == "RuntimeError"

    def test_it_is_on_streams_and_handshakes(self, small: Service, log: Log) -> None:
        answer = post(small, "streamed", prompt="It", max_tokens=2, stream=True)
        assert answer.headers["x-request-id"] == "streamed"
        with connect(small.socket_url, additional_headers={"X-Request-Id": "socket"}) as socket:
            assert socket.response is not None
            assert socket.response.headers["x-request-id"] == "socket"
            socket.recv()
            socket.send(json.dumps({"type": "generate", "id": "a", "parameters": {"max_tokens": 2}}))
            while "complete" not in socket.recv(timeout=10):
                pass
        assert log.of("socket", "request finished")["id"].endswith("/a")


def test_what_runs_the_service_prints_no_texts_of_errors(
    small: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """uvicorn and Serve print what an application raises."""

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(SECRET)

    monkeypatch.setattr(sys.modules["victorian.service.models"].Models, "find", fail)
    assert post(small, "mine", prompt=SECRET).status_code == 500
    printed = [record for record in caplog.records if record.name.startswith("uvicorn")]
    assert soon(lambda: bool(printed) or any(r.name.startswith("uvicorn") for r in caplog.records))
    for record in caplog.records:
        if record.name.startswith("uvicorn"):
            assert SECRET not in logging.Formatter().format(record)
            assert "mine met a RuntimeError" in logging.Formatter().format(record)


def test_nobody_can_write_a_line_of_his_own() -> None:
    stream = io.StringIO()
    handler = write_logs(ObservationConfig(log_format="text"), stream)
    try:
        logging.getLogger("victorian.test").warning("a\n2026-01-01T00:00:00 error all is lost", extra=fields(id="b\nc"))
    finally:
        logging.getLogger("victorian").removeHandler(handler)
    assert len(stream.getvalue().splitlines()) == 1
