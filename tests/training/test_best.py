"""The model of the lowest validation loss is kept, at whatever steps checkpoints are made."""

from functools import partial
from pathlib import Path

import pytest

from tests.conftest import TOY
from tests.training.test_loop import changed, split
from tests.training.test_saving import trainee
from victorian.artifact import TrainingRecord, new_record, read_artifact
from victorian.config import Recipe
from victorian.device import use_threads
from victorian.errors import UnstoredError
from victorian.storage import open_storage
from victorian.tokens.batches import Batches
from victorian.training.best import keep_best
from victorian.training.checkpoint import STATE, Position, State, take_snapshot
from victorian.training.evaluation import score_windows
from victorian.training.loop import Extras, train
from victorian.training.monitors import Journal, StepRecord, read_records
from victorian.training.saving import Attempts
from victorian.training.worker import LocalWorker

# A rate that rises until it harms: looks at 3, 6, 9 and 12, the lowest between two of the checkpoints at 5, 10 and 12.
OVERFITTING = changed(
    schedule={"warmup_steps": 12, "hold": 0.9},
    optimizer={"name": "adamw", "learning_rate": 1.0},
    training={"validation_every_steps": 3, "checkpoint_every_steps": 5, "divergence": 1000.0},
)


class EndsAt(Journal):
    """Ends the process when a step is told, before anything is stored of it."""

    def __init__(self, folder: Path, step: int) -> None:
        super().__init__(open_storage(folder))
        self._last = step

    def step(self, record: StepRecord) -> None:
        super().step(record)
        if record.step == self._last:
            raise KeyboardInterrupt


def record(recipe: Recipe, at: Position) -> TrainingRecord:
    return new_record(recipe, at.step, 0.0, at.loss, at.validation_loss, "")


def run(recipe: Recipe, data: Path, folder: Path, journal: Journal | None = None) -> dict[int, float]:
    """Train, keeping the best model; the looks at the validation loss by step."""
    use_threads()
    storage = open_storage(folder)
    worker = LocalWorker(folder, partial(keep_best, storage, partial(record, recipe)))
    extras = Extras(monitors=[journal or Journal(storage)])
    try:
        train(recipe, split(data, "train"), split(data, "validation"), worker, extras)
    finally:
        worker.settle()  # what a run that ends early has begun to store
    return {r.step: r.validation_loss for r in read_records(storage) if r.validation_loss is not None}


def kept(folder: Path) -> str:
    """Name of the one model in `best/`."""
    (whole,) = folder.glob("best/*/training.json")
    assert [path.name for path in folder.glob("best/*")] == [whole.parent.name]
    return whole.parent.name


def position(folder: Path) -> Position:
    """Where the latest checkpoint stands."""
    (state,) = folder.glob(f"checkpoint-*/{STATE}")
    return State.model_validate_json(state.read_bytes()).position


@pytest.mark.parametrize(("recipe", "overfits"), [(OVERFITTING, True), (TOY, False)])
def test_the_model_of_the_lowest_look_is_kept(toy_data: Path, tmp_path: Path, recipe: Recipe, overfits: bool) -> None:
    judged = run(recipe, toy_data, tmp_path)
    lowest = min(judged, key=lambda step: judged[step])
    assert (lowest % recipe.training.checkpoint_every_steps != 0 and lowest < 12) == overfits
    assert kept(tmp_path) == f"step-{lowest:08d}"
    best = read_artifact(str(tmp_path / "best" / kept(tmp_path)))
    assert (best.record.step, best.record.validation_loss) == (lowest, judged[lowest])
    assert position(tmp_path).best_validation_loss == judged[lowest]
    windows = recipe.training.validation_tokens // recipe.model.context
    validation = Batches(split(toy_data, "validation"), recipe.model.context, 1, recipe.training.seed)
    assert score_windows(best.model, validation, 0, windows).loss == pytest.approx(judged[lowest], abs=1e-5)


def test_a_run_cut_off_between_its_best_look_and_a_checkpoint_comes_to_the_same_best(
    toy_data: Path, tmp_path: Path
) -> None:
    judged = run(OVERFITTING, toy_data, tmp_path / "whole")
    lowest = min(judged, key=lambda step: judged[step])
    with pytest.raises(KeyboardInterrupt):
        run(OVERFITTING, toy_data, tmp_path / "cut", EndsAt(tmp_path / "cut", lowest + 1))
    stored = position(tmp_path / "cut")
    assert stored.step == lowest - 1
    assert read_artifact(str(tmp_path / "cut" / "best" / kept(tmp_path / "cut"))).record.validation_loss == (
        stored.best_validation_loss
    )
    assert run(OVERFITTING, toy_data, tmp_path / "cut") == judged
    assert kept(tmp_path / "cut") == kept(tmp_path / "whole") == f"step-{lowest:08d}"
    whole, cut = (read_artifact(str(tmp_path / name / "best" / f"step-{lowest:08d}")) for name in ("whole", "cut"))
    assert cut.record.files == whole.record.files


def test_a_best_model_that_cannot_be_stored_leaves_no_checkpoint_that_counts_on_it(tmp_path: Path) -> None:
    (tmp_path / "best").write_text("a file where the folder is to be")
    attempts = Attempts(keep=partial(keep_best, open_storage(tmp_path), partial(record, TOY)), pauses=(0.0,))
    at = Position(step=5, validation_loss=3.0, validated_step=5, best_validation_loss=3.0)
    with pytest.raises(UnstoredError, match=r"step 5 could not be stored \(.*; there is no whole checkpoint yet"):
        attempts.write(take_snapshot(trainee(), at), open_storage(tmp_path / "5"))
    assert not (tmp_path / "5" / STATE).exists()


def test_a_checkpoint_that_cannot_be_stored_costs_no_best_model_and_no_better_one_gives_way(tmp_path: Path) -> None:
    attempts = Attempts(keep=partial(keep_best, open_storage(tmp_path), partial(record, TOY)), pauses=(0.0, 0.0))

    def store(step: int, loss: float) -> None:
        at = Position(step=step, validation_loss=loss, validated_step=step, best_validation_loss=loss)
        attempts.write(take_snapshot(trainee(), at), open_storage(tmp_path / str(step)))

    def whole() -> list[str]:
        return sorted(path.parent.name for path in tmp_path.glob("best/*/training.json"))

    store(5, 3.0)
    assert whole() == ["step-00000005"]
    (tmp_path / "10").write_text("a file where the folder is to be")
    with pytest.raises(UnstoredError, match="the last whole checkpoint is of step 5"):
        store(10, 2.0)
    assert whole() == ["step-00000005", "step-00000010"]
    store(11, 2.5)  # the run went on from step 5 another way
    assert whole() == ["step-00000010"]
    store(12, 1.5)
    assert whole() == ["step-00000012"]
