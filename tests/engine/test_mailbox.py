"""On the way from the engine to a reader: who is told when, and how much is kept for whom."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from victorian.artifact import read_artifact
from victorian.config import EngineConfig
from victorian.engine.engine import Engine
from victorian.engine.mailbox import LONGEST_TURN, AsyncMailbox, Mailbox, SlowReaderError, Turns
from victorian.engine.request import Event, Failed, TokenEvent


def test_a_mailbox_has_room_for_the_end_always() -> None:
    mailbox = Mailbox(1)
    mailbox.put(TokenEvent(0, 1, "a"))
    with pytest.raises(SlowReaderError):
        mailbox.put(TokenEvent(1, 1, "b"))
    mailbox.put(Failed("too slow"))
    assert [type(event) for event in mailbox.read(lambda: None)] == [TokenEvent, Failed]


def test_a_reader_with_a_loop_is_told_of_the_first_token_at_once_and_of_the_others_together() -> None:
    tokens = [TokenEvent(index, 1, "a") for index in range(4)]
    end = Failed("no reason")

    async def main() -> list[list[Event]]:
        mailbox = AsyncMailbox(10, Turns(1e9))  # one that does not end
        seen = []
        left = [*tokens, end]
        mailbox.put(left.pop(0))
        async for events in mailbox.read(lambda: None):
            seen.append(events)
            for event in left:
                mailbox.put(event)
            left = []
        return seen

    assert asyncio.run(main()) == [tokens[:1], [*tokens[1:], end]]


class Clock:
    """Time that goes on when it is told to."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Reader:
    """Somebody who reads whatever he is told of."""

    mailbox: AsyncMailbox
    told: list[int] = field(default_factory=list)
    """How many tokens he heard of each time."""

    async def read(self) -> None:
        async for events in self.mailbox.read(lambda: None):
            self.told.append(len(events))

    async def put(self, count: int) -> None:
        for _ in range(count):
            self.mailbox.put(TokenEvent(0, 1, "a"))
            for _ in range(3):  # rounds of the loop, in which he reads if he was told
                await asyncio.sleep(0)


def with_readers(turns: Turns, body: Callable[[Callable[..., Reader]], Awaitable[None]]) -> None:
    """Call with what makes a reader, `join(room for tokens)`."""

    async def main() -> None:
        async with asyncio.TaskGroup() as tasks:
            reading = []

            def join(most: int = 100) -> Reader:
                reader = Reader(AsyncMailbox(most, turns))
                reading.append(tasks.create_task(reader.read()))
                return reader

            await body(join)
            for task in reading:
                task.cancel()

    asyncio.run(main())


def test_a_reader_with_a_loop_is_told_again_when_a_new_turn_begins() -> None:
    clock = Clock()

    async def body(join: Callable[..., Reader]) -> None:
        reader = join()
        await reader.put(1)
        await reader.put(5)
        assert reader.told == [1]
        clock.now += 0.1
        await reader.put(3)
        assert reader.told == [1, 6]
        clock.now += 0.1
        await reader.put(1)
        assert reader.told == [1, 6, 3]

    with_readers(Turns(0.1, clock=clock), body)


def test_a_reader_with_a_loop_is_told_before_his_room_is_full() -> None:
    async def body(join: Callable[..., Reader]) -> None:
        reader = join(8)
        await reader.put(40)
        assert sum(reader.told) >= 36

    with_readers(Turns(1e9), body)


def test_a_turn_is_the_longer_the_more_are_written_to_but_never_too_long() -> None:
    clock = Clock()
    turns = Turns(0.1, 64, clock)

    async def body(join: Callable[..., Reader]) -> None:
        readers: list[Reader] = []
        for count, seconds in ((6, 0.1), (16, 0.25), (100, LONGEST_TURN)):
            added = [join() for _ in range(count - len(readers))]
            before = turns.length
            await asyncio.sleep(0)
            assert turns.length == before  # they wait, and nothing has come for them
            for reader in added:
                await reader.put(1)
            readers += added
            assert turns.length == seconds
            clock.now += 1
            begun = turns.number()
            clock.now += seconds * 0.99
            assert turns.number() == begun
            clock.now += seconds * 0.02
            assert turns.number() != begun

    with_readers(turns, body)
    assert turns.length == 0.1
    assert Turns(0, writes=1).number() is None


def test_turns_are_as_long_as_the_configuration_says(toy_artifact: Path) -> None:
    toy = read_artifact(str(toy_artifact))
    for changes, alone, crowd in (
        ({}, 0.1, 0.5),
        ({"gather_seconds": 0.3, "writes_per_second": 1e6}, 0.3, 0.3),
        ({"writes_per_second": 5}, 0.2, 0.5),
    ):

        async def lengths(config: EngineConfig) -> list[float]:
            found = []
            with Engine(toy.model, toy.encoding, config) as engine, ExitStack() as reading:
                for count in (1, 10_000):
                    for _ in range(count):
                        reading.enter_context(engine.turns.reading(engine.mailbox()))
                    found.append(engine.turns.length)
            return found

        assert asyncio.run(lengths(EngineConfig.model_validate(changes))) == [alone, crowd]


def test_a_mailbox_outlives_the_loop_of_its_reader() -> None:
    async def make() -> AsyncMailbox:
        return AsyncMailbox(5, Turns())

    asyncio.run(make()).put(TokenEvent(0, 1, "a"))
