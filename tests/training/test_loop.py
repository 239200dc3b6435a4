"""The training loop: it learns, it resumes exactly, and accumulation changes nothing."""

import json
import math
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.conftest import TOY
from victorian.config import Recipe
from victorian.device import use_threads
from victorian.errors import DataError, StorageError, TrainingError
from victorian.model.gpt2 import GPT
from victorian.storage import open_storage
from victorian.tokens.bpe import Tokens
from victorian.tokens.manifest import read_manifest
from victorian.tokens.prefetch import BATCHES_AHEAD
from victorian.tokens.stream import TokenStream, open_split
from victorian.training.loop import Extras, Trained, check_split, train
from victorian.training.monitors import Journal, StepRecord, read_records
from victorian.training.optimizer import Optimizer
from victorian.training.precision import Precision
from victorian.training.worker import LocalWorker


def changed(**sections: dict[str, object]) -> Recipe:
    value = TOY.model_dump()
    for section, changes in sections.items():
        value[section].update(changes)
    return Recipe.model_validate(value)


def split(data: Path, name: str) -> TokenStream:
    storage = open_storage(data)
    return open_split(storage, read_manifest(storage), name)  # type: ignore[arg-type]


def run(
    recipe: Recipe, data: Path, folder: Path, worker: LocalWorker | None = None, batches_ahead: int = BATCHES_AHEAD
) -> Trained:
    use_threads()
    worker = worker or LocalWorker(folder)
    training, validation = split(data, "train"), split(data, "validation")
    extras = Extras(monitors=[Journal(open_storage(folder))], batches_ahead=batches_ahead)
    return train(recipe, training, validation, worker, extras)


def what_was_learnt(folder: Path) -> list[tuple[object, ...]]:
    """Everything in a run's records that does not depend on the clock."""
    records = read_records(open_storage(folder))
    return [(r.step, r.loss, r.gradient_norm, r.validation_loss, r.learning_rate) for r in records]


def reading_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "batches"]


class SlowStream(TokenStream):
    """Tokens on a disk that takes 2 ms to find a window."""

    def read(self, start: int, stop: int) -> Tokens:
        time.sleep(0.002)
        return super().read(start, stop)


class BrokenStream(TokenStream):
    """Tokens of which the second half cannot be read any more."""

    def read(self, start: int, stop: int) -> Tokens:
        if stop > self.length // 2:
            raise DataError("the disk is gone")
        return super().read(start, stop)


class DiesAt(LocalWorker):
    """A worker whose process ends right after the checkpoint of a step."""

    def __init__(self, folder: Path, step: int) -> None:
        super().__init__(folder)
        self._last = step

    def save(self, step, take):  # type: ignore[no-untyped-def]
        super().save(step, take)
        if step == self._last:
            self.settle()
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def undisturbed(toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Recipe], tuple[Path, Trained]]:
    """Folder and end of the whole run of a recipe; each is made once."""
    made: dict[Recipe, tuple[Path, Trained]] = {}

    def find(recipe: Recipe) -> tuple[Path, Trained]:
        if recipe not in made:
            folder = tmp_path_factory.mktemp("whole")
            made[recipe] = folder, run(recipe, toy_data, folder)
        return made[recipe]

    return find


@pytest.fixture(scope="module")
def died_at_4(toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run of the toy that has ended after its checkpoint of step 4. For copies."""
    folder = tmp_path_factory.mktemp("died")
    with pytest.raises(KeyboardInterrupt):
        run(TOY, toy_data, folder, DiesAt(folder, 4))
    return folder


@pytest.fixture
def cut(died_at_4: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(died_at_4, tmp_path / "cut"))


def test_it_learns(toy_data: Path, tmp_path: Path) -> None:
    rarely = {"validation_every_steps": 30, "checkpoint_every_steps": 30}
    trained = run(changed(training={"steps": 60} | rarely), toy_data, tmp_path)
    records = read_records(open_storage(tmp_path))
    assert [record.step for record in records] == list(range(1, 61))
    assert records[0].loss == pytest.approx(6.36, abs=0.1)  # ln 576: nothing is known yet
    assert records[-1].validation_loss is not None
    assert records[-1].validation_loss < 5.4
    assert trained.position.step == 60
    assert trained.position.validation_loss == records[-1].validation_loss
    assert records[-1].learning_rate < records[10].learning_rate
    assert records[-1].spent == 1.0


@pytest.mark.parametrize(
    ("precision", "optimizer", "dies_at"),
    [
        ("fp32", "adamw", 4), ("fp32", "adamw", 8), ("fp32", "muon", 4), ("fp32", "muon", 8),
        ("bf16", "muon", 4), ("fp16", "adamw", 2),
    ],
)  # fmt: skip
def test_a_run_that_was_killed_goes_on_bit_for_bit(
    undisturbed: Callable[[Recipe], tuple[Path, Trained]],
    toy_data: Path, tmp_path: Path, precision: str, optimizer: str, dies_at: int,
) -> None:  # fmt: skip
    # CPUs multiply slowly in fp16.
    less = {"steps": 3, "checkpoint_every_steps": 2, "tokens_per_step": 128, "validation_tokens": 64}
    training = {"precision_cpu": precision} | (less if precision == "fp16" else {})
    recipe = changed(optimizer={"name": optimizer}, training=training)
    folder, whole = undisturbed(recipe)
    with pytest.raises(KeyboardInterrupt):
        run(recipe, toy_data, tmp_path / "cut", DiesAt(tmp_path / "cut", dies_at))
    resumed = run(recipe, toy_data, tmp_path / "cut")
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name
    assert what_was_learnt(folder) == what_was_learnt(tmp_path / "cut")


def test_batches_built_ahead_change_nothing(toy_data: Path, tmp_path: Path) -> None:
    recipe = changed(training={"steps": 6})
    models = [run(recipe, toy_data, tmp_path / str(ahead), batches_ahead=ahead).model for ahead in (0, 1, 4)]
    for name, tensor in models[0].state_dict().items():
        assert all(torch.equal(tensor, model.state_dict()[name]) for model in models[1:]), name
    assert what_was_learnt(tmp_path / "0") == what_was_learnt(tmp_path / "1") == what_was_learnt(tmp_path / "4")


def test_a_run_may_be_gone_on_with_without_the_batches_ahead(
    undisturbed: Callable[[Recipe], tuple[Path, Trained]], toy_data: Path, cut: Path
) -> None:
    run(TOY, toy_data, cut, batches_ahead=0)
    assert what_was_learnt(undisturbed(TOY)[0]) == what_was_learnt(cut)


def test_the_wait_for_data_is_written_down(toy_data: Path, tmp_path: Path) -> None:
    use_threads()
    stream = split(toy_data, "train")
    slow = SlowStream(stream.shards, stream.starts, stream.length)
    recipe = changed(training={"steps": 3})
    extras = Extras(monitors=[Journal(open_storage(tmp_path))], batches_ahead=0)
    train(recipe, slow, None, LocalWorker(tmp_path), extras)
    assert all(0.016 <= record.data_wait < 1 for record in read_records(open_storage(tmp_path)))  # 8 windows


def test_no_thread_outlives_a_run(toy_data: Path, tmp_path: Path) -> None:
    recipe = changed(training={"steps": 2, "checkpoint_every_steps": 1})
    run(recipe, toy_data, tmp_path / "whole")
    assert not reading_threads()
    with pytest.raises(KeyboardInterrupt):
        run(recipe, toy_data, tmp_path / "cut", DiesAt(tmp_path / "cut", 1))
    assert not reading_threads()


@pytest.mark.parametrize("ahead", [0, BATCHES_AHEAD])
def test_tokens_that_cannot_be_read_end_the_run(toy_data: Path, tmp_path: Path, ahead: int) -> None:
    stream = split(toy_data, "train")
    broken = BrokenStream(stream.shards, stream.starts, stream.length)
    with pytest.raises(DataError, match="the disk is gone"):
        train(TOY, broken, None, LocalWorker(tmp_path), Extras(batches_ahead=ahead))
    assert not reading_threads()


def test_accumulation_gives_the_same_step(toy_data: Path, tmp_path: Path) -> None:
    losses = []
    for size in (8, 2):
        recipe = changed(model={"dropout": 0.0}, training={"sequences_per_microbatch": size, "steps": 4})
        run(recipe, toy_data, tmp_path / str(size))
        losses.append([record.loss for record in read_records(open_storage(tmp_path / str(size)))])
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_a_budget_in_seconds_ends_in_time_with_the_rate_at_the_bottom(toy_data: Path, tmp_path: Path) -> None:
    recipe = changed(training={"steps": None, "seconds": 1.5})
    trained = run(recipe, toy_data, tmp_path)
    records = read_records(open_storage(tmp_path))
    assert trained.position.seconds >= 1.5
    assert records[-2].spent < 1.0 == records[-1].spent
    assert records[-1].learning_rate < 0.2 * max(record.learning_rate for record in records)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_learns_as_fp32_does(toy_data: Path, tmp_path: Path, precision: str) -> None:
    for kind in ("fp32", precision):
        short = {"steps": 4, "tokens_per_step": 128, "validation_tokens": 64, "precision_cpu": kind}
        run(changed(model={"dropout": 0.0, "layers": 1}, training=short), toy_data, tmp_path / kind)
    full, half = (
        [record.loss for record in read_records(open_storage(tmp_path / name))] for name in ("fp32", precision)
    )
    assert half == pytest.approx(full, abs=0.05)
    assert half != full


def test_without_a_validation_split_there_is_no_validation_loss(toy_data: Path, tmp_path: Path) -> None:
    worker = LocalWorker(tmp_path)
    extras = Extras(monitors=[Journal(open_storage(tmp_path))])
    trained = train(TOY, split(toy_data, "train"), None, worker, extras)
    assert trained.position.validation_loss is None
    assert all(record.validation_loss is None for record in read_records(open_storage(tmp_path)))


def test_a_checkpoint_of_another_recipe_is_refused_with_the_difference(toy_data: Path, cut: Path) -> None:
    with pytest.raises(TrainingError, match=r"another recipe \(optimizer\.clip: 2\.0, not 1\.0\)"):
        run(changed(optimizer={"clip": 2.0}), toy_data, cut)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_a_damaged_checkpoint_is_refused(toy_data: Path, cut: Path, name: str, damage: str) -> None:
    path = cut / "checkpoint-00000004" / name
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] if damage == "cut" else bytes([data[0] ^ 1]) + data[1:])
    with pytest.raises(TrainingError, match="is damaged"):
        run(TOY, toy_data, cut)


def test_a_loss_that_is_no_number_stops_the_run(toy_data: Path, tmp_path: Path) -> None:
    recipe = changed(optimizer={"name": "adamw", "learning_rate": 1e30, "clip": 1e30}, schedule={"warmup_steps": 0})
    with pytest.raises(TrainingError, match=r"the loss became (nan|inf) at step \d"):
        run(recipe, toy_data, tmp_path)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_an_overflow_in_fp16_skips_the_step_of_every_part_and_is_written_down(
    toy_data: Path, tmp_path: Path, optimizer: str
) -> None:
    recipe = changed(
        model={"layers": 1, "dropout": 0.0}, optimizer={"name": optimizer},
        training={"steps": 1, "precision_cpu": "fp16", "tokens_per_step": 128, "validation_tokens": 64},
    )  # fmt: skip
    model = GPT(recipe.model)
    model.initialize(1)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    parts = Optimizer(model, recipe.optimizer)
    precision = Precision(torch.float16, torch.device("cpu"))
    tokens = torch.randint(0, 512, (2, 65), generator=torch.Generator().manual_seed(0))
    with precision.autocast():
        precision.backward(model(tokens[:, :-1], tokens[:, 1:]))
    model.blocks[0].attention.projection.weight.grad[0, 0] = float("inf")
    scale = precision.state()["scale"]
    assert not math.isfinite(precision.step(parts, model.parameters(), 1.0))
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert precision.state()["scale"] < scale
    run(recipe, toy_data, tmp_path)
    record = read_records(open_storage(tmp_path))[0]
    overflowed = record.model_copy(update={"gradient_norm": None})
    assert StepRecord.model_validate_json(overflowed.model_dump_json()) == overflowed


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1\n')
    with pytest.raises(StorageError, match=r"metrics\.jsonl is damaged"):
        read_records(open_storage(tmp_path))


def test_a_step_that_workers_cannot_share_is_refused_with_numbers_that_work() -> None:
    with pytest.raises(
        TrainingError, match="8 windows a step cannot be shared evenly by 3 workers; use one of 1, 2, 4, 8"
    ):
        check_split(TOY, 3)


def test_a_split_shorter_than_a_window_is_refused(toy_data: Path, tmp_path: Path) -> None:
    recipe = changed(model={"context": 4096}, training={"tokens_per_step": 4096})
    short = TokenStream((split(toy_data, "validation").shards[0][:100],), (0,), 100)
    with pytest.raises(DataError, match="fewer than one window of 4097"):
        train(recipe, short, None, LocalWorker(tmp_path))


def test_records_still_being_written_are_left_for_later(tmp_path: Path, toy_data: Path) -> None:
    run(changed(training={"steps": 2}), toy_data, tmp_path)
    path = tmp_path / "metrics.jsonl"
    with path.open("a") as file:
        file.write(json.dumps({"kind": "step", "step": 3})[:10])
    assert [record.step for record in read_records(open_storage(tmp_path))] == [1, 2]
