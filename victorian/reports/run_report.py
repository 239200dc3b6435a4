"""The page about training runs, one or several side by side: `victorian report RUN...`.

One file that asks nothing of any host and runs no script; everything in it comes from the runs' own records.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from victorian.artifact import RECIPE
from victorian.config import Recipe, read_recipe
from victorian.errors import TrainingError
from victorian.reports.charts import DASHES, Chart, Line, draw_lines
from victorian.reports.loss_chart import LOSS_CHART, draw_losses
from victorian.reports.pages import environment
from victorian.storage import open_storage
from victorian.training.evaluation import perplexity
from victorian.training.monitors import StepRecord, read_records

MOST_RUNS = 6
"""Curves that can be told apart in one chart."""
SMOOTHING = 20
"""Steps over which what is noisy is averaged."""
POINTS = 400
"""Points of a curve at most."""
REPORT = "report.html"
SAMPLES = 3
"""Samples that are shown of each run: the last ones."""


@dataclass(frozen=True)
class Run:
    """A run as the page shows it."""

    name: str
    uri: str
    recipe: Recipe
    records: Sequence[StepRecord]
    colour: int

    @property
    def last(self) -> StepRecord:
        return self.records[-1]

    @property
    def state(self) -> str:
        return "finished" if self.last.spent >= 1 else f"{self.last.spent:.0%} done"

    @property
    def dashes(self) -> str:
        """The dash of its curves, as SVG has it."""
        return {"-": "", "--": "7 4", "-.": "7 3 2 3", ":": "2 3"}.get(str(DASHES[self.colour]), "9 2")

    @property
    def judged(self) -> list[StepRecord]:
        return [record for record in self.records if record.validation_loss is not None]

    @property
    def validation_loss(self) -> float | None:
        """The lowest."""
        return min((record.validation_loss or math.inf for record in self.judged), default=None)

    @property
    def perplexity(self) -> float | None:
        """None too where it is above the largest float."""
        return None if self.validation_loss is None else perplexity(self.validation_loss)

    @property
    def speed(self) -> float:
        return median(record.tokens_per_second for record in self.records)

    @property
    def mfu(self) -> float | None:
        known = [record.mfu for record in self.records if record.mfu is not None]
        return median(known) if known else None

    @property
    def data_wait(self) -> float:
        return sum(record.data_wait for record in self.records) / (self.last.seconds or 1)

    @property
    def checkpoint_wait(self) -> float:
        return sum(record.checkpoint_wait for record in self.records) / (self.last.seconds or 1)


def render_run_report(uris: Sequence[str]) -> str:
    """The page as one HTML document.

    Args:
        uris: run folders, here or in object stores.

    Raises:
        TrainingError: if there are too many, or one has no record of any step.
    """
    if not 1 <= len(uris) <= MOST_RUNS:
        raise TrainingError(f"expected 1 to {MOST_RUNS} runs, got {len(uris)}: more curves cannot be told apart")
    runs = [_read(uri, uris, number) for number, uri in enumerate(uris)]
    best = min(runs, key=lambda run: run.validation_loss if run.validation_loss is not None else math.inf)
    samples = [(run, record) for run in runs for record in run.records if record.sample]
    shown = [pair for run in runs for pair in [pair for pair in samples if pair[0] is run][-SAMPLES:]]
    page: str = (
        environment()
        .get_template("run_report.html.jinja")
        .render(
            runs=runs,
            best=best,
            charts=list(_charts(runs)),
            differing=list(_differing(runs)) if len(runs) > 1 else [],
            samples=shown,
            smoothing=SMOOTHING,
        )
    )
    return page


def write_charts(run: str, title: str) -> None:
    """Put `loss.png` and `report.html` into a run's folder."""
    storage = open_storage(run)
    storage.write(LOSS_CHART, draw_losses(read_records(storage), title))
    storage.write(REPORT, render_run_report([run]).encode())


def _read(uri: str, uris: Sequence[str], number: int) -> Run:
    storage = open_storage(uri)
    records = read_records(storage)
    if not records or not storage.exists(RECIPE):
        raise TrainingError(f"{uri} is not a run with steps in it: give a folder that `victorian train --run` wrote")
    names = [other.rstrip("/").rpartition("/")[2] for other in uris]
    name = names[number] if names.count(names[number]) == 1 else uri
    return Run(name, storage.uri, read_recipe(storage.read(RECIPE), f"{uri}/{RECIPE}"), records, number)


def _charts(runs: Sequence[Run]) -> Iterator[tuple[Chart, str]]:
    if any(run.judged for run in runs):
        lines = [
            Line([r.tokens for r in run.judged], [r.validation_loss or 0.0 for r in run.judged], marked=True)
            for run in runs
        ]
        yield draw_lines("validation", lines, "tokens", "Validation loss over tokens."), "Validation loss."
    curves = {
        "loss": ("Training loss.", SMOOTHING),
        "gradient_norm": ("Norm of the gradient, before clipping.", SMOOTHING),
        "tokens_per_second": ("Tokens a second, forward, backward and optimizer.", SMOOTHING),
        "learning_rate": ("Learning rate of AdamW.", 1),
        "loss_scale": ("Loss scale of float16.", 1),
    }
    for field, (caption, window) in curves.items():
        lines = [_curve(run, field, window) for run in runs]
        if any(line.y for line in lines):
            yield draw_lines(field, lines, "tokens", caption), caption


def _curve(run: Run, field: str, window: int) -> Line:
    """A field over the tokens seen, each point the mean of so many steps up to it."""
    records = [record for record in run.records if getattr(record, field) is not None]
    values = [float(getattr(record, field)) for record in records]
    every = max(1, len(records) // POINTS)
    places = range(every - 1, len(records), every)
    means = [fmean(values[max(0, place + 1 - window) : place + 1]) for place in places]
    return Line([records[place].tokens for place in places], means)


def _differing(runs: Sequence[Run]) -> Iterator[tuple[str, list[str]]]:
    """Settings that are not the same in all recipes, by their path."""
    flat = [dict(_flat(run.recipe.model_dump(), "")) for run in runs]
    for path in flat[0]:
        values = [json.dumps(settings.get(path)) for settings in flat]
        if len(set(values)) > 1:
            yield path, values


def _flat(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, dict):
        yield path, value
        return
    for name, item in value.items():
        yield from _flat(item, f"{path}.{name}".strip("."))
