"""Batches built ahead: the same ones in the same order, only so many, and no thread that outlives them."""

import threading
import time

import pytest

from victorian.tokens.prefetch import Prefetcher


def working() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "batches"]


@pytest.mark.parametrize("ahead", [0, 1, 4])
def test_they_come_in_the_order_of_steps_from_the_first(ahead: int) -> None:
    with Prefetcher(lambda step: step * step, 7, ahead) as ready:
        assert [ready.next() for _ in range(50)] == [step * step for step in range(7, 57)]
    assert not working()


def test_only_so_many_are_built_ahead() -> None:
    built: list[int] = []
    with Prefetcher(lambda step: built.append(step) or step, 0, ahead=4) as ready:
        for taken in range(3):
            deadline = time.monotonic() + 10
            while len(built) < taken + 5 and time.monotonic() < deadline:
                time.sleep(0.001)
            time.sleep(0.05)  # long enough for one more, if there were one
            assert built == list(range(taken + 5))  # four wait, and one more is in the thread's hands
            assert ready.next() == taken


def test_a_batch_is_there_while_the_next_is_built() -> None:
    reading, go_on = threading.Event(), threading.Event()

    def build(step: int) -> int:
        if step == 3:
            reading.set()
            assert go_on.wait(10)
        return step

    with Prefetcher(build, 0, ahead=4) as ready:
        assert reading.wait(10)
        assert [ready.next() for _ in range(3)] == [0, 1, 2]
        go_on.set()
        assert ready.next() == 3


@pytest.mark.parametrize("ahead", [0, 1, 4])
def test_an_error_comes_in_its_turn_and_stays(ahead: int) -> None:
    built = []

    def build(step: int) -> int:
        built.append(step)
        if step == 2:
            raise ValueError("step 2 cannot be read")
        return step

    with Prefetcher(build, 0, ahead) as ready:
        assert [ready.next(), ready.next()] == [0, 1]
        with pytest.raises(ValueError, match="step 2 cannot be read"):
            ready.next()
        if ahead:
            with pytest.raises(ValueError, match="step 2 cannot be read"):
                ready.next()
    assert built == [0, 1, 2]
    assert not working()


def test_it_ends_with_the_work_that_fails() -> None:
    with pytest.raises(KeyboardInterrupt), Prefetcher(lambda step: step, 0):
        raise KeyboardInterrupt
    assert not working()


@pytest.mark.parametrize("fails_at", [None, 1, 2, 3])
@pytest.mark.parametrize("ahead", [1, 2])
def test_it_can_be_closed_at_any_moment_and_again(ahead: int, fails_at: int | None) -> None:
    def build(step: int) -> int:
        if step == fails_at:
            raise ValueError
        time.sleep(0.0002)
        return step

    for moment in range(40):
        ready = Prefetcher(build, 0, ahead)
        time.sleep(moment * 0.00005)
        ready.close()
        ready.close()
    assert not working()
