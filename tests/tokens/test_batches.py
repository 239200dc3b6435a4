"""The batch of a step is a function of (seed, step), the same at any number of workers."""

import numpy as np
import pytest
import torch

from victorian.errors import DataError
from victorian.tokens.batches import Batches
from victorian.tokens.stream import TokenStream


def stream(length: int) -> TokenStream:
    half = length // 2
    tokens = np.arange(length, dtype=np.uint16)
    return TokenStream((tokens[:half], tokens[half:]), (0, half), length)


def test_targets_are_the_inputs_one_token_later() -> None:
    inputs, targets = Batches(stream(1001), context=10, sequences_per_step=4, seed=1).batch(0)
    assert inputs.shape == targets.shape == (4, 10)
    assert torch.equal(targets, inputs + 1)
    assert inputs.dtype == torch.int64


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_the_global_batch_is_the_same_at_any_number_of_workers(world_size: int) -> None:
    whole = Batches(stream(1001), 10, 8, seed=3).batch(5)[0]
    shares = [Batches(stream(1001), 10, 8, seed=3).batch(5, rank, world_size)[0] for rank in range(world_size)]
    assert torch.equal(torch.cat(shares), whole)


def test_an_epoch_reads_every_window_once_in_an_order_of_its_own() -> None:
    batches = Batches(stream(1001), 10, 25, seed=3)
    epochs = [torch.cat([batches.batch(step)[0][:, 0] for step in range(first, first + 4)]) for first in (0, 4)]
    for epoch in epochs:
        assert sorted(epoch.tolist()) == list(range(0, 1000, 10))
    assert not torch.equal(epochs[0], epochs[1])
    assert not torch.equal(epochs[0], Batches(stream(1001), 10, 100, seed=4).batch(0)[0][:, 0])


def test_a_step_may_straddle_two_epochs() -> None:
    batches = Batches(stream(1001), 10, 60, seed=3)
    seen = torch.cat([batches.batch(step)[0][:, 0] for step in range(5)]).tolist()
    assert all(seen.count(start) == 3 for start in range(0, 1000, 10))


def test_in_order_follows_the_text_and_ends_with_it() -> None:
    batches = Batches(stream(95), 10, 1, seed=0)
    assert batches.windows == 9
    assert batches.in_order(7, 5)[0][:, 0].tolist() == [70, 80]


def test_too_little_text_is_refused_with_the_numbers() -> None:
    with pytest.raises(DataError, match="the split has 10 tokens, fewer than one window of 11"):
        Batches(stream(10), 10, 1, seed=0)
