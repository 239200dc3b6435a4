"""Who runs next, without a network."""

import pytest

from victorian.config import SamplingParameters
from victorian.engine.request import Request
from victorian.engine.scheduler import Fill, Move, Scheduler, Sequence
from victorian.engine.text import TextStream
from victorian.errors import OverloadedError
from victorian.tokens.bpe import get_encoding


def sequence(name: str, prompt: int = 3, context: int = 8) -> Sequence:
    request = Request(name, tuple(range(prompt)), SamplingParameters(), 0)
    return Sequence(request, lambda _: None, TextStream(get_encoding(256), ()), context)


def names(sequences: list[Sequence]) -> list[str]:
    return [s.request.id for s in sequences]


def advance(scheduler: Scheduler) -> list[str]:
    plan = scheduler.schedule()
    for running in plan.running:
        running.cached += 1
        running.tokens.append(9)
    return names(plan.running)


def test_one_joins_a_step_in_the_order_of_arrival() -> None:
    scheduler = Scheduler(max_running=2, max_waiting=5)
    for name in "abc":
        scheduler.add(sequence(name))
    assert advance(scheduler) == ["a"]
    assert advance(scheduler) == ["a", "b"]
    assert advance(scheduler) == ["a", "b"]
    assert scheduler.finish(scheduler.running[0]) == Move(source=1, target=0)
    assert advance(scheduler) == ["b", "c"]
    assert scheduler.finish(scheduler.running[1]) is None


def test_a_prompt_is_cached_but_for_its_last_token_once() -> None:
    scheduler = Scheduler(1, 1)
    scheduler.add(sequence("a", prompt=4))
    plan = scheduler.schedule()
    assert plan.joined == [0]
    assert plan.fills == [Fill(row=0, tokens=[0, 1, 2])]
    plan.running[0].cached += 1
    plan.running[0].tokens.append(9)
    assert scheduler.schedule().fills == []


def test_a_single_token_needs_no_filling() -> None:
    scheduler = Scheduler(1, 1)
    scheduler.add(sequence("a", prompt=1))
    assert scheduler.schedule().fills == []


def test_a_full_house_is_refused_in_words() -> None:
    scheduler = Scheduler(max_running=1, max_waiting=1)
    scheduler.add(sequence("a"))
    scheduler.add(sequence("b"))
    with pytest.raises(OverloadedError, match="try again in a moment"):
        scheduler.add(sequence("c"))
    scheduler.schedule()
    with pytest.raises(OverloadedError):
        scheduler.add(sequence("c"))
    scheduler.finish(scheduler.running[0])
    scheduler.add(sequence("c"))
    assert names(list(scheduler.waiting)) == ["b", "c"]


def test_the_window_slides_to_its_later_half_when_the_context_is_full() -> None:
    scheduler = Scheduler(1, 1)
    scheduler.add(sequence("a", prompt=3, context=8))
    for _ in range(6):
        plan = scheduler.schedule()
        (running,) = plan.running
        assert running.cached < 8
        running.cached += 1
        running.tokens.append(9)
    assert len(running.tokens) == 9
    plan = scheduler.schedule()
    assert plan.fills == [Fill(row=0, tokens=[9, 9, 9])]
    assert running.window == [9, 9, 9, 9]


def test_cancelled_requests_leave_the_queue() -> None:
    scheduler = Scheduler(1, 5)
    waiting = [sequence(name) for name in "abc"]
    for item in waiting:
        scheduler.add(item)
    waiting[1].cancelled = True
    assert names(scheduler.drop_cancelled_waiting()) == ["b"]
    assert names(list(scheduler.waiting)) == ["a", "c"]
