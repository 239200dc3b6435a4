"""Books of a hub, which must be those of the same files in a folder."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.corpus.hub import running_hub
from tests.corpus.parquet_books import table_of, write, write_corpus
from victorian.corpus.sources import find_books, read_many
from victorian.errors import CorpusError

pytestmark = pytest.mark.usefixtures("cache")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("hf:deepmind/pg19", "is a script, which .* refuses since version 4: take a copy .* hf:emozilla/pg19"),
        ("hf:pg19", "expected hf:OWNER/NAME or hf:OWNER/NAME:SPLIT"),
        ("hf:", "expected hf:OWNER/NAME"),
        ("hf:o/n:dev", "with a split of train, validation, test; got 'hf:o/n:dev'"),
        ("hf:o/n:train[:10%]", "with a split of train, validation, test"),
        ("hf:../n", "cannot find the files|expected"),
    ],
)
def test_sources_on_the_hub_that_cannot_be_are_refused(source: str, reason: str) -> None:
    with pytest.raises(CorpusError, match=reason):
        find_books(source)


READ = """
import json, os, sys, threading, time
import numpy, pyarrow
from victorian.corpus.sources import find_books, fingerprint, read_many
from victorian.errors import CorpusError
def foreign():
    names = [open(f"/proc/self/task/{task}/comm").read() for task in os.listdir("/proc/self/task")]
    return sum("jemalloc" not in name for name in names) - threading.active_count()
before = foreign()
for source in sys.argv[1:]:
    try:
        found = find_books(source)
        texts = [text.decode() for _, text in read_many(found.books)]
        books = [json.loads(b.model_dump_json()) for b in found.books]
        end = time.monotonic() + 5  # a thread that has ended is still listed for a moment
        while (left := foreign() - before) and time.monotonic() < end:
            time.sleep(0.01)
        print(json.dumps({"books": books, "texts": texts, "foreign_threads": left}))
    except CorpusError as error:
        print(json.dumps({"error": str(error)}))
"""


def from_hub(address: str, home: Path, *sources: str) -> list[Any]:
    """What another process finds and reads: the hub's address is read once, when its client is imported."""
    environment = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(home)}
    done = subprocess.run([sys.executable, "-c", READ, *sources], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_hub_gives_the_books_of_the_same_files_in_a_folder(tmp_path: Path) -> None:
    root = write_corpus(tmp_path / "hub/owner/pg19")
    here = find_books(str(root)).books
    with running_hub(tmp_path / "hub") as hub:
        sources = ("hf:owner/pg19", "hf:owner/pg19:train", "hf:owner/pg19:test")
        there, train, test = from_hub(hub.address, tmp_path / "home", *sources)
    assert [{**book, "root": ""} for book in there["books"]] == [
        {**json.loads(book.model_dump_json()), "root": ""} for book in here
    ]
    assert there["books"][0]["root"].startswith("hf://datasets/owner/pg19@0123")
    assert there["texts"] == [text.decode() for _, text in read_many(here)]
    assert there["foreign_threads"] == 0, "a thread of Arrow that holds a Python file at the end aborts the process"
    assert [book["id"] for book in train["books"]] == [book.id for book in here if book.split == "train"]
    assert "holds no training book" in test["error"]


def test_a_hub_that_has_not_what_is_asked_for_is_quoted(tmp_path: Path) -> None:
    write(tmp_path / "hub/o/columns/train.parquet", table_of([1], url=None))
    (tmp_path / "hub/o/script").mkdir()
    (tmp_path / "hub/o/script/script.py").write_text("print()")
    (tmp_path / "hub/o/texts").mkdir()
    (tmp_path / "hub/o/texts/train.txt").write_text("text")
    with running_hub(tmp_path / "hub") as hub:
        names = ("columns", "script", "texts", "nothing")
        said = from_hub(hub.address, tmp_path / "home", *(f"hf:o/{name}" for name in names))
        answers = {name: one["error"] for name, one in zip(names, said, strict=True)}
    assert "lacks the column url: expected" in answers["columns"]
    assert "hf:o/script is a script" in answers["script"]
    assert "holds no parquet files" in answers["texts"]
    assert "cannot find the files of 'hf:o/nothing': 404" in answers["nothing"]
    assert not any("\n" in answer for answer in answers.values())


def test_a_hub_that_cannot_be_reached_is_told_at_once(tmp_path: Path, free_port: Callable[[], int]) -> None:
    began = time.monotonic()
    (answer,) = from_hub(f"http://127.0.0.1:{free_port()}", tmp_path, "hf:owner/pg19")
    assert "cannot find the files of 'hf:owner/pg19'" in answer["error"]
    assert "the way to the Hugging Face hub" in answer["error"]
    assert time.monotonic() - began < 30  # its client alone would try again for 23 s, after a start of some
