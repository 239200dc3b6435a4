"""The head's loss in chunks equals the plain one, values and gradients, and never holds all logits."""

import pytest
import torch
import torch.nn.functional as F

from tests.model.watching import LargestTensor
from victorian.model import head
from victorian.model.head import head_loss, look_up, sum_loss


def inputs(rows: int = 37, channels: int = 16, vocabulary: int = 50) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    dice = torch.Generator().manual_seed(7)
    hidden = torch.randn(rows, channels, generator=dice, requires_grad=True)
    weight = torch.randn(vocabulary, channels, generator=dice, requires_grad=True)
    return hidden, weight, torch.randint(vocabulary, (rows,), generator=dice)


@pytest.mark.parametrize(("rows_at_once", "grouped"), [(1, 1), (10, 20), (10, 15), (37, 37), (100, 1000)])
def test_loss_and_gradients_are_those_of_the_plain_definition(
    rows_at_once: int, grouped: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head, "CHUNK_ROWS", rows_at_once)
    monkeypatch.setattr(head, "GROUP_ROWS", grouped)
    monkeypatch.setattr(head, "CHUNK_COLUMNS", 16)
    hidden, weight, targets = inputs()
    plain = F.cross_entropy(F.linear(hidden, weight), targets)
    expected = torch.autograd.grad(plain * 3, (hidden, weight))
    ours = head_loss(hidden, weight, targets)
    found = torch.autograd.grad(ours * 3, (hidden, weight))
    torch.testing.assert_close(ours, plain)
    torch.testing.assert_close(found, expected)
    with torch.no_grad():
        torch.testing.assert_close(sum_loss(hidden, weight, targets) / 37, plain)
        torch.testing.assert_close(head_loss(hidden, weight, targets), plain)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_under_autocast_it_is_as_close_to_float32_as_the_plain_one(kind: torch.dtype) -> None:
    hidden, weight, targets = inputs(rows=64)
    exact = torch.autograd.grad(F.cross_entropy(F.linear(hidden, weight), targets), (hidden, weight))
    with torch.autocast("cpu", dtype=kind):
        plain = F.cross_entropy(F.linear(hidden, weight).float(), targets)
        ours = head_loss(hidden, weight, targets)
    theirs = torch.autograd.grad(plain, (hidden, weight))
    found = torch.autograd.grad(ours, (hidden, weight))
    for mine, other, true in zip(found, theirs, exact, strict=True):
        assert mine.dtype == torch.float32
        assert (mine - true).norm() < 1.2 * (other - true).norm() + 1e-6


def test_small_slopes_survive_float16() -> None:
    """(softmax - one-hot) / rows is below float16's least number for most of a vocabulary; it must not be cast so."""
    rows, vocabulary = 4096, 50
    hidden = torch.zeros(rows, 8, requires_grad=True)
    weight = torch.randn(vocabulary, 8, generator=torch.Generator().manual_seed(1), requires_grad=True)
    targets = torch.zeros(rows, dtype=torch.int64)
    with torch.autocast("cpu", dtype=torch.float16):
        loss = head_loss(hidden, weight, targets)
    (found,) = torch.autograd.grad(loss, hidden)
    (exact,) = torch.autograd.grad(F.cross_entropy(F.linear(hidden, weight), targets), hidden)
    torch.testing.assert_close(found, exact, rtol=5e-3, atol=1e-9)


def tied(weight: torch.Tensor, tokens: torch.Tensor, targets: torch.Tensor, ours: bool) -> torch.Tensor:
    """A network that is an embedding and a head of the same weight, and a bend between."""
    if ours:
        shared: head.Shared = []
        return head_loss(torch.tanh(look_up(tokens, weight, shared)), weight, targets, shared)
    return F.cross_entropy(F.linear(torch.tanh(F.embedding(tokens, weight)), weight), targets)


def test_the_shared_weight_gets_the_gradients_of_both_its_uses() -> None:
    _, weight, targets = inputs()
    tokens = torch.randint(9, (37,), generator=torch.Generator().manual_seed(2))  # most of them several times
    sums = []
    for ours in (False, True):
        weight.grad = None
        for factor in (0.25, 0.75):  # two microbatches
            (tied(weight, tokens, targets, ours) * factor).backward()
        assert weight.grad is not None
        sums.append(weight.grad)
    torch.testing.assert_close(*sums)


def test_a_look_up_without_a_head_has_its_gradient() -> None:
    _, weight, tokens = inputs()
    expected = torch.autograd.grad(F.embedding(tokens, weight).square().sum(), weight)
    torch.testing.assert_close(torch.autograd.grad(look_up(tokens, weight, []).square().sum(), weight), expected)


def test_the_shared_weight_has_one_gradient_and_no_other_of_its_size() -> None:
    _, weight, targets = inputs()
    left = []

    class Watched(head.Shared):
        def append(self, gradient: torch.Tensor) -> None:
            left.append(gradient.data_ptr())
            super().append(gradient)

    shared = Watched()
    head_loss(torch.tanh(look_up(targets, weight, shared)), weight, targets, shared).backward()
    assert weight.grad is not None
    assert left == [weight.grad.data_ptr()]


def test_all_logits_never_exist_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "CHUNK_ROWS", 5)
    monkeypatch.setattr(head, "GROUP_ROWS", 20)
    hidden, weight, targets = inputs(rows=400)
    with LargestTensor() as largest:
        head_loss(hidden, weight, targets).backward()
    assert largest.numel == hidden.numel()  # the gradient of what came in, and nothing of rows x vocabulary
