"""The page about a token data set that lies beside its shards: `report.html`.

One file that asks nothing of any host and runs no script. What comes from books and their metadata is shown as text,
whatever it holds, and in bounded number.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import quantiles
from typing import Any

from victorian.config import DataConfig, Section
from victorian.corpus.book import SPLITS, Split
from victorian.reports.charts import Chart, Column, draw_columns, draw_log_histogram, draw_rows
from victorian.reports.corpus_groups import Group, LengthGroup, ReasonGroup, by_decade, by_length, by_reason
from victorian.reports.numerals import short, shortened, whole
from victorian.reports.pages import environment
from victorian.tokens.manifest import BookEntry, Manifest, SplitEntry
from victorian.tokens.preparation import PrepareRun

MOST_ROWS = 500
"""Rows of a table that could have one for every book."""
EXTREMES = 10
"""Books that are named as the longest, and as the shortest."""
MOST_REASONS = 12
"""Bars of the chart of reasons; the table has them all."""
LABELS = 6
"""Decades that are named below a chart."""
COMPARED = ("duplicate", "overlaps held-out")
"""Reasons of books that were left out because another holds the same text."""


class Circumstances(Section):
    """What neither the data set nor its preparation knows; what is not given is not shown."""

    recipe: str = ""
    """Name of the recipe that the settings began with."""
    nodes: int | None = None
    cores: int | None = None
    """Of all nodes."""
    version: str = ""
    """Of this code."""
    finished: datetime | None = None


@dataclass(frozen=True)
class Book:
    """A book that was kept, as the page names it."""

    split: Split
    entry: BookEntry


@dataclass(frozen=True)
class Stage:
    name: str
    seconds: float
    rate: str
    """What went through it in a second, where that can be said."""


@dataclass(frozen=True)
class Setting:
    name: str
    about: str
    value: str
    default: str

    @property
    def changed(self) -> bool:
        return self.value != self.default


def render_corpus_report(manifest: Manifest, run: PrepareRun, circumstances: Circumstances | None = None) -> str:
    """The page as one HTML document."""
    kept = [Book(split, book) for split in SPLITS if split in manifest.splits for book in manifest.splits[split].books]
    entries, dropped = [book.entry for book in kept], manifest.dropped
    reasons, lengths = by_reason(dropped), by_length(entries, dropped)
    decades, undated = by_decade(entries, dropped)
    by_tokens = sorted(kept, key=lambda book: (-book.entry.tokens, book.entry.id))
    return (
        environment()
        .get_template("corpus_report.html.jinja")
        .render(
            manifest=manifest,
            run=run,
            about=circumstances or Circumstances(),
            splits={split: manifest.splits[split] for split in SPLITS if split in manifest.splits},
            whole_set=_together(manifest),
            kept=entries,
            words=sum(book.words for book in entries),
            found=len(entries) + len(dropped),
            repaired=sorted({book.read_as for book in entries if book.read_as}),
            repaired_books=sum(book.read_as is not None for book in entries),
            reasons=reasons,
            reason_chart=_reason_chart(reasons),
            decades=decades,
            undated=undated,
            decade_charts=_decade_charts(decades, undated),
            lengths=lengths,
            length_charts=_length_charts(lengths),
            quartiles=_quartiles([book.tokens for book in entries]),
            longest=by_tokens[:EXTREMES],
            shortest=by_tokens[::-1][:EXTREMES],
            compared=[entry for entry in dropped if entry.reason in COMPARED],
            stages=_stages(manifest, run),
            seconds=sum(run.seconds.values()),
            settings=_settings(manifest.data, DataConfig()),
            MOST_ROWS=MOST_ROWS,
        )
    )


def _together(manifest: Manifest) -> SplitEntry:
    """All splits as one, for its sums."""
    splits = [manifest.splits[split] for split in SPLITS if split in manifest.splits]
    return SplitEntry(
        tokens=sum(split.tokens for split in splits),
        shards=tuple(shard for split in splits for shard in split.shards),
        books=tuple(book for split in splits for book in split.books),
    )


def _quartiles(tokens: Sequence[int]) -> list[float]:
    return quantiles(tokens, n=4, method="inclusive") if len(tokens) > 1 else []


def _stages(manifest: Manifest, run: PrepareRun) -> list[Stage]:
    """The stages of a run. Only this run's work counts: parts that were there before took no time."""
    found = sum(len(split.books) for split in manifest.splits.values()) + len(manifest.dropped)
    cut = sum(split.tokens for split in manifest.splits.values())
    passed = {"finding": (found, "books/s"), "tokenizing": (run.tokens_made, "tokens/s"), "cutting": (cut, "tokens/s")}

    def rate(name: str, seconds: float) -> str:
        for word, (count, unit) in passed.items():
            if word in name and count and seconds >= 0.001:
                return f"{short(count / seconds)} {unit}"
        return ""

    return [Stage(name, seconds, rate(name, seconds)) for name, seconds in run.seconds.items()]


def _settings(data: DataConfig, defaults: DataConfig) -> dict[str, list[Setting]]:
    """Every setting, by its section."""
    sections = {}
    for name in DataConfig.model_fields:
        section: Section = getattr(data, name)
        usual: Section = getattr(defaults, name)
        sections[name] = [
            Setting(
                name=field.replace("_", " "),
                about=(info.description or "").replace("\n", " "),
                value=_words(getattr(section, field)),
                default=_words(getattr(usual, field)),
            )
            for field, info in type(section).model_fields.items()
        ]
    return sections


def _words(value: Any) -> str:
    """A setting's value for people."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return whole(value) if isinstance(value, int) and value >= 10_000 else str(value)


def _reason_chart(reasons: Sequence[ReasonGroup]) -> Chart | None:
    if not reasons:
        return None
    rows = [(shortened(group.reason, 24), group.books) for group in reasons[:MOST_REASONS]]
    if others := sum(group.books for group in reasons[MOST_REASONS:]):
        rows.append(("other reasons", others))
    return draw_rows("reasons", rows, f"Books left out by reason: {', '.join(f'{label} {n:,}' for label, n in rows)}.")


def _decade_charts(decades: Sequence[Group], undated: Group) -> dict[str, Chart]:
    """None for a corpus without years. Books without a year stand apart, at the right."""
    if not decades:
        return {}
    places = [(float(at), at + 0.86, group) for at, group in enumerate(decades)]
    every = -(-len(decades) // LABELS)
    ticks = [(left + 0.43, group.label) for left, _, group in places[::every]]
    if undated.books:
        left = len(decades) + 0.8
        places.append((left, left + 0.86, undated))
        ticks = [tick for tick in ticks if left - tick[0] > 0.7 * every] + [(left + 0.43, undated.label)]
    books, tokens = _columns(places)
    return {
        "books": draw_columns("decade-books", books, ticks, _alt("Books by decade", decades)),
        "tokens": draw_columns("decade-tokens", tokens, ticks, _alt_tokens("Tokens by decade", decades)),
    }


def _length_charts(lengths: Sequence[LengthGroup]) -> dict[str, Chart]:
    if not lengths:
        return {}
    books, tokens = _columns([(group.low, group.high, group) for group in lengths])
    return {
        "books": draw_log_histogram("length-books", books, _alt("Books by length", lengths)),
        "tokens": draw_log_histogram("length-tokens", tokens, _alt_tokens("Tokens by length", lengths)),
    }


def _columns(places: Iterable[tuple[float, float, Group]]) -> tuple[list[Column], list[Column]]:
    """Of books, and of tokens."""
    places = list(places)
    books = [Column(left, right, group.kept, group.left_out) for left, right, group in places]
    return books, [Column(left, right, group.tokens) for left, right, group in places]


def _alt(what: str, groups: Sequence[Group]) -> str:
    top = max(groups, key=lambda group: group.books)
    return f"{what}, from {groups[0].label} to {groups[-1].label}: most, {top.books:,}, in {top.label}."


def _alt_tokens(what: str, groups: Sequence[Group]) -> str:
    top = max(groups, key=lambda group: group.tokens)
    return f"{what}, from {groups[0].label} to {groups[-1].label}: most, {short(top.tokens)}, in {top.label}."
