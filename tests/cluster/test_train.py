"""Ray Train: a one-worker run equals the plain one, two workers agree with one, and a cut off run goes on."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import ray
import safetensors.torch
import torch
from ray.util.state import list_actors

from tests.conftest import TOY, prepare_plainly, train_plainly
from victorian.artifact import read_artifact
from victorian.cluster.evaluate import evaluate
from victorian.cluster.train import Options, TrainResult, train_run
from victorian.cluster.worker import new_switchboard
from victorian.config import Recipe, SelectionConfig
from victorian.errors import ArtifactError, ConfigError, DataError, TrainingError, UnstoredError, VictorianError
from victorian.storage import open_storage
from victorian.tokens.manifest import read_manifest
from victorian.tokens.stream import open_split
from victorian.training.evaluation import score_overlapping, window_count
from victorian.training.identity import taken
from victorian.training.monitors import StepRecord, read_records

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("ray_session")]


def changed(**sections: dict[str, object]) -> Recipe:
    value = TOY.model_dump()
    for section, changes in sections.items():
        value[section].update(changes)
    return Recipe.model_validate(value)


@pytest.fixture(scope="module")
def ray_run(toy_data: Path, tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> tuple[Path, TrainResult]:
    run = tmp_path_factory.mktemp("runs") / "toy"
    watched: list[StepRecord] = []
    result = train_run(TOY, str(toy_data), str(run), watch=watched.append)
    assert watched[-1].step == 12
    return run, result


def losses(run: Path) -> list[tuple[int, float, float | None]]:
    return [(record.step, record.loss, record.validation_loss) for record in read_records(open_storage(run))]


def test_one_worker_equals_the_loop_without_ray(ray_run: tuple[Path, TrainResult], toy_artifact: Path) -> None:
    run, result = ray_run
    assert losses(run) == losses(toy_artifact.parent)
    ours = safetensors.torch.load_file(Path(result.artifact) / "model.safetensors")
    plain = safetensors.torch.load_file(toy_artifact / "model.safetensors")
    assert all(torch.equal(ours[name], plain[name]) for name in plain)
    assert not list(run.rglob("*.pkl"))
    assert not list(run.rglob("*.pt"))


def test_a_failure_is_over_when_a_later_attempt_has_stored_a_checkpoint() -> None:
    switchboard = new_switchboard()
    error = UnstoredError("the storage was away")
    ray.get([switchboard.begin.remote(5), switchboard.fail.remote(error)])
    ray.get(switchboard.begin.remote(5))
    assert str(ray.get(switchboard.failure.remote())) == str(error)
    ray.get(switchboard.store.remote(10))
    assert ray.get(switchboard.failure.remote()) is None
    assert ray.get(switchboard.stored.remote()) == 10


def test_a_finished_run_is_reused(ray_run: tuple[Path, TrainResult], toy_data: Path) -> None:
    run, first = ray_run
    again = train_run(TOY, str(toy_data), str(run))
    assert again.reused
    assert again.record == first.record


def test_another_recipe_in_the_same_run_is_refused_with_the_difference(
    ray_run: tuple[Path, TrainResult], toy_data: Path
) -> None:
    with pytest.raises(TrainingError, match=r"another recipe \(training\.steps: 13, not 12\)"):
        train_run(changed(training={"steps": 13}), str(toy_data), str(ray_run[0]))


def test_other_data_in_the_same_run_are_refused(ray_run: tuple[Path, TrainResult], tmp_path: Path) -> None:
    tokens = TOY.tokens.model_copy(update={"tokens_per_shard": 30_000})
    prepare_plainly("sample", tmp_path / "other", TOY.data.model_copy(update={"tokens": tokens}))
    with pytest.raises(TrainingError, match="holds a run on other data"):
        train_run(TOY, str(tmp_path / "other"), str(ray_run[0]))


def test_two_workers_take_the_steps_of_one(toy_data: Path, tmp_path: Path) -> None:
    still = {"model": {"dropout": 0.0}}
    one = train_plainly(changed(**still), toy_data, tmp_path / "one")
    before = read_records(open_storage(one.parent))
    two = train_run(changed(**still), str(toy_data), str(tmp_path / "two"), Options(workers=2))
    assert [m.step for m in two.metrics] == [m.step for m in before]
    assert [m.loss for m in two.metrics] == pytest.approx([m.loss for m in before], abs=2e-3)
    assert two.record.validation_loss == pytest.approx(before[-1].validation_loss, abs=2e-3)


def test_a_run_whose_artifact_is_damaged_goes_on_from_its_checkpoint_and_writes_it_again(
    ray_run: tuple[Path, TrainResult], toy_data: Path, tmp_path: Path
) -> None:
    first = ray_run[1]
    run = Path(shutil.copytree(ray_run[0], tmp_path / "run"))
    weights = run / "artifact" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    again = train_run(TOY, str(toy_data), str(run))
    assert not again.reused
    assert read_artifact(again.artifact).record.step == 12
    assert [(m.step, m.loss) for m in again.metrics] == [(m.step, m.loss) for m in first.metrics]
    assert again.record.validation_loss == first.record.validation_loss


@pytest.mark.parametrize(
    ("recipe", "workers", "reason"),
    [
        (changed(tokens={"ranks": 300}), 1, "holds tokens of the first 512 ranks, the recipe toy wants 300"),
        (TOY, 3, "cannot be shared evenly by 3 workers"),
        (TOY, 0, "cannot be shared evenly by 0 workers"),
        (TOY, 8, "8 workers want a CPU each and this machine has"),
    ],
)
def test_what_cannot_work_is_refused_before_a_worker_starts(
    toy_data: Path, tmp_path: Path, recipe: Recipe, workers: int, reason: str
) -> None:
    with pytest.raises(VictorianError, match=reason):
        train_run(recipe, str(toy_data), str(tmp_path / "run"), Options(workers=workers))
    assert not (tmp_path / "run").exists()


def test_a_gpu_that_is_not_there_is_told(toy_data: Path, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has one")
    with pytest.raises(TrainingError, match="1 workers want a GPU each and this machine has 0"):
        train_run(TOY, str(toy_data), str(tmp_path / "run"), Options(use_gpu=True))


def test_a_run_never_mixes_with_a_data_set(toy_data: Path) -> None:
    with pytest.raises(TrainingError, match="holds a token data set"):
        train_run(TOY, str(toy_data), str(toy_data))


def started_workers() -> int:
    """Train workers that this session's cluster ever had."""
    here = ray.get_runtime_context().gcs_address
    return len(list_actors(here, filters=[("class_name", "=", "RayTrainWorker")], limit=1000))


def test_an_error_of_ours_comes_back_from_the_worker_at_once_and_its_advice_can_be_taken(
    toy_data: Path, tmp_path: Path
) -> None:
    run = str(tmp_path / "run")
    wide = changed(training={"tokens_per_step": 64 * 10**8, "sequences_per_microbatch": 10**8})
    attempts = started_workers()
    with pytest.raises(TrainingError, match="windows of 64 tokens at once take about"):
        train_run(wide, str(toy_data), run, Options(max_failures=3))
    assert started_workers() == attempts + 1
    assert not (tmp_path / "run" / "artifact").exists()
    assert train_run(TOY, str(toy_data), run).record.step == 12


def test_a_split_shorter_than_a_window_is_named_before_a_worker_starts(
    books: Callable[..., Path], tmp_path: Path
) -> None:
    words = "A few words more than a window has of them. " * 30
    corpus = books(train={"1": words}, validation={"2": "A few words."})
    selection = SelectionConfig(language=None, least_words=1)
    data = TOY.data.model_copy(update={"selection": selection})
    prepare_plainly(str(corpus), tmp_path / "data", data)
    with pytest.raises(DataError, match=r"holds \d+ validation tokens, fewer than one window of 65"):
        train_run(TOY, str(tmp_path / "data"), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_folder_in_which_another_process_trains_is_refused(toy_data: Path, tmp_path: Path) -> None:
    run = open_storage(tmp_path / "run")
    with taken(run, "run"), pytest.raises(TrainingError, match="run is being trained by another process"):
        train_run(TOY, str(toy_data), run.uri)
    assert not run.exists("recipe.json")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"max_failures": -1}, "--max-failures of 0 or more, got -1"),
        ({"workers": 2, "least_workers": 3}, "--least-workers from 1 to --workers, 2, got 3"),
        ({"least_workers": 0}, "--least-workers from 1 to --workers, 1, got 0"),
        ({"cpus_per_worker": 0}, "--cpus-per-worker of 1 or more, got 0"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, int], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        Options(**options)  # type: ignore[arg-type]


def test_a_damaged_shard_is_found_before_training(toy_data: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(toy_data, tmp_path / "data"))
    (copy / "train-00000.npy").write_bytes(b"x")
    with pytest.raises(DataError, match=r"train-00000\.npy is damaged"):
        train_run(TOY, str(copy), str(tmp_path / "run"))


@pytest.mark.parametrize("workers", [1, 2])
def test_evaluation_over_workers_equals_a_plain_one(toy_artifact: Path, toy_data: Path, workers: int) -> None:
    result = evaluate(str(toy_artifact), str(toy_data), "test", workers)
    storage = open_storage(toy_data)
    manifest = read_manifest(storage)
    stream = open_split(storage, manifest, "test")
    artifact = read_artifact(str(toy_artifact))
    windows = window_count(stream.length, 32)
    score = score_overlapping(artifact.model, stream, 0, windows, 32, artifact.encoding.end_of_text)
    entry = manifest.splits["test"]
    assert result.tokens == score.tokens == entry.tokens - len(entry.books)  # all but the mark before each book
    assert (result.context, result.overlap, result.as_published) == (64, 32, False)
    assert result.loss == pytest.approx(score.loss, rel=1e-5)
    assert result.bits_per_byte == pytest.approx(score.bits_per_byte(entry.bytes), rel=1e-5)
    assert result.word_perplexity == pytest.approx(score.word_perplexity(entry.original_words), rel=1e-5)


def test_evaluation_refuses_what_does_not_fit(toy_artifact: Path, toy_data: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is not a model directory"):
        evaluate(str(tmp_path), str(toy_data))
    with pytest.raises(DataError, match="is not a token data set"):
        evaluate(str(toy_artifact), str(tmp_path))
    with pytest.raises(ConfigError, match="expected a stride from 1 to the context of 64 tokens, got 65"):
        evaluate(str(toy_artifact), str(toy_data), stride=65)
