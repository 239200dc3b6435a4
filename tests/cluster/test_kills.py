"""A driver, a worker, or a node ended by SIGKILL while books are prepared: the same bytes, and nothing done twice."""

import re
from pathlib import Path

import pytest

from tests.cluster.conftest import Head
from tests.cluster.killing import BOOKS, contents, prepare, second_node, undisturbed, write_corpus

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_corpus(tmp_path_factory.mktemp("kills")))


@pytest.fixture(scope="module")
def whole(corpus: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return undisturbed(corpus, str(tmp_path_factory.mktemp("whole")))


def finished(output: Path) -> list[Path]:
    """Records of the units that are done."""
    return list(output.glob("parts/*.json"))


def test_a_killed_driver_is_started_again_and_goes_on(
    head: Head, corpus: str, whole: dict[str, bytes], tmp_path: Path
) -> None:
    cut = prepare(head, corpus, str(tmp_path), "driver", lambda: len(finished(tmp_path)) >= 2)
    assert cut.killed
    done = len(finished(tmp_path))
    assert not (tmp_path / "manifest.json").exists()
    again = prepare(head, corpus, str(tmp_path), None, lambda: False)
    assert again.code == 0, again.printed
    match = re.search(rf"(\d+) of {BOOKS} units of books had been done", again.printed)
    assert match, again.printed
    assert int(match[1]) >= done
    assert contents(str(tmp_path)) == whole


def test_a_killed_worker_is_replaced(head: Head, corpus: str, whole: dict[str, bytes], tmp_path: Path) -> None:
    ended = prepare(head, corpus, str(tmp_path), "worker", lambda: len(finished(tmp_path)) >= 1)
    assert ended.killed
    assert ended.code == 0, ended.printed
    assert contents(str(tmp_path)) == whole


@pytest.mark.slow
def test_a_killed_node_is_done_without(head: Head, corpus: str, whole: dict[str, bytes], tmp_path: Path) -> None:
    with second_node(head) as node:
        ended = prepare(head, corpus, str(tmp_path), "node", lambda: len(finished(tmp_path)) >= 1, node)
    assert ended.killed
    assert ended.code == 0, ended.printed
    assert contents(str(tmp_path)) == whole
