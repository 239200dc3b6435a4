"""Training that is interrupted ends with the bits of training that was not: drivers, nodes, half checkpoints."""

import json
import signal
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

from tests.cluster.conftest import Head
from tests.cluster.killing import kill_node, run, second_node, send
from tests.conftest import TOY, train_plainly
from tests.object_store import ObjectStore
from victorian.artifact import read_artifact
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


@pytest.mark.slow
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
