"""Who reads what next, and in which blocks, without a network."""

from collections.abc import Sequence as Items

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from victorian.config import SamplingParameters
from victorian.engine.blocks import BLOCK_TOKENS, BlockPool, block_keys
from victorian.engine.request import Request, Scored
from victorian.engine.scheduler import Read, Scheduler, Sequence
from victorian.engine.text import TextStream
from victorian.errors import OverloadedError
from victorian.tokens.bpe import get_encoding

B = BLOCK_TOKENS
ENCODING = get_encoding(256)


def sequence(
    name: str,
    prompt: Items[int] = (1, 2, 3),
    context: int = 4 * B,
    priority: int = 0,
    keep: int = 0,
    scored: bool = False,
) -> Sequence:
    sampling = SamplingParameters(keep_tokens=keep)
    request = Request(name, tuple(prompt), sampling, 0, priority, prompt_logprobs=0 if scored else None)
    return Sequence(request, lambda _: None, TextStream(ENCODING, ()), context)


def scheduler(running: int = 4, waiting: int = 8, blocks: int = 32, chunk: int = 2 * B) -> Scheduler:
    return Scheduler(running, waiting, BlockPool(blocks), chunk)


def names(sequences: Items[Sequence]) -> list[str]:
    return [s.request.id for s in sequences]


def step(over: Scheduler) -> list[tuple[str, int, int, bool]]:
    """One step, after which every sequence that draws has a token more."""
    reads = over.schedule()
    over.advance(reads)
    for read in reads:
        if read.draws:
            read.sequence.tokens.append(9)
    return [(read.sequence.request.id, read.start, read.stop, read.draws) for read in reads]


def test_requests_join_in_the_order_of_arrival_and_advance_together() -> None:
    over = scheduler(running=2)
    items = [sequence(name) for name in "abc"]
    for item in items:
        over.add([item])
    assert step(over) == [("a", 0, 3, True), ("b", 0, 3, True)]
    assert step(over) == [("a", 3, 4, True), ("b", 3, 4, True)]
    over.finish(items[0])
    assert step(over) == [("b", 4, 5, True), ("c", 0, 3, True)]


def test_a_higher_priority_is_served_before() -> None:
    over = scheduler(running=1)
    for name, priority in (("a", 0), ("b", 0), ("c", 1)):
        over.add([sequence(name, priority=priority)])
    assert names(over.waiting) == ["c", "a", "b"]


def test_a_long_prompt_is_read_in_chunks_and_holds_nobody_up() -> None:
    over = scheduler(chunk=20)
    over.add([sequence("short")])
    step(over)
    over.add([sequence("long", range(50))])
    assert step(over) == [("short", 3, 4, True), ("long", 0, 20, False)]
    assert step(over) == [("short", 4, 5, True), ("long", 20, 40, False)]
    assert step(over) == [("short", 5, 6, True), ("long", 40, 50, True)]


def test_prompts_share_a_chunk() -> None:
    over = scheduler(chunk=20)
    for name in "ab":
        over.add([sequence(name, [ord(name)] * 15)])
    assert step(over) == [("a", 0, 15, True), ("b", 0, 5, False)]
    assert step(over) == [("a", 15, 16, True), ("b", 5, 15, True)]


def test_what_begins_alike_is_read_once() -> None:
    over = scheduler()
    text = list(range(2 * B + 5))
    first = sequence("a", text)
    over.add([first])
    assert step(over) == [("a", 0, 2 * B, False)]
    over.add([sequence("b", text)])
    assert step(over) == [("a", 2 * B, 2 * B + 5, True), ("b", 2 * B, 2 * B + 5, True)]
    over.finish(first)
    other = sequence("c", [*text[:B], 99, *text[B + 1 :]])
    over.add([other])
    assert step(over)[1][:2] == ("c", B)
    assert other.reused == B


def test_a_prompt_that_is_known_to_its_end_still_reads_its_last_token() -> None:
    over = scheduler()
    text = list(range(2 * B))
    first = sequence("a", text)
    over.add([first])
    step(over)
    over.finish(first)
    over.add([sequence("b", text)])
    assert step(over) == [("b", B, 2 * B, True)]


def test_when_the_cache_is_full_the_last_gives_way_and_goes_on_later() -> None:
    over = scheduler(blocks=4, running=2)
    first, second = sequence("a", [1] * B, 4 * B), sequence("b", [2] * B, 4 * B)
    over.add([first])
    over.add([second])
    seen = [step(over) for _ in range(2 * B)]
    assert seen[0] == [("a", 0, B, True), ("b", 0, B, True)]
    assert seen[B + 1] == [("a", 2 * B, 2 * B + 1, True)]
    assert names(over.waiting) == ["b"]
    assert second.generated == B + 1
    over.finish(first)
    assert step(over)[0][0] == "b"
    assert second.generated in (B + 1, B + 2)


def test_the_window_slides_to_its_later_half_when_the_context_is_full() -> None:
    over = scheduler()
    item = sequence("a", range(B), context=2 * B)
    over.add([item])
    for _ in range(B + 1):
        step(over)
    assert item.length == 2 * B + 1
    assert step(over) == [("a", 0, B, True)]
    assert item.window_start == B + 1


def test_the_prompts_beginning_stays_when_the_window_slides_and_is_not_read_again() -> None:
    over = scheduler()
    item = sequence("a", range(100, 100 + 2 * B), context=4 * B, keep=B + 2)
    over.add([item])
    while not item.window_start:
        step(over)
    item.tokens[-3:] = [1, 2, 3]
    assert item.window(0, B + 2) == list(range(100, 100 + B + 2))
    assert item.window(0, item.length)[-3:] == item.window(item.length - 3, item.length) == [1, 2, 3]
    assert item.length == B + 2 + (3 * B - 2) // 2 + 1  # and the token that was drawn since
    assert item.cached > B  # its first block was in the cache
    for _ in range(5 * B):
        step(over)
        assert item.length <= 4 * B + 1
        assert item.window(0, B) == list(range(100, 100 + B))


def test_a_prompt_whose_tokens_are_looked_up_is_read_from_its_beginning() -> None:
    over = scheduler(chunk=B)
    over.add([sequence("a", range(2 * B))])
    step(over)
    step(over)
    item = sequence("b", range(2 * B), scored=True)
    over.add([item])
    over.schedule()
    assert item.cached == 0
    read = Read(item, 0, B, False)
    assert list(read.wanted) == list(range(B))
    item.scores += [Scored(1)] * B
    assert Read(item, B, 2 * B, True).wanted == list(range(B, 2 * B))


def test_a_full_house_is_refused_in_words() -> None:
    over = scheduler(running=1, waiting=1)
    first = sequence("a")
    over.add([first])
    over.add([sequence("b")])
    with pytest.raises(OverloadedError, match="try again in a moment"):
        over.add([sequence("c")])
    step(over)
    with pytest.raises(OverloadedError):
        over.add([sequence("c")])
    over.finish(first)
    over.add([sequence("c")])
    assert names(over.waiting) == ["b", "c"]


def test_cancelled_requests_leave_the_queue_and_their_blocks() -> None:
    over = scheduler(running=1, blocks=8)
    items = [sequence(name) for name in "abc"]
    for item in items:
        over.add([item])
    step(over)
    items[0].cancelled = items[1].cancelled = True
    assert names(over.drop_cancelled()) == ["a", "b"]
    assert names(over.waiting) == ["c"]
    assert over._pool.available == 8


def test_a_block_is_known_by_its_tokens_and_all_before_them() -> None:
    text = list(range(3 * B))
    keys = block_keys(text)
    assert len(keys) == len(set(keys)) == 3
    assert block_keys(text, keys[0], B) == keys[1:]
    other = block_keys([7, *text[1:]])
    assert not set(other) & set(keys)
    assert block_keys(text[: B - 1]) == []


def test_blocks_that_hold_something_are_kept_until_they_are_needed_the_longest_unused_first() -> None:
    pool = BlockPool(3)
    for name in (b"a", b"b", b"c"):
        (block,) = pool.take(1)
        pool.hold(block, name)
        pool.give_back([block])
    assert pool.available == 3
    pool.share(pool.find([b"a"]))
    pool.give_back(pool.find([b"a"]))
    pool.take(1)
    assert [len(pool.find([name])) for name in (b"a", b"b", b"c")] == [1, 0, 1]
    with pytest.raises(ValueError, match="expected at most 2 blocks, 3 were wanted"):
        pool.take(3)


ACTIONS = st.lists(
    st.one_of(
        st.tuples(
            st.just("add"),
            st.integers(1, 3 * B),
            st.integers(0, 2),
            st.integers(1, 60),
            st.integers(0, 2 * B),
            st.booleans(),
        ),
        st.tuples(st.just("cancel"), st.integers(0, 40)),
        st.tuples(st.just("step"), st.integers(1, 12)),
    ),
    max_size=30,
)


@settings(max_examples=150, deadline=None)
@given(ACTIONS, st.integers(3, 14), st.integers(1, 5), st.integers(B, 3 * B))
def test_no_request_is_lost_and_no_block_is_used_twice(
    actions: list[tuple[object, ...]], blocks: int, running: int, chunk: int
) -> None:
    over = scheduler(running, 1_000, blocks, chunk)
    pool = over._pool
    open_requests: dict[Sequence, int] = {}
    written: dict[int, list[int]] = {}  # what a network would have put into each block
    number = 0

    def check(reads: list[Read]) -> None:
        users: dict[int, int] = {}
        for item in open_requests:
            for block in item.blocks:
                users[block] = users.get(block, 0) + 1
        assert users == {block: count for block, count in enumerate(pool._users) if count}
        assert pool.available == blocks - len(users)
        assert sum(read.stop - read.start for read in reads if read.stop - read.start > 1) <= chunk
        assert len({id(read.sequence) for read in reads}) == len(reads)
        assert len(over.running) <= running
        assert set(over.running) | set(over.waiting) == set(open_requests)
        for read in reads:
            item = read.sequence
            assert read.start < read.stop <= item.length <= item.context
            assert len(item.blocks) * B >= read.stop
            for place, token in zip(range(read.start, read.stop), read.tokens, strict=True):
                written.setdefault(item.blocks[place // B], [0] * B)[place % B] = token
            # What the cache holds of the window is what the window says, whoever wrote it.
            cached = [written[item.blocks[place // B]][place % B] for place in range(read.stop)]
            seen = item.tokens[: item.kept] + item.tokens[item.window_start :] if item.window_start else item.tokens
            assert cached == seen[: read.stop]
            for place in read.scored:
                assert place == len(item.scores)
                assert read.start <= place < read.stop
                item.scores.append(Scored(item.tokens[place + 1]))
            if read.draws and item.request.prompt_logprobs is not None:
                assert [score.token for score in item.scores] == list(item.request.prompt[1:])

    def advance() -> None:
        for item in over.drop_cancelled():
            del open_requests[item]
        reads = over.schedule()
        assert reads or not open_requests
        check(reads)
        over.advance(reads)
        for read in reads:
            if read.draws:
                read.sequence.tokens.append(number % 7)
                open_requests[read.sequence] -= 1
                if not open_requests[read.sequence]:
                    over.finish(read.sequence)
                    del open_requests[read.sequence]

    for action in actions:
        number += 1
        match action:
            case ("add", int(length), int(alphabet), int(output), int(keep), bool(scored)):
                prompt = [i % (alphabet + 2) for i in range(length)]
                item = sequence(str(number), prompt, 3 * B, keep=keep, scored=scored)
                open_requests[item] = output
                over.add([item])
            case ("cancel", int(index)):
                if open_requests:
                    list(open_requests)[index % len(open_requests)].cancelled = True
            case ("step", int(count)):
                for _ in range(count):
                    advance()
    for _ in range(20_000):
        if not open_requests:
            break
        advance()
    assert not open_requests, "a request never ended"
    assert pool.available == blocks
