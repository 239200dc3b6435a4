"""Training interrupted five times at random steps, in each of four ways, here and in an object store.

Run by `make test-faults`.
"""

import functools
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from tests.cluster.conftest import Head
from tests.cluster.killing import called, kill_node, run, second_node, send, workers
from tests.cluster.test_train_kills import assert_the_same, flags, reached, recipe_of
from tests.conftest import train_plainly
from tests.object_store import ObjectStore
from victorian.config import Recipe
from victorian.storage import open_storage
from victorian.training.checkpoint import STATE

pytestmark = [pytest.mark.faults, pytest.mark.cluster, pytest.mark.timeout(1200)]

KILLS = 5
RECIPE = recipe_of(training={"steps": 600, "checkpoint_every_steps": 20})
HEAVY = recipe_of(model={"vocabulary": 60_000, "channels": 64}, training={"steps": 40, "checkpoint_every_steps": 2})
"""A checkpoint of it takes a moment to write."""


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.s3)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path / "cut")
    store: ObjectStore = request.getfixturevalue("object_store")
    return f"{store.bucket(f'train-kills-{time.time_ns()}')}/cut"


@pytest.fixture(scope="module")
def whole(toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_plainly(RECIPE, toy_data, tmp_path_factory.mktemp("whole")).parent


def random_steps(recipe: Recipe, seed: int) -> Iterator[int]:
    """Five steps in order, spread over a run."""
    last = recipe.training.steps or 0
    yield from sorted(random.Random(seed).sample(range(last // 20, last * 9 // 10), KILLS))


def command(recipe: Recipe, data: Path, place: str, *more: str) -> list[str]:
    return ["train", "--data", str(data), "--run", place, f"--max-failures={KILLS + 1}", *more, *flags(recipe)]


def training_worker(head: Head) -> psutil.Process | None:
    return next((process for process in workers(head) if called(process).startswith("ray::RayTrainWork")), None)


def again_and_again(strikes: list[Callable[[], bool]]) -> Callable[[object], bool]:
    """A strike that is done when all of these have struck, one after the other."""

    def strike(driver: object) -> bool:
        if strikes and strikes[0]():
            strikes.pop(0)
        return not strikes

    return strike


def test_drivers(head: Head, toy_data: Path, whole: Path, place: str) -> None:
    storage = open_storage(place)
    for attempt, step in enumerate(random_steps(RECIPE, 1)):
        strike = send((signal.SIGKILL, signal.SIGTERM)[attempt % 2])
        ended = run(head, command(RECIPE, toy_data, place), strike, functools.partial(reached, storage, step - 20))
        # Where the one before came further than this step, SIGTERM finds a driver that has not begun.
        assert ended.code in (-signal.SIGKILL, 143, -signal.SIGTERM), ended.printed
    ended = run(head, command(RECIPE, toy_data, place))
    assert ended.code == 0, ended.printed
    assert_the_same(place, whole)


def test_workers(head: Head, toy_data: Path, whole: Path, place: str) -> None:
    storage = open_storage(place)

    def kill_at(step: int) -> bool:
        process = training_worker(head)
        if not process or not reached(storage, step - 20):
            return False
        process.kill()
        return True

    strikes = [lambda step=step: kill_at(step) for step in random_steps(RECIPE, 2)]  # type: ignore[misc]
    ended = run(head, command(RECIPE, toy_data, place), again_and_again(strikes))
    assert not strikes
    assert ended.code == 0, ended.printed
    assert_the_same(place, whole)


def test_nodes(head: Head, toy_data: Path, whole: Path, place: str) -> None:
    storage = open_storage(place)
    with ExitStack() as nodes:
        current = [nodes.enter_context(second_node(head, cpus=5))]

        def kill_at(step: int) -> bool:
            if not reached(storage, step - 20):
                return False
            kill_node(current.pop())
            current.append(nodes.enter_context(second_node(head, cpus=5)))
            return True

        strikes = [lambda step=step: kill_at(step) for step in random_steps(RECIPE, 3)]  # type: ignore[misc]
        # Only the second node has so many CPUs.
        ended = run(head, command(RECIPE, toy_data, place, "--cpus-per-worker=5"), again_and_again(strikes))
    assert not strikes
    assert ended.code == 0, ended.printed
    assert_the_same(place, whole)


def test_checkpoints_half_written(head: Head, toy_data: Path, place: str, tmp_path: Path) -> None:
    whole = train_plainly(HEAVY, toy_data, tmp_path / "whole").parent
    storage = open_storage(place)

    def kill_within(step: int) -> bool:
        """Once a checkpoint after this step has its weights and not yet its state."""
        begun = [n for n in storage.folders("ray") if n.startswith("step-") and int(n.partition("-")[2]) >= step]
        half = [n for n in begun if storage.names(f"ray/{n}/") and not storage.exists(f"ray/{n}/{STATE}")]
        process = training_worker(head) if half else None
        if not process:
            return False
        process.kill()
        return True

    strikes = [lambda step=step: kill_within(step) for step in random_steps(HEAVY, 4)]  # type: ignore[misc]
    ended = run(head, command(HEAVY, toy_data, place), again_and_again(strikes))
    assert not strikes
    assert ended.code == 0, ended.printed
    assert_the_same(place, whole)
