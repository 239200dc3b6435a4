"""Each sampling parameter against a plain, slow definition of it, on random logits."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from victorian.config import SamplingParameters
from victorian.engine.request import Request
from victorian.engine.sampling import Sampler, draw, filter_sorted, penalize_repetition, uniform
from victorian.engine.scheduler import Sequence
from victorian.engine.text import TextStream
from victorian.tokens.bpe import get_encoding

TOKENS = 513


def slow_distribution(logits: list[float], seen: set[int], p: SamplingParameters) -> dict[int, float]:
    """Probability of every token that may be drawn, by the definitions, one number at a time."""
    adjusted = []
    for token, logit in enumerate(logits):
        if token in seen:
            logit = logit / p.repetition_penalty if logit > 0 else logit * p.repetition_penalty
        adjusted.append(logit / p.temperature)
    order = sorted(range(len(logits)), key=lambda token: -adjusted[token])
    if p.top_k:
        order = order[: p.top_k]
    top = adjusted[order[0]]
    weights = {token: math.exp(adjusted[token] - top) for token in order}
    total = sum(weights.values())
    kept: dict[int, float] = {}
    held = 0.0
    for token in order:
        if kept and held >= p.top_p * total:
            break
        kept[token] = weights[token]
        held += weights[token]
    return {token: weight / sum(kept.values()) for token, weight in kept.items()}


def sequence(parameters: SamplingParameters, prompt: tuple[int, ...], seed: int, position: int = 1) -> Sequence:
    request = Request("r", prompt, parameters, seed)
    made = Sequence(request, lambda _: None, TextStream(get_encoding(512), ()), context=64)
    made.tokens = list(prompt) + [0] * (position - len(prompt))
    return made


parameters = st.builds(
    SamplingParameters,
    temperature=st.floats(0.1, 2.0),
    top_k=st.integers(0, 100),
    top_p=st.floats(0.01, 1.0),
    repetition_penalty=st.floats(1.0, 2.0),
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(parameters, st.sets(st.integers(0, 512), min_size=1)), min_size=1, max_size=5),
    st.integers(0, 99),
)
def test_every_row_follows_its_own_definition(rows: list[tuple[SamplingParameters, set[int]]], seed: int) -> None:
    logits = torch.randn(len(rows), TOKENS, generator=torch.Generator().manual_seed(seed)) * 3
    sampler = Sampler(TOKENS, torch.device("cpu"))
    running = []
    for row, (p, seen) in enumerate(rows):
        running.append(sequence(p, tuple(seen), seed + row, position=len(seen)))
    chosen = sampler.sample(logits, running)
    for row, (p, seen) in enumerate(rows):
        allowed = slow_distribution(logits[row].tolist(), seen, p)
        # The draw by inverse transform, over the same tokens from the likeliest down.
        target, held = uniform(seed + row, len(seen)), 0.0
        near = []
        for token, probability in allowed.items():
            if held - 1e-4 <= target <= held + probability + 1e-4:  # float32 against float64 at the borders
                near.append(token)
            held += probability
        assert chosen[row] in near or chosen[row] in list(allowed)[-1:]


def test_frequencies_follow_the_distribution() -> None:
    p = SamplingParameters(temperature=0.9, top_k=12, top_p=0.9, repetition_penalty=1.3)
    logits = torch.randn(1, TOKENS, generator=torch.Generator().manual_seed(5)) * 2
    seen = {int(logits.argmax()), 7}
    expected = slow_distribution(logits[0].tolist(), seen, p)
    rounds = 4000
    counts: dict[int, int] = {}
    for seed in range(rounds):
        sampler = Sampler(TOKENS, torch.device("cpu"))
        (token,) = sampler.sample(logits, [sequence(p, tuple(seen), seed)])
        counts[token] = counts.get(token, 0) + 1
    assert set(counts) <= set(expected)
    chi_squared = sum((counts.get(t, 0) - rounds * q) ** 2 / (rounds * q) for t, q in expected.items())
    freedom = len(expected) - 1
    assert chi_squared < freedom + 4 * math.sqrt(2 * freedom)  # four deviations; the seeds are fixed


def test_penalty_by_example() -> None:
    logits = torch.tensor([[2.0, -2.0, 2.0, -2.0]])
    seen = torch.tensor([[True, True, False, False]])
    assert penalize_repetition(logits, seen, torch.tensor([[2.0]])).tolist() == [[1.0, -4.0, 2.0, -2.0]]


def test_top_p_keeps_the_token_that_crosses_the_line_and_always_one() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    every = torch.tensor([[4]])
    for top_p, kept in [(0.79, 2), (0.81, 3), (0.01, 1), (0.0, 1), (1.0, 4)]:
        assert int((filter_sorted(logits, every, torch.tensor([[top_p]])) > 0).sum()) == kept


def test_the_draw_is_by_inverse_transform_and_stays_inside() -> None:
    probabilities = torch.tensor([[0.5, 0.25, 0.25, 0.0]]).repeat(5, 1)
    uniforms = torch.tensor([[0.0], [0.4999], [0.5], [0.75], [1 - 1e-12]], dtype=torch.float64)
    assert draw(probabilities, uniforms).tolist() == [0, 0, 1, 2, 2]


def test_random_numbers_depend_on_seed_and_position_alone() -> None:
    assert uniform(3, 5) == uniform(3, 5)
    values = [uniform(seed, position) for seed in range(50) for position in range(50)]
    assert len(set(values)) == 2500
    assert np.mean(values) == pytest.approx(0.5, abs=0.02)
    assert uniform(2**63 - 1, 10**6) < 1


def test_equal_logits_are_drawn_alike_whoever_the_neighbours_are() -> None:
    tied = torch.randn(1, TOKENS, generator=torch.Generator().manual_seed(2)).bfloat16().float()
    mine = SamplingParameters(top_k=40, temperature=1.5)
    for seed in range(40):
        draws = set()
        for neighbour in (None, SamplingParameters(top_k=0), SamplingParameters(top_k=100)):
            sampler = Sampler(TOKENS, torch.device("cpu"))
            running = [sequence(mine, (1,), seed)] + ([sequence(neighbour, (1,), seed)] if neighbour else [])
            draws.add(sampler.sample(tied.repeat(len(running), 1), running)[0])
        assert len(draws) == 1


def test_a_token_that_was_drawn_counts_as_seen_and_only_for_its_request() -> None:
    sampler = Sampler(4, torch.device("cpu"))
    p = SamplingParameters(top_k=1, repetition_penalty=2.0)
    first, second = sequence(p, (3,), 0), sequence(p, (3,), 1)
    logits = torch.tensor([[3.0, 3.5, 0.0, 0.0]])
    assert sampler.sample(logits, [first]) == [1]
    assert sampler.sample(logits.repeat(2, 1), [first, second]) == [0, 1]
    sampler.leave(first)
    assert sampler.sample(logits, [first]) == [1]
