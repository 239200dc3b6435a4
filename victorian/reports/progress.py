"""One live line for a long job. Where nobody watches a terminal it becomes a plain line now and then."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column

from victorian.reports.numerals import short
from victorian.tokens.progress import PrepareProgress
from victorian.training.monitors import StepRecord

PLAIN_LINE_SECONDS = 15.0
WIDE = 130
"""Columns of a terminal that has room for a long bar."""

Show = Callable[[float, str], None]
"""Share that is done, 0 to 1, and what to say about it."""


@contextmanager
def live_line(console: Console, title: str, plain_seconds: float | None = PLAIN_LINE_SECONDS) -> Iterator[Show]:
    """A progress bar while the context lasts; call what it gives with the share done and a few words.

    Args:
        plain_seconds: seconds between two lines where there is no terminal; None for no lines there.
    """
    if not console.is_terminal:
        last = monotonic()

        def say(share: float, words: str) -> None:
            nonlocal last
            if plain_seconds is not None and monotonic() - last >= plain_seconds:
                last = monotonic()
                console.print(f"{title} {share:4.0%}  {words}", highlight=False, soft_wrap=True)

        yield say
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24 if console.width >= WIDE else 8),
        # On a narrow terminal the end of the line goes, so what matters most comes first.
        TextColumn("{task.percentage:>3.0f}%  {task.fields[words]}", table_column=Column(no_wrap=True)),
    )
    with Progress(*columns, console=console, transient=True, refresh_per_second=4) as progress:
        task: TaskID = progress.add_task(title, total=1.0, words="starting")
        yield lambda share, words: progress.update(task, completed=share, words=words)


def watch_preparing(show: Show) -> Callable[[PrepareProgress], None]:
    """Shows books, tokens, speed and time left of a corpus that is being prepared."""

    def watch(progress: PrepareProgress) -> None:
        left = f"  {clock(progress.seconds_left)} left" if progress.seconds_left is not None else ""
        show(
            progress.done,
            f"{progress.books:,} of {progress.books_total:,} books  {progress.tokens:,} tokens  "
            f"{progress.tokens_per_second:,.0f} tokens/s{left}",
        )

    return watch


def watch_training(show: Show, price_per_hour: float | None = None) -> Callable[[StepRecord], None]:
    """Shows step, tokens, losses, speed, and time and money left of a run.

    Args:
        price_per_hour: of all its machines.
    """
    validation: float | None = None

    def watch(record: StepRecord) -> None:
        nonlocal validation
        validation = record.validation_loss or validation
        left = record.seconds * (1 - record.spent) / record.spent if record.spent else 0.0
        words = [
            f"{clock(left)} left" + (f", {left / 3600 * price_per_hour:,.2f} to pay" if price_per_hour else ""),
            f"step {record.step}",
            f"loss {record.loss:.3f}",
            f"validation {validation:.3f}" if validation else "validation -",
            f"{record.tokens_per_second:,.0f} tokens/s",
            f"MFU {record.mfu:.0%}" if record.mfu is not None else "",
            f"{short(record.tokens)} tokens",
            f"{record.overflows} overflows" if record.overflows else "",
        ]
        show(record.spent, "  ".join(word for word in words if word))

    return watch


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
