"""A step that diverges: its batch is kept, and by recipe the run ends, or goes on without it."""

from pathlib import Path

import pytest
import safetensors.torch
import torch

from tests.conftest import TOY
from tests.training.test_loop import changed, split
from victorian.config import Recipe
from victorian.device import use_threads
from victorian.errors import DivergedError, StorageError
from victorian.model.gpt2 import GPT
from victorian.storage import open_storage
from victorian.tokens.batches import Batches
from victorian.training import loop
from victorian.training.divergence import LEFT_OUT, MOST_LEFT_OUT, Trouble
from victorian.training.loop import Extras, Trained, train
from victorian.training.monitors import Journal, read_records
from victorian.training.worker import LocalWorker

BAD = 6
"""The batch that makes the loss leap."""


def run(recipe: Recipe, data: Path, folder: Path) -> Trained:
    use_threads()
    storage = open_storage(folder)
    extras = Extras(monitors=[Journal(storage)], trouble=Trouble(storage))
    return train(recipe, split(data, "train"), split(data, "validation"), LocalWorker(folder), extras)


@pytest.fixture
def poisoned(toy_data: Path, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """Makes the loss of one batch leap; gives that batch."""
    bad, _ = Batches(split(toy_data, "train"), TOY.model.context, TOY.sequences_per_step, TOY.training.seed).batch(BAD)
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
        Trouble(storage).keep(9, batch, LocalWorker(tmp_path), float("nan"), config)
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
    ("loss", "mean", "expected"),
    [(float("nan"), None, True), (float("inf"), 5.0, True), (9.0, 5.0, True), (7.0, 5.0, False), (9.0, None, False)],
)
def test_what_counts_as_diverging(loss: float, mean: float | None, expected: bool) -> None:
    assert Trouble().diverged(loss, mean, TOY.training) is expected


def test_weights_to_begin_with_are_begun_with(toy_data: Path, tmp_path: Path) -> None:
    other = GPT(TOY.model)
    other.initialize(99)
    recipe = changed(training={"steps": 1}, optimizer={"name": "adamw", "learning_rate": 1e-30})
    extras = Extras(initial=other.state_dict())
    trained = train(recipe, split(toy_data, "train"), None, LocalWorker(tmp_path), extras)
    for name, tensor in trained.model.state_dict().items():
        torch.testing.assert_close(tensor, other.state_dict()[name], rtol=0, atol=1e-20)
