"""Attention a block at a time equals its definition, with and without dropout, and never holds all weights."""

import math

import pytest
import torch
import torch.nn.functional as F

from tests.model.watching import LargestTensor
from victorian.model import attention
from victorian.model.attention import causal_attention

SHAPE = (2, 3, 37, 8)
"""batch, heads, time, head_dim"""


def inputs(dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    """Queries, keys and values as a model has them: views of one tensor."""
    batch, heads, time, head_dim = SHAPE
    dice = torch.Generator().manual_seed(3)
    made = torch.randn(batch, time, 3, heads, head_dim, generator=dice, dtype=torch.float64)
    return [x.to(dtype).requires_grad_() for x in made.permute(2, 0, 3, 1, 4).unbind(0)]


def plain(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, kept: torch.Tensor | float = 1.0) -> torch.Tensor:
    time = q.shape[-2]
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    scores = scores.masked_fill(torch.ones(time, time, dtype=torch.bool).triu(1), -math.inf)
    return (scores.softmax(dim=-1) * kept) @ v


@pytest.mark.parametrize("block", [1, 10, 37, 128])
def test_values_and_gradients_are_those_of_the_definition(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "BLOCK", block)
    given = inputs()
    ours, expected = causal_attention(*given), plain(*given)
    torch.testing.assert_close(ours, expected)
    slope = torch.randn(SHAPE, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    found = torch.autograd.grad(ours, given, slope)
    # Sums over blocks are float32.
    torch.testing.assert_close(found, torch.autograd.grad(expected, given, slope), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_in_half_precision_it_is_as_close_as_the_fused_kernel(kind: torch.dtype) -> None:
    exact, halves = inputs(), inputs(kind)
    slope = torch.ones(SHAPE, dtype=torch.float64)
    wanted = torch.autograd.grad(plain(*exact), exact, slope)
    fused = F.scaled_dot_product_attention(*halves, is_causal=True)
    theirs = torch.autograd.grad(fused, halves, slope.to(kind))
    ours = torch.autograd.grad(causal_attention(*halves), halves, slope.to(kind))
    for mine, other, true in zip(ours, theirs, wanted, strict=True):
        assert (mine - true).norm() < 2 * (other - true).norm() + 1e-3 * true.norm()


def test_dropout_drops_its_share_and_has_the_gradient_of_what_it_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "BLOCK", 10)
    q, k, _ = inputs()
    batch, heads, time, _ = SHAPE
    everything = torch.eye(time, dtype=torch.float64).expand(batch, heads, time, time).clone().requires_grad_()
    torch.manual_seed(11)
    dropped = causal_attention(q, k, everything, dropout=0.3)  # values that are unit vectors show the weights
    whole = plain(q, k, everything)
    kept = (dropped != 0).to(torch.float64) / 0.7
    torch.testing.assert_close(dropped, plain(q, k, everything, kept * whole / whole.clamp_min(1e-300)))
    share = float((dropped == 0).sum() - (whole == 0).sum()) / float((whole != 0).sum())
    assert 0.27 < share < 0.33  # of 4,218 weights: four standard deviations
    slope = torch.randn(dropped.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    found = torch.autograd.grad(dropped, (q, k, everything), slope)
    expected = torch.autograd.grad(plain(q, k, everything, kept), (q, k, everything), slope)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_dropout_follows_torchs_seed() -> None:
    given = inputs()

    def drawn(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return causal_attention(*given, dropout=0.5)

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


def test_all_weights_never_exist_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "BLOCK", 4)
    batch, heads, time, _ = SHAPE
    given = inputs()
    with LargestTensor() as largest:
        causal_attention(*given, dropout=0.2).sum().backward()
    assert largest.numel < batch * heads * time * time / 2
