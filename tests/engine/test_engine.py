"""The engine as its callers see it: a real small model, many requests."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from tests.conftest import TOY
from tests.running_service import soon
from victorian.artifact import Artifact, read_artifact
from victorian.config import EngineConfig, Precision, SamplingParameters
from victorian.cores import cores
from victorian.engine.compilation import why_not
from victorian.engine.engine import Engine
from victorian.engine.mailbox import Mailbox, complete
from victorian.engine.request import Completed, Event, Failed, PromptEvent, Scored, TokenEvent
from victorian.engine.scheduler import Sequence
from victorian.errors import ConfigError, OverloadedError, RequestError


@pytest.fixture(scope="module")
def artifact(toy_artifact: Path) -> Artifact:
    return read_artifact(str(toy_artifact))


@pytest.fixture(scope="module")
def engine(artifact: Artifact) -> Iterator[Engine]:
    with Engine(artifact.model, artifact.encoding, EngineConfig(max_running=4, max_waiting=64)) as running:
        yield running


def parameters(**changes: object) -> SamplingParameters:
    return SamplingParameters.model_validate({"max_tokens": 20, "seed": 1} | changes)


def until(condition: Callable[[], bool]) -> None:
    assert soon(condition), "it never came to be"


def test_greedy_tokens_are_the_networks_own(engine: Engine, artifact: Artifact) -> None:
    request = engine.request("It was a", parameters(top_k=1, repetition_penalty=1))
    tokens = [event.token for event in engine.stream(request) if isinstance(event, TokenEvent)]
    ids = list(request.prompt)
    for token in tokens:
        with torch.no_grad():
            logits = artifact.model(torch.tensor([ids]))[0, -1, : artifact.encoding.size]
        assert token == int(logits.argmax())
        ids.append(token)
    assert len(tokens) == 20


def test_the_same_seed_gives_the_same_text_and_another_another(engine: Engine) -> None:
    texts = [complete(engine, engine.request("The", parameters(seed=seed)))[0] for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    drawn = {complete(engine, engine.request("The", parameters(seed=None)))[0] for _ in range(3)}
    assert len(drawn) > 1


def test_a_crowd_shares_the_model_and_nobody_changes_anothers_text(engine: Engine) -> None:
    asks = [("word " * (1 + i % 7), parameters(seed=i, max_tokens=5 + 3 * i)) for i in range(16)]
    alone = [complete(engine, engine.request(*ask))[0] for ask in asks]
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(lambda ask: complete(engine, engine.request(*ask))[0], asks))
    assert together == alone
    assert engine.active == 0


def test_running_requests_advance_together(engine: Engine) -> None:
    order: list[str] = []
    ended = threading.Barrier(4)

    def read(name: str) -> None:
        request = engine.request("It was", parameters(max_tokens=200, seed=7), name)
        for event in engine.stream(request):
            if isinstance(event, TokenEvent):
                order.append(name)
        ended.wait(timeout=30)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(read, "abcd"))
    counts = dict.fromkeys("abcd", 0)
    for name in order[: len(order) // 2]:
        counts[name] += 1
    assert min(counts.values()) > 0.5 * max(counts.values())


def test_usage_and_reason(engine: Engine) -> None:
    _, done = complete(engine, engine.request([5, 6, 7], parameters(max_tokens=4)))
    assert (done.reason, done.prompt_tokens, done.completion_tokens) == ("length", 3, 4)
    assert 0 < done.first_token_seconds <= done.seconds


def test_a_stop_string_ends_the_text_before_it(engine: Engine) -> None:
    text, _ = complete(engine, engine.request("It", parameters(max_tokens=60, seed=3)))
    stop = text[20:23]
    cut, done = complete(engine, engine.request("It", parameters(max_tokens=60, seed=3, stop=(stop,))))
    assert cut == text[: text.index(stop)]
    assert done.reason == "stop"


def test_the_end_of_a_book_ends_the_text(artifact: Artifact) -> None:
    read = read_artifact(artifact.uri)
    with torch.no_grad():  # a model that says nothing but end-of-text
        read.model.final_norm.weight.zero_()
        read.model.final_norm.bias.copy_(10 * read.model.token_embedding.weight[read.encoding.end_of_text])
        read.model.token_embedding.weight[: read.encoding.end_of_text] = 0
    with Engine(read.model, read.encoding, EngineConfig(max_running=1)) as engine:
        text, done = complete(engine, engine.request("It", parameters(top_k=1, repetition_penalty=1)))
    assert (text, done.reason, done.completion_tokens) == ("", "stop", 0)


def test_padding_rows_are_never_drawn(artifact: Artifact) -> None:
    read = read_artifact(artifact.uri)
    with torch.no_grad():
        read.model.token_embedding.weight[read.encoding.size :] = 100.0 * read.model.final_norm.bias.sign().mean()
        read.model.token_embedding.weight[read.encoding.size :] += torch.randn(32) * 100
    with Engine(read.model, read.encoding, EngineConfig(max_running=1)) as engine:
        events = engine.stream(engine.request("It", parameters(temperature=2.0, top_k=0, top_p=1.0, max_tokens=200)))
        tokens = [event.token for event in events if isinstance(event, TokenEvent)]
    assert tokens
    assert max(tokens) < read.encoding.size


@pytest.mark.parametrize("keep", [0, 5, 16, 32])
@pytest.mark.parametrize("length", [3, 40, 64])
def test_past_the_context_the_network_sees_what_was_said(
    engine: Engine, artifact: Artifact, keep: int, length: int
) -> None:
    """The later half of the window, and what is kept of the beginning, read afresh in torch."""
    model, context = artifact.model, engine.context
    prompt = [(7 * i + keep) % 256 for i in range(length)]
    sampling = parameters(max_tokens=150, min_tokens=150, keep_tokens=keep)
    tokens, begin, kept = list(prompt), 0, min(keep, length)
    for event in engine.stream(engine.request(prompt, sampling, logprobs=0)):
        if not isinstance(event, TokenEvent):
            break
        if len(tokens) - begin + (kept if begin else 0) > context:
            begin = len(tokens) - (context - kept) // 2
        window = (tokens[:kept] if begin else []) + tokens[begin:]
        with torch.no_grad():
            logits = model(torch.tensor([window]))[0, -1, : engine.encoding.size]
        assert event.logprob == pytest.approx(float(logits.log_softmax(0)[event.token]), abs=1e-3)
        tokens.append(event.token)
    assert len(tokens) == length + 150


def test_an_empty_prompt_begins_a_book(engine: Engine) -> None:
    request = engine.request("", parameters())
    assert request.prompt == (engine.encoding.end_of_text,)
    assert complete(engine, request)[1].completion_tokens == 20


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        ("half a pair \ud800", "the prompt is no text: surrogates not allowed at character 12"),
        ([1] * 65, "the prompt has 65 tokens, the model sees 64"),
        ([513], "token ids must be from 0 to 512"),
        ([-1], "token ids"),
    ],
)
def test_prompts_that_cannot_be_are_refused(engine: Engine, prompt: str | list[int], reason: str) -> None:
    with pytest.raises(RequestError, match=reason) as caught:
        engine.request(prompt, parameters())
    assert caught.value.parameter == "prompt"


def test_a_prompt_that_fills_the_context_is_served(engine: Engine) -> None:
    assert complete(engine, engine.request([1] * 64, parameters()))[1].completion_tokens == 20


def test_the_prompts_tokens_are_looked_up_in_whatever_chunks_it_is_read(artifact: Artifact, engine: Engine) -> None:
    prompt = [int(i) for i in artifact.encoding.encode("It was a dark night, and the rain fell upon the roofs")][:40]
    with torch.no_grad():
        exact = artifact.model(torch.tensor([prompt]))[0, :, : artifact.encoding.size].double().log_softmax(1)
    complete(engine, engine.request(prompt, parameters()))  # the cache has them all, and they are read again
    with Engine(artifact.model, artifact.encoding, EngineConfig(max_running=2, chunk=16)) as chunked:
        for running in (engine, chunked):
            request = running.request(prompt, parameters(max_tokens=3), logprobs=0, prompt_logprobs=2)
            first, *others = running.stream(request)
            assert isinstance(first, PromptEvent)
            assert [score.token for score in first.scores] == prompt
            assert first.scores[0] == Scored(prompt[0])
            for place, score in enumerate(first.scores[1:]):
                assert score.logprob == pytest.approx(float(exact[place, score.token]), abs=1e-4)
                best = exact[place].topk(2)
                assert [token for token, _ in score.likeliest] == best.indices.tolist()
                assert [value for _, value in score.likeliest] == pytest.approx(best.values.tolist(), abs=1e-4)
            drawn = [event for event in others if isinstance(event, TokenEvent)]
            assert drawn[0].logprob == pytest.approx(float(exact[-1, drawn[0].token]), abs=1e-4)
            assert len(drawn) == 3
    (only, *_) = engine.stream(engine.request([44], parameters(), prompt_logprobs=0))
    assert only == PromptEvent((Scored(44),))


def test_a_text_that_is_continued_is_not_read_again(engine: Engine) -> None:
    prompt = list(range(3, 48))
    _, first = complete(engine, engine.request(prompt, parameters()))
    _, again = complete(engine, engine.request([*prompt, 7, 8], parameters()))
    assert (first.reused_tokens, again.reused_tokens) == (0, 32)  # whole blocks of 16


def test_a_request_of_higher_priority_is_served_before(artifact: Artifact) -> None:
    order: list[str] = []
    with Engine(artifact.model, artifact.encoding, EngineConfig(max_running=1)) as engine:
        engine.submit(engine.request("It", parameters(max_tokens=300), "running"), lambda _: None)
        for name, priority in (("late", 0), ("urgent", 5)):
            request = engine.request("It", parameters(max_tokens=3), name, priority=priority)
            engine.submit(request, lambda _, name=name: order.append(name))  # type: ignore[misc]
        until(lambda: len(order) == 8)
    assert order == ["urgent"] * 4 + ["late"] * 4


@pytest.mark.skipif(why_not(TOY.model) is not None, reason="no kernels here")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_a_text_and_its_probabilities_are_the_same_bits_in_every_company(
    artifact: Artifact, precision: Precision
) -> None:
    """Alone, in crowds of 2 to 16, in other chunks, and where the cache is so small that requests give way."""
    asks = [([5 + i] * (1 + 9 * i % 50), parameters(seed=i, max_tokens=30 + 5 * (i % 4))) for i in range(16)]

    def read(engine: Engine, *indices: int) -> list[list[tuple[int, float | None]]]:
        mailboxes = [Mailbox(engine.max_unread) for _ in indices]
        requests = [engine.request(*asks[index], logprobs=0) for index in indices]
        engine.submit_all([(request, mailbox.put) for request, mailbox in zip(requests, mailboxes, strict=True)])
        return [
            [(event.token, event.logprob) for event in mailbox.read(lambda: None) if isinstance(event, TokenEvent)]
            for mailbox in mailboxes
        ]

    base = EngineConfig(precision=precision, batch_invariant=True)
    with Engine(artifact.model, artifact.encoding, base.model_copy(update={"max_running": 1})) as engine:
        alone = [text for index in range(16) for text in read(engine, index)]
    preempted = 0
    for changes in ({}, {"chunk": 16}, {"cache_tokens": 64 * 4}):
        with Engine(artifact.model, artifact.encoding, base.model_copy(update=changes)) as engine:
            give_way = engine._scheduler._give_way

            def count(sequence: Sequence, give_way: Callable[[Sequence], None] = give_way) -> None:
                nonlocal preempted
                preempted += 1
                give_way(sequence)

            engine._scheduler._give_way = count  # type: ignore[method-assign]
            for crowd in (2, 3, 5, 8, 16):
                assert read(engine, *range(crowd)) == alone[:crowd]
    assert preempted > 0


def test_leaving_the_iteration_cancels(engine: Engine) -> None:
    stream = engine.stream(engine.request("It", parameters(max_tokens=30_000, min_tokens=30_000)))
    assert isinstance(next(stream), TokenEvent)
    assert engine.active == 1
    stream.close()  # type: ignore[attr-defined]
    until(lambda: engine.active == 0)


def test_cancel_ends_with_the_reason_and_may_come_twice_or_late(engine: Engine) -> None:
    events: list[Event] = []
    request = engine.request("It", parameters(max_tokens=30_000, min_tokens=30_000), "mine")
    engine.submit(request, events.append)
    until(lambda: len(events) > 3)
    with pytest.raises(RequestError, match="a request with the id 'mine' is under way"):
        engine.submit(request, events.append)
    engine.cancel("mine")
    engine.cancel("mine")
    until(lambda: isinstance(events[-1], Completed))
    engine.cancel("mine")
    assert isinstance(events[-1], Completed)
    assert events[-1].reason == "cancelled"


def test_a_cancelled_request_in_the_queue_never_runs(artifact: Artifact) -> None:
    with Engine(artifact.model, artifact.encoding, EngineConfig(max_running=1, max_waiting=2)) as engine:
        first, second = [], []  # type: list[Event], list[Event]
        engine.submit(engine.request("It", parameters(max_tokens=30_000, min_tokens=30_000), "first"), first.append)
        until(lambda: bool(first))
        engine.submit(engine.request("It", parameters(), "second"), second.append)
        engine.cancel("second")
        until(lambda: bool(second))
        assert isinstance(second[0], Completed)
        assert (second[0].reason, second[0].completion_tokens) == ("cancelled", 0)


def test_more_than_the_queue_holds_is_refused(artifact: Artifact) -> None:
    with Engine(artifact.model, artifact.encoding, EngineConfig(max_running=1, max_waiting=1)) as engine:
        for name in "ab":
            engine.submit(engine.request("It", parameters(max_tokens=30_000, min_tokens=30_000), name), lambda _: None)
        with pytest.raises(OverloadedError):
            engine.submit(engine.request("It", parameters(), "c"), lambda _: None)
        engine.cancel("a")
        until(lambda: engine.active == 1)
        engine.submit(engine.request("It", parameters(), "c"), lambda _: None)


def test_more_threads_than_cores_are_refused_at_once(artifact: Artifact) -> None:
    with pytest.raises(ConfigError, match=f"use at most {cores()}"):
        Engine(artifact.model, artifact.encoding, EngineConfig(threads=cores() + 1))


def test_a_callback_that_fails_ends_its_own_request_alone(artifact: Artifact) -> None:
    def fail(_: Event) -> None:
        raise ValueError("boom")

    with Engine(artifact.model, artifact.encoding, EngineConfig(max_running=3)) as engine:
        expected = complete(engine, engine.request("It", parameters(max_tokens=50)))[0]
        engine.submit(engine.request("It", parameters(max_tokens=30_000, min_tokens=30_000)), fail)
        assert complete(engine, engine.request("It", parameters(max_tokens=50)))[0] == expected
        until(lambda: engine.active == 0)
        assert engine.healthy


def test_closing_leaves_nobody_waiting(artifact: Artifact) -> None:
    engine = Engine(artifact.model, artifact.encoding, EngineConfig(max_running=1))
    events: list[Event] = []
    engine.submit(engine.request("It", parameters(max_tokens=30_000, min_tokens=30_000)), events.append)
    engine.close()
    assert isinstance(events[-1], Failed)
    assert not engine.healthy


def test_an_idle_engine_costs_no_cpu(engine: Engine) -> None:
    until(lambda: engine.active == 0)

    def costs_none() -> bool:
        before = time.process_time()
        time.sleep(0.5)
        return time.process_time() - before < 0.1

    until(costs_none)  # in one moment or another: others of this process may be at work in some


def test_async_streams_are_cancelled_with_their_task(engine: Engine) -> None:
    async def main() -> int:
        request = engine.request("It", parameters(max_tokens=30_000, min_tokens=30_000))
        seen = 0
        async with contextlib.aclosing(engine.stream_async(request)) as stream:
            async for events in stream:
                seen += len(events)
                if seen >= 5:
                    break
        return seen

    assert asyncio.run(main()) >= 5
    until(lambda: engine.active == 0)


def test_bf16_says_nearly_what_fp32_says(artifact: Artifact, engine: Engine) -> None:
    with Engine(artifact.model, artifact.encoding, EngineConfig(max_running=1, precision="bf16")) as half:
        events = [next(one.stream(one.request("It was", parameters(), prompt_logprobs=0))) for one in (half, engine)]
    ours, theirs = ([score.logprob for score in event.scores[1:]] for event in events if isinstance(event, PromptEvent))
    assert ours == pytest.approx(theirs, abs=0.05)
    assert ours != theirs
    assert artifact.model.token_embedding.weight.dtype == torch.float32  # the caller's model is left as it was
