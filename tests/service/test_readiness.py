"""`/ready` means that tokens come: from real requests, or from a probe that nobody can crowd out."""

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx2
import pytest

from tests.running_service import Service, running, soon
from victorian.artifact import read_artifact
from victorian.config import EngineConfig, ObservationConfig, SamplingParameters, ServiceConfig
from victorian.engine.engine import Engine
from victorian.engine.mailbox import complete
from victorian.engine.request import Deliver, Request
from victorian.engine.succession import Succession
from victorian.service.models import Models, Served
from victorian.service.readiness import Readiness, beyond_repair, stuck

LONG = {"prompt": "It", "max_tokens": 30_000, "min_tokens": 30_000, "stream": True}


@pytest.fixture
def quick(toy_artifact: Path, free_port: Callable[[], int]) -> Iterator[Service]:
    """A service that is asked for a token every 0.4 s, and given 0.3 s for it; it has room for one and one more."""
    config = ServiceConfig(
        engine=EngineConfig(max_running=1, max_waiting=1),
        observe=ObservationConfig(probe_seconds=0.4, probe_timeout_seconds=0.3),
    )
    with running(toy_artifact, free_port(), config) as made:
        yield made


@pytest.fixture
def steps(quick: Service, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many requests each step of the network had."""
    run = quick.engine._forward.runner.run
    seen: list[int] = []

    def counted(reads: list[object]) -> object:
        seen.append(len(reads))
        return run(reads)  # type: ignore[arg-type]

    monkeypatch.setattr(quick.engine._forward.runner, "run", counted)
    return seen


@pytest.fixture
def hang(quick: Service, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Set, it has the network go on; until then no step ends."""
    assert soon(lambda: ready(quick)[0] == 200)  # what never gave a token has been silent for ever
    goes_on, run = threading.Event(), quick.engine._forward.runner.run

    def wait(reads: list[object]) -> object:
        goes_on.wait()
        return run(reads)  # type: ignore[arg-type]

    monkeypatch.setattr(quick.engine._forward.runner, "run", wait)
    yield goes_on
    goes_on.set()


def ready(service: Service) -> tuple[int, str]:
    answer = httpx2.get(f"{service.url}/ready", timeout=10)
    error = answer.json().get("error", {})
    return answer.status_code, str(error.get("message", ""))


def test_an_idle_model_is_asked_for_a_token_again_and_again(quick: Service, steps: list[int]) -> None:
    assert soon(lambda: len(steps) >= 3)
    assert set(steps) == {1}
    assert ready(quick) == (200, "")


def test_a_full_house_is_ready(quick: Service) -> None:
    with (
        ThreadPoolExecutor(1) as threads,
        httpx2.Client(base_url=quick.url, timeout=20) as client,
        ExitStack() as streams,
    ):
        streams.enter_context(client.stream("POST", "/v1/completions", json=LONG))
        waiting = threads.submit(client.post, "/v1/completions", json=LONG | {"max_tokens": 1, "stream": False})
        assert soon(lambda: quick.engine.active == 2)
        assert client.post("/v1/completions", json=LONG).status_code == 429
        for _ in range(10):
            assert ready(quick) == (200, "")
        streams.close()
        assert waiting.result().status_code == 200
    assert quick.idle()


def test_a_model_that_hangs_is_not_ready_and_is_again_when_it_goes_on(quick: Service, hang: threading.Event) -> None:
    assert soon(lambda: ready(quick)[0] == 503)
    status, message = ready(quick)
    assert status == 503
    assert message.startswith("toy: no token came")
    assert httpx2.get(f"{quick.url}/health").json() == {"status": "ok"}
    with httpx2.Client(base_url=quick.url, timeout=10) as client, ThreadPoolExecutor(10) as threads:
        answers = list(threads.map(lambda _: client.get("/ready").status_code, range(100)))
    assert set(answers) == {503}
    assert quick.engine.active == 1  # a probe that hangs in it, and no second one
    hang.set()
    assert soon(lambda: ready(quick) == (200, ""))


def test_a_model_that_is_broken_is_not_ready_at_once_and_the_log_says_why(
    quick: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("injected")

    monkeypatch.setattr(quick.engine._scheduler, "schedule", fail)
    # It breaks with this request, or with a probe that comes before it.
    assert httpx2.post(f"{quick.url}/v1/completions", json={"prompt": "It"}).status_code in (500, 503)
    answer = httpx2.get(f"{quick.url}/ready")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_ready")
    assert answer.json()["error"]["message"] == "toy: its engine has stopped"
    assert answer.headers["retry-after"] == "1"
    assert httpx2.get(f"{quick.url}/health").json() == {"status": "ok"}
    assert "RuntimeError: injected" in caplog.text


def test_a_model_that_fails_its_test_is_not_ready_and_no_exception_is_shown(
    quick: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("injected")

    with monkeypatch.context() as patched:
        patched.setattr(quick.engine._forward.runner, "run", fail)
        assert soon(lambda: ready(quick)[0] == 503)
        assert ready(quick)[1] in ("toy: it failed to generate a token", "toy: its engine has stopped")
    assert "RuntimeError: injected" in caplog.text


class TestProbes:
    """How often a model is asked, when nothing else happens to it."""

    @pytest.fixture
    def asked(self, toy_artifact: Path) -> Iterator[tuple[Readiness, Engine, list[str]]]:
        """A model that nobody has asked for anything, and the ids of the requests that it gets."""
        artifact = read_artifact(str(toy_artifact))
        with Engine(artifact.model, artifact.encoding, EngineConfig()) as engine:
            submitted: list[str] = []
            submit_all = engine.submit_all

            def noted(requests: Sequence[tuple[Request, Deliver]]) -> None:
                submitted.extend(request.id for request, _ in requests)
                submit_all(requests)

            engine.submit_all = noted  # type: ignore[method-assign]
            yield Readiness(Models([Served("toy", 0, Succession(engine))]), ObservationConfig()), engine, submitted

    def test_many_who_ask_at_once_cost_one_token(self, asked: tuple[Readiness, Engine, list[str]]) -> None:
        readiness, _, submitted = asked

        async def crowd() -> list[dict[str, str]]:
            return await asyncio.gather(*(readiness.troubles() for _ in range(500)))

        assert asyncio.run(crowd()) == [{}] * 500
        assert len(submitted) == 1

    def test_a_real_request_proves_as_much_as_a_probe(self, asked: tuple[Readiness, Engine, list[str]]) -> None:
        readiness, engine, submitted = asked
        complete(engine, engine.request("It", SamplingParameters(max_tokens=2), "real"))
        asyncio.run(readiness.refresh())
        assert asyncio.run(readiness.troubles()) == {}
        assert submitted == ["real"]


def test_no_model_at_all_is_not_ready() -> None:
    async def ask() -> dict[str, str]:
        return await Readiness(Models(), ObservationConfig()).troubles()

    assert asyncio.run(ask()) == {"": "no model is loaded yet"}


def test_a_model_that_hangs_is_given_up_after_a_while(quick: Service, hang: threading.Event) -> None:
    patient = ObservationConfig(probe_seconds=0.4)
    impatient = patient.model_copy(update={"hang_seconds": 1})
    assert soon(lambda: beyond_repair(quick.models, impatient) is not None)
    assert beyond_repair(quick.models, impatient) == "no token came for 1 s from toy"
    assert beyond_repair(quick.models, patient) is None
    assert stuck(quick.models, impatient)
    assert not stuck(quick.models, patient)
    hang.set()
    assert soon(lambda: beyond_repair(quick.models, impatient) is None)


def test_a_model_that_hangs_does_not_end_the_streams_of_another(
    quick: Service, hang: threading.Event, toy_artifact: Path
) -> None:
    config = ObservationConfig(probe_seconds=0.4, hang_seconds=1)
    loaded = read_artifact(str(toy_artifact))
    with Engine(loaded.model, loaded.encoding, EngineConfig(max_running=1, max_unread=30_000)) as other:
        models = Models([*quick.models.all(), Served("other", 0, Succession(other))])
        stream = other.stream(other.request("It", SamplingParameters(max_tokens=30_000, min_tokens=30_000)))
        assert next(stream)
        assert soon(lambda: beyond_repair(models, config) is not None)
        assert not stuck(models, config)
        stream.close()
        assert soon(lambda: stuck(models, config))


def test_a_model_whose_engine_has_stopped_is_given_up(quick: Service) -> None:
    quick.engine.close()
    assert beyond_repair(quick.models, ObservationConfig()) == "an engine has stopped"
