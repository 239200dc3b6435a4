"""One live line for a long job. Where nobody watches a terminal it becomes a plain line now and then."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from victorian.training.monitors import StepRecord

PLAIN_LINE_SECONDS = 15.0

Show = Callable[[float, str], None]
"""Share that is done, 0 to 1, and what to say about it."""


@contextmanager
def live_line(console: Console, title: str) -> Iterator[Show]:
    """A progress bar while the context lasts; call what it gives with the share done and a few words."""
    if not console.is_terminal:
        last = monotonic()

        def say(share: float, words: str) -> None:
            nonlocal last
            if monotonic() - last >= PLAIN_LINE_SECONDS:
                last = monotonic()
                console.print(f"{title} {share:4.0%}  {words}", highlight=False)

        yield say
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f}%  {task.fields[words]}"),
    )
    with Progress(*columns, console=console, transient=True, refresh_per_second=4) as progress:
        task: TaskID = progress.add_task(title, total=1.0, words="starting")
        yield lambda share, words: progress.update(task, completed=share, words=words)


def watch_training(show: Show) -> Callable[[StepRecord], None]:
    """Shows step, losses, speed and time left of a run."""
    validation: float | None = None

    def watch(record: StepRecord) -> None:
        nonlocal validation
        validation = record.validation_loss or validation
        left = record.seconds * (1 - record.spent) / record.spent if record.spent else 0.0
        judged = f"validation {validation:.3f}" if validation else "validation -"
        show(
            record.spent,
            f"step {record.step}  loss {record.loss:.3f}  {judged}  "
            f"{record.tokens_per_second:,.0f} tokens/s  {clock(left)} left",
        )

    return watch


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
