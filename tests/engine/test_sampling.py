"""Each sampling parameter against a plain, slow definition of it, on random logits."""

import math
from collections.abc import Iterator
from itertools import count

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from victorian.config import ModelConfig, SamplingParameters
from victorian.engine.compilation import why_not
from victorian.engine.distribution import (
    Columns,
    Draw,
    Seen,
    Select,
    add_bias,
    adjust,
    draw,
    invert,
    probabilities,
    select,
    uniform,
)
from victorian.engine.native import NativeNetwork
from victorian.engine.request import Request, Scored
from victorian.engine.sampling import Sampler
from victorian.engine.scheduler import Sequence
from victorian.engine.text import TextStream
from victorian.model.gpt2 import GPT
from victorian.tokens.bpe import get_encoding

TOKENS = 513
END = 512
_names = count()


SHAPE = ModelConfig(layers=1, channels=16, heads=1, context=16, vocabulary=TOKENS, dropout=0)


@pytest.fixture(scope="module", params=["numpy", "kernels"])
def ways(request: pytest.FixtureRequest) -> Iterator[tuple[Draw, Select]]:
    """Both ways to draw."""
    if request.param == "numpy":
        yield draw, select
        return
    if (reason := why_not(SHAPE)) is not None:
        pytest.skip(reason)
    network = NativeNetwork(GPT(SHAPE), "fp32", tokens=1, blocks=1, threads=2)
    yield network.draw, network.select
    network.close()


@pytest.fixture
def sampler(ways: tuple[Draw, Select]) -> Sampler:
    return Sampler(END, *ways)


def slow_distribution(
    logits: list[float], prompt: tuple[int, ...], output: tuple[int, ...], p: SamplingParameters
) -> dict[int, float]:
    """Probability of every token that may be drawn, by the definitions, one number at a time."""
    adjusted = []
    for token, logit in enumerate(logits):
        logit += p.logit_bias.get(token, 0.0)
        if token in prompt or token in output:
            logit = logit / p.repetition_penalty if logit > 0 else logit * p.repetition_penalty
        times = output.count(token)
        logit -= p.frequency_penalty * times + (p.presence_penalty if times else 0.0)
        if token == END and len(output) < p.min_tokens:
            logit = -math.inf
        adjusted.append(logit)
    order = sorted(range(len(logits)), key=lambda token: -adjusted[token])
    if p.temperature == 0:
        return {order[0]: 1.0}
    if p.top_k:
        order = order[: p.top_k]
    top = adjusted[order[0]]
    weights = {token: math.exp((adjusted[token] - top) / p.temperature) for token in order}
    total = sum(weights.values())
    kept: dict[int, float] = {}
    held = 0.0
    for token in order:
        if kept and (held >= p.top_p * total or weights[token] < p.min_p):
            break
        kept[token] = weights[token]
        held += weights[token]
    return {token: weight / sum(kept.values()) for token, weight in kept.items()}


def sequence(
    parameters: SamplingParameters,
    prompt: tuple[int, ...],
    seed: int,
    output: tuple[int, ...] = (),
    logprobs: int | None = None,
) -> Sequence:
    request = Request(str(next(_names)), prompt, parameters, seed, logprobs=logprobs)
    made = Sequence(request, lambda _: None, TextStream(get_encoding(512), ()), context=64)
    made.tokens = [*prompt, *output]
    return made


def rows_of(*values: list[float]) -> np.ndarray:
    return np.array(values, np.float32)


def random_logits(rows: int, seed: int, spread: float = 3.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((rows, TOKENS)) * spread).astype(np.float32)


def token_of(drawn: Scored | Exception) -> int:
    assert isinstance(drawn, Scored)
    return drawn.token


parameters = st.builds(
    SamplingParameters,
    temperature=st.just(0.0) | st.floats(0.1, 2.0),
    top_k=st.integers(0, 100),
    top_p=st.floats(0.01, 1.0),
    min_p=st.one_of(st.just(0.0), st.floats(0.0, 1.0)),
    repetition_penalty=st.floats(1.0, 2.0),
    presence_penalty=st.floats(-2.0, 2.0),
    frequency_penalty=st.floats(-2.0, 2.0),
    logit_bias=st.dictionaries(st.integers(0, 512), st.floats(-5, 5), max_size=4),
    min_tokens=st.integers(0, 4),
)
tokens = st.lists(st.integers(0, 512), min_size=1, max_size=6).map(tuple)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(parameters, tokens, tokens), min_size=1, max_size=5), st.integers(0, 99))
def test_every_row_follows_its_own_definition(
    ways: tuple[Draw, Select], rows: list[tuple[SamplingParameters, tuple[int, ...], tuple[int, ...]]], seed: int
) -> None:
    logits = random_logits(len(rows), seed)
    running = [sequence(p, prompt, seed + row, output) for row, (p, prompt, output) in enumerate(rows)]
    chosen = Sampler(END, *ways).sample(logits.copy(), running)
    for row, (p, prompt, output) in enumerate(rows):
        allowed = slow_distribution(logits[row].tolist(), prompt, output, p)
        # The draw by inverse transform, over the same tokens from the likeliest down.
        target, held = uniform(seed + row, len(prompt) + len(output)), 0.0
        near = []
        for token, probability in allowed.items():
            if held - 1e-4 <= target <= held + probability + 1e-4:  # float32 against float64 at the borders
                near.append(token)
            held += probability
        assert token_of(chosen[row]) in near or token_of(chosen[row]) in list(allowed)[-1:]


def test_frequencies_follow_the_distribution(sampler: Sampler) -> None:
    p = SamplingParameters(temperature=0.9, top_k=12, top_p=0.9, repetition_penalty=1.3, min_p=0.02)
    logits = random_logits(1, 5, 2.0)
    prompt = (int(logits.argmax()), 7)
    expected = slow_distribution(logits[0].tolist(), prompt, (), p)
    rounds = 4000
    counts: dict[int, int] = {}
    for seed in range(rounds):
        item = sequence(p, prompt, seed)
        token = token_of(sampler.sample(logits.copy(), [item])[0])
        sampler.leave(item)
        counts[token] = counts.get(token, 0) + 1
    assert set(counts) <= set(expected)
    chi_squared = sum((counts.get(t, 0) - rounds * q) ** 2 / (rounds * q) for t, q in expected.items())
    freedom = len(expected) - 1
    assert chi_squared < freedom + 4 * math.sqrt(2 * freedom)  # four deviations; the seeds are fixed


def test_penalties_by_example() -> None:
    p = SamplingParameters(repetition_penalty=2.0, presence_penalty=0.5, frequency_penalty=0.25, logit_bias={3: 1.0})
    rows = rows_of([1.0, 1.0, 1.0, 1.0], [2.0, -2.0, 2.0, -2.0])
    plain = SamplingParameters(repetition_penalty=1)
    seen = [Seen(sequence(q, (0,), 0, (1, 1))) for q in (plain, p)]
    for one in seen:
        one.catch_up()
    add_bias(rows, Columns([plain, p]))
    adjust(rows, Columns([plain, p]), seen)
    assert rows.tolist() == [[1.0, 1.0, 1.0, 1.0], [1.0, -5.0, 2.0, -1.0]]


def test_top_p_keeps_the_token_that_crosses_the_line_and_always_one() -> None:
    logits = np.log(rows_of([0.5, 0.3, 0.15, 0.05]))
    for top_p, kept in [(0.79, 2), (0.81, 3), (0.01, 1), (0.0, 1), (1.0, 4)]:
        p = SamplingParameters(temperature=1, top_k=0, top_p=top_p)
        assert int((probabilities(logits, Columns([p])) > 0).sum()) == kept


def test_min_p_keeps_those_of_its_share_of_the_likeliest() -> None:
    logits = np.log(rows_of([0.5, 0.3, 0.15, 0.05]))
    for min_p, kept in [(0.0, 4), (0.2, 3), (0.5, 2), (0.61, 1), (1.0, 1)]:
        p = SamplingParameters(temperature=1, top_k=0, top_p=1, min_p=min_p)
        assert int((probabilities(logits, Columns([p])) > 0).sum()) == kept


def test_the_draw_is_by_inverse_transform_and_stays_inside() -> None:
    weights = np.tile(rows_of([0.5, 0.25, 0.25, 0.0]), (5, 1))
    assert invert(weights, np.array([0.0, 0.4999, 0.5, 0.75, 1 - 1e-12])).tolist() == [0, 0, 1, 2, 2]


def test_random_numbers_depend_on_seed_and_position_alone() -> None:
    assert uniform(3, 5) == uniform(3, 5)
    values = [uniform(seed, position) for seed in range(50) for position in range(50)]
    assert len(set(values)) == 2500
    assert np.mean(values) == pytest.approx(0.5, abs=0.02)
    assert uniform(2**63 - 1, 10**6) < 1


def test_equals_are_drawn_alike_whoever_the_neighbours_are(sampler: Sampler) -> None:
    tied = np.round(random_logits(1, 2))
    mine = SamplingParameters(top_k=40, temperature=1.5)
    for seed in range(40):
        drawn = set()
        for neighbour in (None, SamplingParameters(top_k=0), SamplingParameters(top_k=100)):
            running = [sequence(mine, (1,), seed)] + ([sequence(neighbour, (1,), seed)] if neighbour else [])
            chosen = sampler.sample(np.tile(tied, (len(running), 1)), running)
            drawn.add(token_of(chosen[0]))
        assert len(drawn) == 1


def test_the_largest_are_found_in_order_and_equals_in_theirs() -> None:
    values, indices, good = select(rows_of([1, 3, 3, 2, 3], [5, 0, 0, 0, 0]), 3)
    assert values.tolist() == [[3, 3, 3], [5, 0, 0]]
    assert indices.tolist() == [[1, 2, 4], [0, 1, 2]]
    assert good.all()


def test_log_probabilities_are_those_of_the_network(sampler: Sampler) -> None:
    p = SamplingParameters(temperature=0, repetition_penalty=2.0)
    logits = random_logits(1, 4)
    exact = torch.from_numpy(logits[0]).double().log_softmax(0)
    (drawn,) = sampler.sample(logits.copy(), [sequence(p, (int(logits.argmax()),), 0, logprobs=3)])
    assert isinstance(drawn, Scored)
    assert drawn.logprob == pytest.approx(float(exact[drawn.token]), abs=1e-5)
    top = exact.topk(3)
    assert [token for token, _ in drawn.likeliest] == top.indices.tolist()
    assert [value for _, value in drawn.likeliest] == pytest.approx(top.values.tolist(), abs=1e-5)


def test_a_row_that_is_no_number_fails_alone(sampler: Sampler) -> None:
    p = SamplingParameters()
    logits = random_logits(3, 4)
    logits[1, 100] = math.nan
    chosen = sampler.sample(logits, [sequence(p, (1,), 0) for _ in range(3)])
    assert [isinstance(one, Scored) for one in chosen] == [True, False, True]


def test_a_token_that_was_drawn_counts_as_seen_and_only_for_its_request(sampler: Sampler) -> None:
    p = SamplingParameters(top_k=1, repetition_penalty=2.0)
    first, second = sequence(p, (3,), 0), sequence(p, (3,), 1)
    logits = np.pad(rows_of([3.0, 3.5]), ((0, 0), (0, TOKENS - 2)))
    assert [token_of(one) for one in sampler.sample(logits.copy(), [first])] == [1]
    first.tokens.append(1)
    assert [token_of(one) for one in sampler.sample(np.tile(logits, (2, 1)), [first, second])] == [0, 1]
    sampler.leave(first)
    first.tokens.pop()
    assert [token_of(one) for one in sampler.sample(logits.copy(), [first])] == [1]
    first.tokens.append(1)
