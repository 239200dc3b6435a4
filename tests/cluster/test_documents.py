"""What README and tutorial say can be typed: every command and every program in them is run here, section by section.

A new one is run as it stands. What would take long gets flags behind it (`SHORTER`), and what cannot be done here at
all is listed with the reason and the test that does it against a stand-in (`NOT_RUN`).
"""

import ast
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx2
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.cluster.conftest import BIN, Head
from tests.cluster.test_jobs import FLAGS
from tests.conftest import ROOT
from tests.corpus.hub import running_hub
from tests.documents import Step, shows, steps
from tests.running_service import soon
from victorian.corpus.sources import SAMPLE, find_books, read_many

DOCUMENTS = ("README.md", "docs/tutorial.md")
STEPS = {name: steps(ROOT / name) for name in DOCUMENTS}

BUDGET = "--training.steps=3 --training.validation-tokens=256 --training.tokens-per-step=1024"
SHORTER = {
    ".venv/bin/victorian demo": f"--once --port={{port}} {BUDGET} --training.sequences-per-microbatch=4",
    "victorian train": f"{BUDGET} --training.sequences-per-microbatch=4",
    "victorian serve": "--port={port}",
    "victorian app": "--port={app_port}",
    "ray job submit": " ".join(FLAGS),
}
"""Flags behind the commands that begin so."""

STAYS = {
    "victorian serve": "Ctrl-C ends it",
    "victorian app": "Ctrl-C ends it",
    "serve run": "/ready",
}
"""Commands that a reader leaves running while he types the next ones, and what they say when he can, or where they
answer."""

ALONE = (".venv/bin/victorian demo", "victorian serve", "victorian prepare hf:")
"""Commands that start a cluster of their own, as every command does on a laptop: the first because Serve has one port
for all of a cluster, the last because its workers need an environment of their own. The others join one that runs."""

CLUSTER = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")
"""Variables by which commands find the one that runs."""

NOT_RUN = {
    "make demo": (
        "installs first",
        "tests/test_demo.py::test_once_streams_a_passage_and_leaves_results_but_no_process",
    ),
    "make test": ("is what runs here", "tests/cluster/test_documents.py::test_make_knows_what_is_asked_of_it"),
    "make docs": ("installs first", "tests/docs/test_files.py::test_make_builds_the_site_that_is_tested"),
    "make install": (
        "gigabytes from a registry",
        "tests/cluster/test_cluster_yaml.py::test_nodes_install_from_the_lock",
    ),
    "victorian prepare gs://deepmind-gutenberg --output s3://my-bucket/pg19 --recipe gpt2-124m": (
        "somebody else's bucket, of ten gigabytes",
        "tests/test_s3.py::test_google_buckets_are_read_without_an_account_and_never_written",
    ),
    "ray up cluster.yaml": ("makes machines on AWS", "tests/cluster/test_cluster_yaml.py::test_ray_accepts_the_file"),
}
"""Commands that are not run here: why, and which test does what they do."""


STORIES = ("docs/tutorial.md",)
"""Documents whose sections go on where the one before has ended; those of others are typed each by itself."""


def typed() -> list[tuple[str, list[Step]]]:
    """What is typed in one go, by the name of the document and of the section."""
    goes: dict[str, list[Step]] = {}
    for document, found in STEPS.items():
        for step in found:
            if step.command not in NOT_RUN:
                goes.setdefault(document if document in STORIES else f"{document}, {step.section}", []).append(step)
    return list(goes.items())


@dataclass
class Reader:
    """Somebody who types what a section says, in a folder that is as the section expects it."""

    folder: Path
    environment: dict[str, str]
    places: dict[str, str]
    """What stands in the documents, and what is there instead."""
    ports: dict[str, int]
    left: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def types(self, step: Step) -> str:
        """Do one step; what it said."""
        if step.language == "python":
            return self._run([sys.executable, "-c", self._placed(step.typed)], self.folder)
        command = step.command
        alone = command.startswith(ALONE)
        for beginning, flags in SHORTER.items():
            if command.startswith(beginning):
                command += " " + flags.format(**self.ports)
        line = self._placed(command)
        if ready := next((said for beginning, said in STAYS.items() if command.startswith(beginning)), None):
            return self._leave(line, ready, alone)
        # A job's code is the repository's, and what it writes stands elsewhere.
        return self._run(["bash", "-c", line], ROOT if command.startswith("ray job") else self.folder, alone)

    def ends(self) -> None:
        """Ctrl-C in every terminal, from the last to the first."""
        while self.left:
            process = self.left.pop()
            os.killpg(process.pid, signal.SIGINT)
            try:
                process.wait(timeout=60)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)

    def _environment(self, alone: bool) -> dict[str, str]:
        return {name: value for name, value in self.environment.items() if not (alone and name in CLUSTER)}

    def _run(self, words: list[str], folder: Path, alone: bool = False) -> str:
        done = subprocess.run(
            words,
            cwd=folder,
            env=self._environment(alone),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, f"{words[-1]}\n{done.stdout[-3000:]}"
        return done.stdout

    def _leave(self, line: str, ready: str, alone: bool) -> str:
        log = self.folder / f"terminal-{len(self.left)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {line}"],
                cwd=self.folder,
                env=self._environment(alone),
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.left.append(process)
        up = partial(self._answers, ready) if ready.startswith("/") else lambda: ready in log.read_text()
        assert soon(lambda: up() or process.poll() is not None, 180), log.read_text()
        assert process.poll() is None, f"{line}\n{log.read_text()[-3000:]}"
        return log.read_text()

    def _answers(self, path: str) -> bool:
        try:
            return httpx2.get(f"{self.environment['VICTORIAN_URL']}{path}", timeout=5).status_code == 200
        except httpx2.HTTPError:
            return False

    def _placed(self, text: str) -> str:
        for written, real in self.places.items():
            text = text.replace(written, real)
        return text


@pytest.fixture(scope="module")
def plain_books(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A writer's own folder of .txt files."""
    folder = tmp_path_factory.mktemp("books")
    for book, text in read_many(find_books(SAMPLE).books[:8]):
        (folder / f"{book.title}.txt").write_bytes(text)
    return folder


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a hub that has a small `emozilla/pg19`."""
    folder = tmp_path_factory.mktemp("hub")
    for split in ("train", "validation", "test"):
        found = [(book, text) for book, text in read_many(find_books(SAMPLE).books) if book.split == split][:2]
        rows = {
            "short_book_title": [book.title for book, _ in found],
            "publication_date": pa.array([book.year for book, _ in found], pa.int32()),
            "url": [f"http://www.gutenberg.org/ebooks/{book.id}" for book, _ in found],
            "text": [text.decode() for _, text in found],
        }
        path = folder / f"emozilla/pg19/data/{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(rows), path)
    with running_hub(folder) as running:
        yield running.address


@pytest.fixture
def reader(
    head: Head, toy_data: Path, plain_books: Path, hub: str, free_port: Callable[[], int], tmp_path: Path
) -> Iterator[Reader]:
    folder = tmp_path / "victorian"
    shared = tmp_path / "shared"
    folder.mkdir()
    shared.mkdir()
    (shared / "data").symlink_to(toy_data)
    (folder / ".venv").symlink_to(BIN.parent)
    ports = {"port": free_port(), "app_port": free_port()}
    config = (ROOT / "serve_config.yaml").read_text()
    (folder / "serve_config.yaml").write_text(config.replace("port: 8000", f"port: {ports['port']}"))
    environment = {
        **head.environment,
        "PYTHONPATH": str(ROOT),
        "VICTORIAN_URL": f"http://127.0.0.1:{ports['port']}",
        "HF_ENDPOINT": hub,
        "HF_HOME": str(tmp_path / "home"),
    }
    places = {
        "/path/to/books": str(plain_books),
        "/shared/": f"{shared}/",
        "localhost:8000": f"127.0.0.1:{ports['port']}",
        "localhost:8501": f"127.0.0.1:{ports['app_port']}",
    }
    made = Reader(folder, environment, places, ports)
    yield made
    made.ends()


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(900)
@pytest.mark.parametrize("in_one_go", [pytest.param(go, id=name) for name, go in typed()])
def test_what_is_written_can_be_typed(reader: Reader, in_one_go: list[Step]) -> None:
    for step in in_one_go:
        said = reader.types(step)
        missing = shows(said, step.seen)
        assert missing is None, f"{step.typed}\nsaid\n{said[-3000:]}\nand not\n{missing}"


@pytest.mark.parametrize("command", NOT_RUN)
def test_what_is_not_run_is_written_somewhere_and_another_test_does_it(command: str) -> None:
    assert command in {step.command for name in DOCUMENTS for step in STEPS[name]}, "no document says this any more"
    reason, test = NOT_RUN[command]
    assert reason
    path, _, name = test.partition("::")
    functions = {
        node.name for node in ast.walk(ast.parse((ROOT / path).read_text())) if isinstance(node, ast.FunctionDef)
    }
    assert name in functions


def test_make_knows_what_is_asked_of_it() -> None:
    written = {step.command for name in DOCUMENTS for step in STEPS[name] if step.command.startswith("make ")}
    for command in written:
        done = subprocess.run([*command.split(), "--dry-run"], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("document", DOCUMENTS)
def test_targets_that_are_named_in_a_sentence_exist(document: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z-]+)", (ROOT / document).read_text())) <= targets


def test_a_document_hides_nothing_that_could_be_typed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# One\n\n    a --flag  # why\n    b \\\n      c\n\n```text\nseen 1,024\n```\n\n```python\nprint(1)\n```\n"
    )
    found = steps(page)
    assert [(step.command, step.seen) for step in found] == [
        ("a --flag", []),
        ("b c", ["seen 1,024"]),
        ("print(1)\n", []),
    ]
    page.write_text("```bash\nrm\n```\n")
    with pytest.raises(ValueError, match="a block of 'bash'"):
        steps(page)


@pytest.mark.parametrize(
    ("output", "seen", "missing"),
    [
        ("train: 12 books, 3,141 tokens\nready", ["train: 1 books, 271 tokens", "ready"], None),
        ("ready\ntrain: 12 books", ["train: 1 books", "ready"], "ready"),
        ("loss 5.25 after 0:07", ["loss 4.1 after 1:12:00"], None),
        ("loss nan", ["loss 4.1"], "loss 4.1"),
        ("a b c d", ["a ... d"], None),
    ],
)
def test_what_is_shown_is_compared_but_for_its_numbers(output: str, seen: list[str], missing: str | None) -> None:
    assert shows(output, seen) == missing
