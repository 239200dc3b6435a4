"""Drivers, workers and nodes ended at ten random moments while books are prepared, here and into an object store.

Run by `make test-faults`.
"""

import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster.conftest import Head
from tests.cluster.killing import Ended, Kind, contents, prepare, second_node, write_corpus
from tests.object_store import ObjectStore

pytestmark = [pytest.mark.faults, pytest.mark.cluster, pytest.mark.timeout(1800)]

KINDS: tuple[Kind, ...] = ("driver", "worker", "node")
MOMENTS = 10


def never() -> bool:
    return False


def after(seconds: float) -> Callable[[], bool]:
    """Whether so much time has passed since now."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() >= end


def prepare_and_kill(head: Head, corpus: str, output: str, kind: Kind, seconds: float) -> Ended:
    if kind != "node":
        return prepare(head, corpus, output, kind, after(seconds))
    with second_node(head) as node:
        return prepare(head, corpus, output, kind, after(seconds), node)


def kill_at_random(head: Head, corpus: str, whole: str, place: Callable[[int], str], seed: int) -> list[str]:
    """Ten runs, each killed once, each gone on with until it is done; what happened, for the log."""
    began = time.monotonic()
    assert prepare(head, corpus, whole, None, never).code == 0
    length = time.monotonic() - began
    expected = contents(whole)
    dice = random.Random(seed)
    told = []
    for number in range(MOMENTS):
        kind, output, moment = KINDS[number % len(KINDS)], place(number), dice.uniform(0.2, 0.95) * length
        ended = prepare_and_kill(head, corpus, output, kind, moment)
        runs = 1
        while ended.code:
            assert runs < 3, ended.printed
            ended = prepare(head, corpus, output, None, never)
            runs += 1
        assert contents(output) == expected
        told.append(f"{kind} at {moment:.1f} of {length:.1f} s: {'killed' if runs > 1 or ended.killed else 'ended'}")
    return told


def test_ten_random_moments_on_local_folders(head: Head, tmp_path: Path) -> None:
    corpus = str(write_corpus(tmp_path / "corpus"))
    told = kill_at_random(head, corpus, str(tmp_path / "whole"), lambda n: str(tmp_path / f"cut-{n}"), seed=1837)
    print("\n".join(told))
    assert sum("killed" in line for line in told) >= MOMENTS // 2, told


@pytest.mark.s3
def test_ten_random_moments_into_an_object_store(head: Head, object_store: ObjectStore, tmp_path: Path) -> None:
    corpus = str(write_corpus(tmp_path / "corpus"))
    bucket = object_store.bucket("kills")
    told = kill_at_random(head, corpus, f"{bucket}/whole", lambda n: f"{bucket}/cut-{n}", seed=1871)
    print("\n".join(told))
    assert sum("killed" in line for line in told) >= MOMENTS // 2, told
