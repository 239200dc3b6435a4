"""Training that is interrupted ends with the bits of training that was not: drivers, nodes, half checkpoints."""

import json
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
import safetensors.torch
import torch

from tests.cluster.conftest import Head
from tests.cluster.killing import kill_node, run, second_node, send
from tests.conftest import TOY, train_plainly
from tests.object_store import ObjectStore
from tests.running_service import soon
from victorian.artifact import read_artifact
from victorian.cluster.train import Options, train_run
from victorian.config import Recipe, differences
from victorian.recipes import TINY
from victorian.storage import Storage, open_storage
from victorian.training.checkpoint import STATE
from victorian.training.monitors import read_records

pytestmark = pytest.mark.cluster

STEPS, EVERY = 240, 20


def recipe_of(**sections: dict[str, object]) -> Recipe:
    """The toy's shape under the name of a recipe that the command line knows."""
    value = TOY.model_dump() | {"name": TINY.name}
    value["training"] |= {"steps": STEPS, "checkpoint_every_steps": EVERY, "validation_every_steps": 10_000}
    for section, changes in sections.items():
        value[section].update(changes)
    return Recipe.model_validate(value)


def flags(recipe: Recipe) -> list[str]:
    """What turns `tiny` into this recipe on a command line."""
    changes = [change.partition(", not ")[0].split(": ", 1) for change in differences(recipe, TINY)]
    return [f"--{path.replace('_', '-')}={json.loads(value)}" for path, value in changes]


@pytest.fixture(scope="module")
def whole(toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nobody disturbed, without Ray."""
    return train_plainly(recipe_of(), toy_data, tmp_path_factory.mktemp("whole")).parent


def reached(run: Storage, step: int) -> bool:
    """Whether a checkpoint of this step or a later one is whole."""
    return any(
        int(name.partition("-")[2]) >= step and run.exists(f"ray/{name}/{STATE}")
        for name in run.folders("ray")
        if name.startswith("step-")
    )


def assert_the_same(place: str, whole: Path) -> None:
    """Bit for bit the run that was not interrupted."""
    ours, theirs = (
        [(r.step, r.loss, r.gradient_norm) for r in read_records(s)] for s in (open_storage(place), open_storage(whole))
    )
    assert ours == theirs
    first, second = (read_artifact(f"{run}/artifact").model.state_dict() for run in (place, whole))
    assert all(torch.equal(first[name], second[name]) for name in second)


@pytest.mark.s3
def test_a_run_in_an_object_store_survives_sigterm_and_sigkill_of_its_driver(
    head: Head, object_store: ObjectStore, toy_data: Path, whole: Path
) -> None:
    place = f"{object_store.bucket('driver-kills')}/runs/cut"
    storage = open_storage(place)
    command = ["train", "--data", str(toy_data), "--run", place, *flags(recipe_of())]
    stopped = run(head, command, send(signal.SIGTERM), lambda: reached(storage, EVERY))
    assert stopped.code == 143, stopped.printed
    assert "the same command goes on" in stopped.printed
    step = max(int(name.partition("-")[2]) for name in storage.folders("ray") if name.startswith("step-"))
    assert f"stopped after step {step} " in stopped.printed
    assert EVERY < step < STEPS
    killed = run(head, command, send(signal.SIGKILL), lambda: reached(storage, step // EVERY * EVERY + EVERY))
    assert killed.code == -signal.SIGKILL
    ended = run(head, command)
    assert ended.code == 0, ended.printed
    assert_the_same(place, whole)
    assert storage.names("tensorboard/")
    assert storage.exists("loss.png")
    assert storage.exists("report.html")
    assert not [name for name in storage.names() if name.endswith((".pkl", ".pt", ".bin"))]


def test_a_run_goes_on_when_another_machine_replaces_the_one_that_was_lost(
    head: Head, toy_data: Path, whole: Path, tmp_path: Path
) -> None:
    place = tmp_path / "cut"
    storage = open_storage(place)
    # Only a second node has so many CPUs: the worker is there.
    command = ["train", "--data", str(toy_data), "--run", str(place), "--cpus-per-worker=5", *flags(recipe_of())]
    with ExitStack() as nodes:
        node = nodes.enter_context(second_node(head, cpus=5))

        def strike(driver: object) -> bool:
            kill_node(node)
            nodes.enter_context(second_node(head, cpus=5))
            return True

        ended = run(head, command, strike, lambda: reached(storage, EVERY))
    assert ended.killed
    assert ended.code == 0, ended.printed
    assert_the_same(str(place), whole)


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
                for process in psutil.process_iter(["name"]):
                    if process.info["name"].startswith("ray::RayTrainWork"):
                        process.send_signal(signal.SIGKILL)
                        killed.append(process.pid)
            time.sleep(0.001)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    yield killed
    done.set()
    thread.join()


@pytest.mark.usefixtures("ray_session")
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


@pytest.mark.usefixtures("ray_session")
def test_the_best_model_is_kept_and_another_run_can_begin_with_it(toy_data: Path, tmp_path: Path) -> None:
    watching = {"validation_every_steps": 4, "checkpoint_every_steps": 4, "steps": 12, "divergence": 1000.0}
    # A rate that rises until it harms: the last model is not the best.
    rising = {"warmup_steps": 12, "hold": 0.9}
    recipe = recipe_of(training=watching, schedule=rising, optimizer={"name": "adamw", "learning_rate": 3.0})
    run_folder = tmp_path / "first"
    result = train_run(recipe, str(toy_data), str(run_folder))
    judged = {r.step: r.validation_loss for r in result.metrics if r.validation_loss is not None}
    best = min(judged, key=lambda step: judged[step] or 0.0)
    assert best < 12
    assert [path.name for path in run_folder.glob("best/*/training.json")] == ["training.json"]
    kept = read_artifact(str(run_folder / "best" / f"step-{best:08d}"))
    assert kept.record.validation_loss == judged[best]
    still = recipe_of(training={"steps": 1}, optimizer={"name": "adamw", "learning_rate": 1e-30})
    again = train_run(still, str(toy_data), str(tmp_path / "second"), Options(init_from=kept.uri))
    begun = safetensors.torch.load_file(Path(again.artifact) / "model.safetensors")
    origin = safetensors.torch.load_file(Path(kept.uri) / "model.safetensors")
    for name in origin:
        torch.testing.assert_close(begun[name], origin[name], rtol=0, atol=1e-20)
    with pytest.raises(Exception, match="holds a run that began with other weights"):
        train_run(still, str(toy_data), str(tmp_path / "second"))
    with pytest.raises(Exception, match=r"another shape than the recipe \(layers: 3, not 2\)"):
        train_run(recipe_of(model={"layers": 3}), str(toy_data), str(tmp_path / "third"), Options(init_from=kept.uri))
    shutil.rmtree(run_folder)
