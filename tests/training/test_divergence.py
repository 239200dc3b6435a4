"""A step that diverges: its batch is kept, and by recipe the run ends, or goes on without it."""

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from tests.conftest import TOY
from tests.training.test_best import kept, record
from tests.training.test_loop import changed, split
from victorian.artifact import read_artifact
from victorian.config import Recipe
from victorian.device import use_threads
from victorian.errors import DivergedError, StorageError
from victorian.model.gpt2 import GPT
from victorian.storage import open_storage
from victorian.tokens.batches import Batches
from victorian.training import loop
from victorian.training.best import keep_best
from victorian.training.divergence import LEFT_OUT, MOST_LEFT_OUT, Trouble
from victorian.training.loop import Extras, Trained, train
from victorian.training.monitors import Journal, read_records
from victorian.training.worker import LocalWorker

BAD = 6
"""The batch that makes the loss leap."""


def run(recipe: Recipe, data: Path, folder: Path, worker: LocalWorker | None = None) -> Trained:
    use_threads()
    storage = open_storage(folder)
    worker = worker or LocalWorker(folder)
    extras = Extras(monitors=[Journal(storage)], trouble=Trouble(storage))
    try:
        return train(recipe, split(data, "train"), split(data, "validation"), worker, extras)
    finally:
        worker.settle()  # what a run that ends early has begun to store


def batch_of(data: Path, index: int) -> torch.Tensor:
    """What the toy reads in a batch."""
    batches = Batches(split(data, "train"), TOY.model.context, TOY.sequences_per_step, TOY.training.seed)
    return batches.batch(index)[0]


class Spoiling(LocalWorker):
    """A worker in whose model one batch spoils the gradient, or by its step the weights; it keeps the best model."""

    def __init__(self, folder: Path, bad: torch.Tensor, spoils: str) -> None:
        super().__init__(folder, partial(keep_best, open_storage(folder), partial(record, TOY)))
        self._bad = bad
        self._spoils = spoils
        self._reads_it = False

    def wrap(self, model: nn.Module) -> nn.Module:
        weight = model.get_parameter("final_norm.weight")
        model.register_forward_pre_hook(self._note)
        if self._spoils == "gradient":
            weight.register_hook(lambda gradient: gradient * torch.inf if self._reads_it else gradient)
        else:
            weight.register_post_accumulate_grad_hook(self._spoil)
        return super().wrap(model)

    def _note(self, _: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        self._reads_it = torch.equal(arguments[0][-1], self._bad[-1])  # in the last microbatch

    def _spoil(self, weight: torch.Tensor) -> None:
        if self._reads_it:
            with torch.no_grad():
                weight.fill_(torch.inf)


class OneOfTwo(Spoiling):
    """One of two workers, each in its thread, that share sums but no gradients."""

    world_size = 2

    def __init__(self, folder: Path, bad: torch.Tensor, rank: int, sums: "Sums") -> None:
        super().__init__(folder, bad, "gradient")
        self.rank = rank
        self._sums = sums

    def total(self, values: list[float]) -> list[float]:
        return self._sums.add(self.rank, values)


class Sums:
    """What two threads add up; it breaks if one of them ends before the other."""

    def __init__(self) -> None:
        self._met = threading.Barrier(2, timeout=20)
        self._shares: dict[int, list[float]] = {}

    def add(self, rank: int, values: list[float]) -> list[float]:
        self._met.wait()
        self._shares[rank] = values
        self._met.wait()
        return [sum(share) for share in zip(*self._shares.values(), strict=True)]


def all_finite(model: nn.Module) -> bool:
    return all(bool(parameter.isfinite().all()) for parameter in model.parameters())


@pytest.fixture
def poisoned(toy_data: Path, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """Makes the loss of one batch leap; gives that batch."""
    bad = batch_of(toy_data, BAD)
    honest = loop.take_step

    def step(wrapped, trainee, batch):  # type: ignore[no-untyped-def]
        loss, norm = honest(wrapped, trainee, batch)
        return (loss + 50 if torch.equal(batch[0], bad) else loss), norm

    monkeypatch.setattr(loop, "take_step", step)
    return bad


def test_the_run_stops_and_the_batch_is_kept(toy_data: Path, tmp_path: Path, poisoned: torch.Tensor) -> None:
    with pytest.raises(DivergedError, match=rf"at step {BAD + 1}; its batch is in .*diverged; lower the learning rate"):
        run(TOY, toy_data, tmp_path)
    (kept,) = tmp_path.glob("diverged/*.safetensors")
    tensors = safetensors.torch.load_file(kept)
    assert torch.equal(tensors["inputs"], poisoned)
    assert torch.equal(tensors["targets"][:, :-1], poisoned[:, 1:])
    assert not (tmp_path / LEFT_OUT).exists()
    assert [record.step for record in read_records(open_storage(tmp_path))] == list(range(1, BAD + 1))


def test_the_batch_is_left_out_by_recipe_and_the_run_goes_on(
    toy_data: Path, tmp_path: Path, poisoned: torch.Tensor
) -> None:
    recipe = changed(training={"on_divergence": "leave out"})
    with pytest.raises(DivergedError, match="left out from now on") as caught:
        run(recipe, toy_data, tmp_path)
    assert caught.value.may_go_on
    trained = run(recipe, toy_data, tmp_path)
    assert trained.position.step == 12
    assert [record.step for record in read_records(open_storage(tmp_path))] == list(range(1, 13))


def test_one_that_diverges_again_and_again_stops(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    storage.write(LEFT_OUT, str(list(range(MOST_LEFT_OUT))).encode())
    config = changed(training={"on_divergence": "leave out"}).training
    batch = torch.zeros(1, 4, dtype=torch.int64), torch.zeros(1, 4, dtype=torch.int64)
    with pytest.raises(DivergedError, match="so it is not the batch") as caught:
        Trouble(storage).keep(9, batch, LocalWorker(tmp_path), "the loss became nan", config)
    assert not caught.value.may_go_on


def test_steps_count_the_batches_that_are_not_left_out(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    assert [Trouble(storage).batch_index(step) for step in range(4)] == [0, 1, 2, 3]
    storage.write(LEFT_OUT, b"[4, 0, 1]")
    assert [Trouble(storage).batch_index(step) for step in range(5)] == [2, 3, 5, 6, 7]
    storage.write(LEFT_OUT, b"{}x")
    with pytest.raises(StorageError, match=r"left_out\.json is damaged"):
        Trouble(storage)


@pytest.mark.parametrize(
    ("loss", "norm", "mean", "reason"),
    [
        (float("nan"), float("nan"), None, "the loss became nan"),
        (float("inf"), 1.0, 5.0, "the loss became inf"),
        (9.0, 1.0, 5.0, "the loss became 9"),
        (5.0, float("inf"), 5.0, "the norm of the gradient became inf"),
        (7.0, 1e6, 5.0, None),
        (9.0, None, None, None),
    ],
)
def test_what_counts_as_diverging(loss: float, norm: float | None, mean: float | None, reason: str | None) -> None:
    assert Trouble().diverged(loss, norm, mean, TOY.training) == reason


@pytest.mark.parametrize(
    ("spoils", "reason"),
    [
        ("gradient", r"the norm of the gradient became (inf|nan) at step 10"),
        ("weights", r"the validation loss became (inf|nan) at step 10"),
    ],
)
def test_a_step_that_makes_what_is_no_number_is_neither_told_nor_stored(
    toy_data: Path, tmp_path: Path, spoils: str, reason: str
) -> None:
    # Both a look and a checkpoint would be due.
    recipe = changed(training={"on_divergence": "leave out", "checkpoint_every_steps": 5})
    bad = batch_of(toy_data, 9)
    with pytest.raises(DivergedError, match=f"{reason}; its batch is in .* left out from now on") as caught:
        run(recipe, toy_data, tmp_path, Spoiling(tmp_path, bad, spoils))
    assert caught.value.may_go_on
    (left_out,) = tmp_path.glob("diverged/*.safetensors")
    assert torch.equal(safetensors.torch.load_file(left_out)["inputs"], bad)
    assert [record.step for record in read_records(open_storage(tmp_path))] == list(range(1, 10))
    (checkpoint,) = tmp_path.glob("checkpoint-*")
    assert checkpoint.name == "checkpoint-00000005"
    stored = safetensors.torch.load_file(checkpoint / "model.safetensors")
    assert all(bool(tensor.isfinite().all()) for tensor in stored.values())
    assert kept(tmp_path) == "step-00000005"
    trained = run(recipe, toy_data, tmp_path, Spoiling(tmp_path, bad, spoils))
    assert trained.position.step == 12
    assert all_finite(trained.model)
    assert all_finite(read_artifact(str(tmp_path / "best" / kept(tmp_path))).model)


def test_workers_of_which_one_alone_has_a_spoilt_gradient_end_together(toy_data: Path, tmp_path: Path) -> None:
    bad, sums = batch_of(toy_data, 2), Sums()
    with ThreadPoolExecutor(2) as threads:
        ends = [threads.submit(run, TOY, toy_data, tmp_path, OneOfTwo(tmp_path, bad, rank, sums)) for rank in (0, 1)]
    for end in ends:
        with pytest.raises(DivergedError, match=r"the norm of the gradient became (inf|nan) at step 3"):
            end.result()
    assert len(list(tmp_path.glob("diverged/*.safetensors"))) == 2


def test_a_rate_that_spoils_the_validation_loss_with_the_last_step_ends_the_run(toy_data: Path, tmp_path: Path) -> None:
    wild = {"name": "adamw", "learning_rate": 1e20}
    recipe = changed(optimizer=wild, schedule={"warmup_steps": 0}, training={"steps": 1})
    with pytest.raises(DivergedError, match="the validation loss became nan at step 1; its batch is in"):
        run(recipe, toy_data, tmp_path)
    assert not read_records(open_storage(tmp_path))
    assert not list(tmp_path.glob("checkpoint-*"))


def test_weights_to_begin_with_are_begun_with(toy_data: Path, tmp_path: Path) -> None:
    other = GPT(TOY.model)
    other.initialize(99)
    recipe = changed(training={"steps": 1}, optimizer={"name": "adamw", "learning_rate": 1e-30})
    extras = Extras(initial=other.state_dict())
    trained = train(recipe, split(toy_data, "train"), None, LocalWorker(tmp_path), extras)
    for name, tensor in trained.model.state_dict().items():
        torch.testing.assert_close(tensor, other.state_dict()[name], rtol=0, atol=1e-20)
