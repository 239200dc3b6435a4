"""A fault at every stage of a step: whoever caused it hears of it, and nobody is left waiting."""

import asyncio
import copy
from collections.abc import Callable, Iterator
from operator import attrgetter
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.running_service import soon
from victorian.artifact import Artifact, read_artifact
from victorian.config import EngineConfig, SamplingParameters
from victorian.engine.blocks import BLOCK_TOKENS
from victorian.engine.engine import Engine
from victorian.engine.mailbox import complete
from victorian.engine.request import Completed, Event, Failed, PromptEvent, Request, TokenEvent
from victorian.engine.runner import TorchRunner
from victorian.engine.scheduler import Read, Sequence
from victorian.engine.text import TextStream
from victorian.errors import RequestError, ServiceError

LONG = SamplingParameters(max_tokens=30_000, min_tokens=30_000, seed=2)
SHORT = SamplingParameters(max_tokens=40, seed=1)


@pytest.fixture(scope="module")
def artifact(toy_artifact: Path) -> Artifact:
    return read_artifact(str(toy_artifact))


@pytest.fixture
def engine(artifact: Artifact) -> Iterator[Engine]:
    with Engine(artifact.model, artifact.encoding, EngineConfig(max_running=4, max_unread=50)) as running:
        yield running


def fail(*_: object) -> None:
    raise RuntimeError("injected")


def failing(name: str, function: Callable[..., object]) -> Callable[..., object]:
    """A function that raises where one of its arguments shows this name, and does its work for the others."""

    def wrapped(*arguments: object) -> object:
        if any(name in repr(argument) for argument in arguments):
            fail()
        return function(*arguments)

    return wrapped


def begin(engine: Engine, name: str, parameters: SamplingParameters = LONG) -> list[Event]:
    """A request under way, and what has come of it."""
    events: list[Event] = []
    engine.submit(engine.request("It was", parameters, name), events.append)
    assert soon(lambda: len(events) > 2)
    return events


@pytest.mark.parametrize("stage", ["network", "penalties", "text"])
def test_a_fault_of_one_request_fails_it_alone(engine: Engine, stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = complete(engine, engine.request("It was", SHORT))[0]
    victim = begin(engine, "victim", LONG.model_copy(update={"logit_bias": {3: 0.125}}))
    other = begin(engine, "other", SHORT)
    match stage:
        case "network":
            monkeypatch.setattr(engine._forward.runner, "run", failing("'victim'", engine._forward.runner.run))
        case "penalties":
            sampler = engine._forward.sampler
            monkeypatch.setattr(sampler, "_seen_by", failing("'victim'", sampler._seen_by))
        case "text":
            monkeypatch.setattr(engine._sequences["victim"].text, "push", fail)
    assert soon(lambda: isinstance(victim[-1], Failed))
    assert "injected" in victim[-1].message  # type: ignore[union-attr]
    assert soon(lambda: isinstance(other[-1], Completed))
    assert "".join(event.text for event in other if isinstance(event, TokenEvent)) == expected
    assert engine.healthy
    assert complete(engine, engine.request("It was", SHORT))[0] == expected


@pytest.mark.parametrize(
    ("part", "method"),
    [
        ("_scheduler", "drop_cancelled"),
        ("_scheduler", "schedule"),
        ("_forward.runner", "run"),
        ("_scheduler", "advance"),
        ("_forward.sampler", "sample"),
        ("_scheduler", "finish"),
        ("_forward.sampler", "leave"),
    ],
)
def test_a_fault_of_the_engine_fails_everybody_and_it_says_so(
    engine: Engine, part: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = [begin(engine, name) for name in ("a", "b")]
    ending = begin(engine, "c", SHORT.model_copy(update={"max_tokens": 200}))
    monkeypatch.setattr(attrgetter(part)(engine), method, fail)
    for received in [*events, ending]:
        assert soon(lambda received=received: isinstance(received[-1], Failed))
        end = received[-1]
        assert isinstance(end, Failed)
        assert "injected" in end.message
    assert engine.active == 0
    assert not engine.healthy
    with pytest.raises(ServiceError, match="the engine has stopped: its log says why") as caught:
        engine.submit(engine.request("It", SHORT), lambda _: None)
    assert "injected" in str(caught.value.__cause__)


def broken_rows(engine: Engine, broken: Callable[[str], bool]) -> Callable[..., object]:
    run = engine._forward.runner.run

    def wrapped(reads: list) -> object:  # type: ignore[type-arg]
        logits, row = run(reads).copy(), 0  # type: ignore[attr-defined]
        for read in reads:
            if broken(read.sequence.request.id):
                logits[row : row + len(read.wanted), 5] = np.nan
            row += len(read.wanted)
        return logits

    return wrapped


def test_logits_that_are_no_numbers_fail_their_request_alone(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = complete(engine, engine.request("It was", SHORT))[0]
    monkeypatch.setattr(engine._forward.runner, "run", broken_rows(engine, lambda name: name.startswith("bad")))
    for index in range(5):  # never three in a row
        with pytest.raises(ServiceError, match="the network gave something that is no number"):
            complete(engine, engine.request("It was", SHORT, f"bad {index}"))
        assert complete(engine, engine.request("It was", SHORT, f"good {index}"))[0] == expected
    assert engine.healthy


def test_a_network_that_gives_no_numbers_to_anybody_is_broken(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    events = [begin(engine, name) for name in "abcd"]
    monkeypatch.setattr(engine._forward.runner, "run", broken_rows(engine, lambda _: True))
    assert soon(lambda: all(isinstance(received[-1], Failed) for received in events))
    assert engine.active == 0
    assert not engine.healthy
    with pytest.raises(ServiceError) as caught:
        complete(engine, engine.request("It", SHORT))
    assert "3 requests in a row failed: the network gave something that is no number" in str(caught.value.__cause__)


def test_a_network_that_reads_long_prompts_and_gives_no_numbers_is_broken_as_well(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Engine(artifact.model, artifact.encoding, EngineConfig(max_running=1, chunk=16)) as engine:
        monkeypatch.setattr(engine._forward.runner, "run", broken_rows(engine, lambda _: True))
        for first in range(3):
            with pytest.raises(ServiceError):
                complete(engine, engine.request([first] * 40, SHORT))
        assert soon(lambda: not engine.healthy)


def test_a_network_that_fails_whoever_is_alone_with_it_is_broken_in_the_end(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine._forward.runner, "run", fail)
    for _ in range(3):
        assert engine.healthy
        with pytest.raises(ServiceError, match=r"RuntimeError: injected|3 requests in a row failed: injected"):
            complete(engine, engine.request("It", SHORT))
    assert soon(lambda: not engine.healthy)


def test_a_reader_that_never_reads_is_cancelled_with_the_reason(engine: Engine) -> None:
    stream = engine.stream(engine.request("It", LONG))
    assert soon(lambda: engine.active == 0)
    events = list(stream)
    assert len(events) == 51
    assert isinstance(events[-1], Failed)
    assert events[-1].message == "the reader left 50 tokens unread, which is all that is kept for it"
    assert engine.healthy


def test_a_reader_with_a_loop_that_never_reads_as_well(engine: Engine) -> None:
    async def main() -> list[Event]:
        stream = engine.stream_async(engine.request("It", LONG))
        while engine.active:
            await asyncio.sleep(0.01)
        return [event async for events in stream for event in events]

    events = asyncio.run(main())
    assert len(events) == 51
    assert isinstance(events[-1], Failed)


def ask(engine: Engine, **changes: object) -> Request:
    return engine.request("It", SamplingParameters.model_validate(changes))


def test_what_is_not_there_cannot_be_asked_for(engine: Engine) -> None:
    for changes, parameter, reason in (
        ({"logit_bias": {513: 1.0}}, "logit_bias", "token ids must be from 0 to 512"),
        ({"keep_tokens": 33}, "keep_tokens", "at most half the context, 32 tokens"),
    ):
        with pytest.raises(RequestError, match=reason) as caught:
            ask(engine, **changes)
        assert caught.value.parameter == parameter
    for name in ("logprobs", "prompt_logprobs"):
        with pytest.raises(RequestError, match="expected 0 to 20 alternatives, got 21") as caught:
            engine.request("It", SHORT, **{name: 21})  # type: ignore[arg-type]
        assert caught.value.parameter == name


def test_a_prompt_that_cannot_be_looked_up_fails_its_request_alone(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine._forward.runner, "run", broken_rows(engine, lambda name: name == "bad"))
    events = list(engine.stream(engine.request("It was a night", SHORT, "bad", prompt_logprobs=1)))
    assert [type(event) for event in events] == [Failed]
    events = list(engine.stream(engine.request("It was a night", SHORT, "good", prompt_logprobs=1)))
    assert isinstance(events[0], PromptEvent)


@pytest.mark.parametrize(
    ("precision", "kernels"), [("fp32", "auto"), ("bf16", "auto"), ("int8", "auto"), ("fp32", "torch")]
)
def test_what_a_request_leaves_in_the_cache_harms_nobody(artifact: Artifact, precision: str, kernels: str) -> None:
    """One position of the network is broken: texts that reach it fail, and those that get their blocks after do not."""
    broken = copy.deepcopy(artifact.model)
    with torch.no_grad():
        broken.position_embedding.weight[8] = torch.nan
    values = {"max_running": 2, "precision": precision, "kernels": kernels, "cache_tokens": 64}
    with Engine(broken, artifact.encoding, EngineConfig.model_validate(values)) as engine:
        two = SamplingParameters(max_tokens=2, seed=1, min_tokens=2)
        for first in range(6):
            with pytest.raises(ServiceError, match="no number"):
                complete(engine, engine.request([first] * 12, two))
            assert complete(engine, engine.request([first] * 3, two))[1].completion_tokens == 2
            both = [engine.stream(engine.request([first] * length, two)) for length in (2, 4)]
            assert all(isinstance(list(stream)[-1], Completed) for stream in both)
        assert engine.healthy


def test_nor_does_what_lies_in_blocks_that_are_not_begun_yet(artifact: Artifact) -> None:
    runner = TorchRunner(artifact.model, EngineConfig(), 8, artifact.encoding.size, torch.device("cpu"))
    for held in (runner._cache.keys, runner._cache.values):
        held[:, BLOCK_TOKENS : 2 * BLOCK_TOKENS] = torch.nan

    def sequence(tokens: int, blocks: list[int]) -> Sequence:
        request = Request("", (1,) * tokens, SHORT, 0)
        return Sequence(request, lambda _: None, TextStream(artifact.encoding, ()), 64, blocks=blocks)

    long, short = sequence(40, [2, 3, 4]), sequence(20, [0, 1])
    runner.run([Read(long, 0, 39, draws=True)])
    # One that has read nothing but its first token is padded to the other's length.
    assert np.isfinite(runner.run([Read(long, 39, 40, draws=True), Read(short, 0, 1, draws=True)])).all()


def test_a_stream_that_has_ended_cancels_nobody(engine: Engine) -> None:
    first = engine.stream(engine.request("It", SHORT, "same"))
    while isinstance(next(first), TokenEvent):
        pass
    second = begin(engine, "same")
    first.close()  # type: ignore[attr-defined]
    assert soon(lambda: len(second) > 20)
    engine.cancel("same")


def test_two_requests_of_one_id_are_refused_together_too(engine: Engine) -> None:
    events: list[Event] = []
    two = [(engine.request(prompt, SHORT, "same"), events.append) for prompt in ("It", "He")]
    with pytest.raises(RequestError, match="'same' is under way already"):
        engine.submit_all(two)
    assert engine.active == 0
    engine.submit_all(two[:1])
    assert soon(lambda: bool(events) and isinstance(events[-1], Completed))


def test_a_deadline_ends_a_request_wherever_it_is(engine: Engine) -> None:
    running = list(engine.stream(engine.request("It", LONG, deadline_seconds=0.05)))
    assert isinstance(running[0], TokenEvent)
    others = [begin(engine, name) for name in "abcd"]
    waiting = list(engine.stream(engine.request("It", SHORT, deadline_seconds=0.05)))
    for end in (running[-1], waiting[-1]):
        assert end == Failed("not done within the 0.05 s that it had", "deadline_exceeded")
    assert len(waiting) == 1
    for name in "abcd":
        engine.cancel(name)
    assert soon(lambda: all(isinstance(events[-1], Completed) for events in others))
    assert engine.active == 0
