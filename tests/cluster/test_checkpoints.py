"""Checkpoints of Ray Train: one half written is never taken up, and the best model is kept beside the last ones."""

import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.cluster.test_train_kills import assert_the_same, recipe_of
from tests.conftest import train_plainly
from tests.running_service import soon
from victorian.artifact import read_artifact
from victorian.cluster.train import Options, train_run
from victorian.errors import TrainingError
from victorian.storage import open_storage
from victorian.tokens.manifest import read_manifest
from victorian.tokens.stream import open_split
from victorian.training.checkpoint import STATE
from victorian.training.loop import Extras, train
from victorian.training.monitors import Journal, read_records
from victorian.training.worker import LocalWorker

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("ray_session")]


@pytest.fixture
def killer(tmp_path: Path) -> Iterator[list[int]]:
    """Kills the training worker while a second checkpoint is half written; tells whom."""
    killed: list[int] = []
    done = threading.Event()

    def half_written() -> bool:
        folders = list((tmp_path / "cut").glob("ray/step-*"))
        return len(folders) >= 2 and any(not (folder / STATE).exists() and list(folder.iterdir()) for folder in folders)

    def work() -> None:
        while not done.is_set() and not killed:
            if half_written():
                for process in psutil.Process().children(recursive=True):  # other clusters may run beside ours
                    if trains(process):
                        process.send_signal(signal.SIGKILL)
                        killed.append(process.pid)
            time.sleep(0.001)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    yield killed
    done.set()
    thread.join()


def trains(process: psutil.Process) -> bool:
    """Whether it is a worker of Ray Train."""
    try:
        return process.name().startswith("ray::RayTrainWork")
    except psutil.Error:
        return False


def test_a_worker_killed_while_it_writes_a_checkpoint_goes_on_from_the_one_before(
    toy_data: Path, tmp_path: Path, killer: list[int]
) -> None:
    # So many rows that a checkpoint takes a moment.
    recipe = recipe_of(model={"vocabulary": 60_000, "channels": 64}, training={"steps": 8, "checkpoint_every_steps": 2})
    whole = train_plainly(recipe, toy_data, tmp_path / "whole").parent
    train_run(recipe, str(toy_data), str(tmp_path / "cut"))
    assert killer
    assert_the_same(str(tmp_path / "cut"), whole)
    assert soon(lambda: len(list((tmp_path / "cut" / "ray").glob("step-*"))) <= recipe.training.checkpoints_kept + 1)


def test_the_best_model_is_kept_of_a_run_that_began_with_another(
    toy_data: Path, toy_artifact: Path, tmp_path: Path
) -> None:
    watching = {"validation_every_steps": 4, "checkpoint_every_steps": 5, "steps": 12, "divergence": 1000.0}
    # A rate that rises until it harms: the last model is not the best.
    rising = {"warmup_steps": 12, "hold": 0.9}
    recipe = recipe_of(training=watching, schedule=rising, optimizer={"name": "adamw", "learning_rate": 3.0})
    run_folder, options = tmp_path / "run", Options(init_from=str(toy_artifact))
    result = train_run(recipe, str(toy_data), str(run_folder), options)
    judged = {r.step: r.validation_loss for r in result.metrics if r.validation_loss is not None}
    best = min(judged, key=lambda step: judged[step] or 0.0)
    assert best < 12
    assert [path.name for path in run_folder.glob("best/*/training.json")] == ["training.json"]
    kept = read_artifact(str(run_folder / "best" / f"step-{best:08d}"))
    assert kept.record.validation_loss == judged[best]
    # The same without Ray, which begins with the weights that are given to it.
    weights = read_artifact(str(toy_artifact)).model.state_dict()
    data = open_storage(toy_data)
    monitors = [Journal(open_storage(tmp_path / "plain"))]
    stream = open_split(data, read_manifest(data), "train")
    train(recipe, stream, None, LocalWorker(tmp_path / "plain"), Extras(initial=weights, monitors=monitors))
    plain = read_records(open_storage(tmp_path / "plain"))
    assert [(r.loss, r.gradient_norm) for r in result.metrics] == [(r.loss, r.gradient_norm) for r in plain]
    with pytest.raises(TrainingError, match="holds a run that began with other weights"):
        train_run(recipe, str(toy_data), str(run_folder))
    with pytest.raises(TrainingError, match=r"another shape than the recipe tiny \(layers: 3, not 2\)"):
        train_run(recipe_of(model={"layers": 3}), str(toy_data), str(tmp_path / "third"), options)
