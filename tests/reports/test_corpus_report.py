"""The page about a corpus: everything it should tell, nothing that runs, and readable at any width."""

import re
import time
from pathlib import Path

import pytest

from victorian.config import DataConfig, SelectionConfig
from victorian.reports.corpus_report import render_corpus_report
from victorian.storage import open_storage
from victorian.tokens.manifest import (
    BookEntry,
    DroppedEntry,
    EncodingEntry,
    Manifest,
    ShardEntry,
    SplitEntry,
    read_manifest,
)
from victorian.tokens.preparation import PrepareRun

CHROMIUM = "/usr/bin/chromium"
RUN = PrepareRun(
    source="/books/pg19",
    output="/shards",
    seconds={
        "finding books": 1.0,
        "reading, cleaning and tokenizing": 60.0,
        "comparing books": 0.5,
        "cutting shards": 3.5,
    },
    units=30,
    units_reused=4,
    tokens_made=26_000_000,
)


def manifest(
    books: int,
    dropped: tuple[DroppedEntry, ...] = (),
    title: str = "A Tale",
    year: int | None = 1860,
    data: DataConfig | None = None,
) -> Manifest:
    """A data set that only its manifest exists of; every book has 1,000 tokens times its number."""
    entries, offset = [], 0
    for number in range(1, books + 1):
        tokens = 1_000 * number
        entries.append(
            BookEntry(
                id=str(number),
                title=f"{title} {number}",
                author="Nobody",
                year=None if year is None else year + number % 40,
                offset=offset,
                tokens=tokens,
                bytes=4 * tokens,
                words=tokens * 3 // 4,
                original_bytes=4 * tokens + 9,
                original_words=tokens * 3 // 4 + 2,
            )
        )
        offset += tokens
    shard = ShardEntry(name="train-00000.npy", tokens=offset, sha256="ab" * 32)
    return Manifest(
        encoding=EncodingEntry(ranks=50_256, sha256="cd" * 32),
        data=data or DataConfig(),
        cleaning_version=2,
        corpus_sha256="ef" * 32,
        splits={"train": SplitEntry(tokens=offset, shards=(shard,), books=tuple(entries))},
        dropped=dropped,
    )


def left_out(number: int, reason: str, detail: str = "", title: str = "Gone") -> DroppedEntry:
    return DroppedEntry(
        id=f"x{number}", split="train", title=title, year=1870, reason=reason, detail=detail, bytes=1_000, tokens=250
    )


def words(page: str) -> str:
    """What a page says, on one line."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page))


def test_the_page_tells_what_was_kept_and_what_was_not() -> None:
    dropped = (
        left_out(1, "too short", "38 words, at least 100"),
        left_out(2, "duplicate", "91% like 7 (A Tale 7)"),
        left_out(3, "overlaps held-out", "holds 100% of 9 (A Tale 9), which is 50% of it"),
        left_out(4, "no text").model_copy(update={"split": None}),
    )
    said = words(render_corpus_report(manifest(20, dropped), RUN))
    for expected in (
        "/books/pg19", "20 of 24 books kept", "too short", "38 words, at least 100", "91% like 7 (A Tale 7)",
        "holds 100% of 9", "unknown no text", "A Tale 20", "1860s", "train-00000.npy", "cutting shards", "abababab",
    ):  # fmt: skip
        assert expected in said


def test_settings_that_differ_from_the_defaults_are_marked() -> None:
    plain, changed = (
        render_corpus_report(manifest(3, data=DataConfig(selection=SelectionConfig(least_words=least))), RUN)
        for least in (100, 777)
    )
    assert "777" in words(changed)
    assert changed.count("<mark") + changed.count("changed") > plain.count("<mark") + plain.count("changed")


def test_titles_are_text_and_never_markup() -> None:
    hostile = left_out(1, "duplicate", "<img src=x onerror=alert(2)>", title="<b>Bold</b>")
    page = render_corpus_report(
        manifest(3, (hostile,), title="<script>alert(1)</script>"),
        RUN.model_copy(update={"source": "<script>alert(3)</script>"}),
    )
    assert "<script" not in page
    assert "<img" not in page
    assert "<b>Bold" not in page
    assert "&lt;script&gt;alert(1)" in page


@pytest.mark.parametrize(("books", "year"), [(1, 1860), (1, None), (40, None)])
def test_small_corpora_and_books_without_years_have_a_page_too(books: int, year: int | None) -> None:
    said = words(render_corpus_report(manifest(books, year=year), RUN))
    assert re.search(rf"\b{books} of {books} books? kept", said)


def test_all_of_pg19_fits_on_a_page_that_is_soon_made() -> None:
    dropped = tuple(left_out(number, "language", "fr, not en") for number in range(2_000))
    large = manifest(28_602, dropped)
    began = time.monotonic()
    page = render_corpus_report(large, RUN)
    assert time.monotonic() - began < 30
    assert len(page) < 2_000_000
    assert page.count("fr, not en") < 1_000
    assert "1,500 more" in words(page)


@pytest.mark.browser
@pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="needs Debian's chromium: apt-get install chromium")
def test_a_browser_shows_it_without_asking_anybody_for_anything(toy_data: Path, tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    made = read_manifest(open_storage(toy_data))
    dropped = (left_out(1, "duplicate", "91% like 900901 (The Sluice and the Seal)"),)
    page_file = tmp_path / "report.html"
    page_file.write_text(render_corpus_report(made.model_copy(update={"dropped": dropped}), RUN))
    requests: list[str] = []
    problems: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(page_file.as_uri())
        assert page.get_by_role("heading", level=1).is_visible()
        assert page.get_by_text("The Sluice and the Seal").first.is_visible()
        assert page.locator("svg").count() >= 3
        page.set_viewport_size({"width": 400, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
        browser.close()
    assert requests == [page_file.as_uri()]
    assert problems == []
