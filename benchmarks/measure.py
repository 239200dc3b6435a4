"""What the scripts beside this one share: fresh processes in turns, medians with their range, Markdown rows.

Knows nothing of what is measured. A figure is a median with the smallest and largest of its runs; sides that are
compared take turns, and their ratio is taken round by round, since a busy machine slows both of them.
"""

import multiprocessing
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import ParamSpec, TypeVar

import psutil

from victorian.cores import cores

T = TypeVar("T")
P = ParamSpec("P")


@dataclass(frozen=True)
class Spread:
    """A median and the range around it. `f"{spread:,.1f}"` gives `12.3 (11.9-14.0)`."""

    median: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        middle, low, high = (format(value, spec) for value in (self.median, self.low, self.high))
        return middle if low == high else f"{middle} ({low}-{high})"


def spread(values: Iterable[float]) -> Spread:
    """The median of some runs, with the smallest and the largest."""
    found = list(values)
    return Spread(statistics.median(found), min(found), max(found))


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """How many times theirs ours is, round by round."""
    return spread(a / b for a, b in zip(ours, theirs, strict=True))


def in_turns(sides: Mapping[str, Callable[[], T]], runs: int) -> dict[str, list[T]]:
    """Measure every side `runs` times, A B A B; progress goes to stderr."""
    if runs < 1:
        raise SystemExit(f"expected at least 1 run, got {runs}")
    results: dict[str, list[T]] = {name: [] for name in sides}
    for number in range(1, runs + 1):
        for name, measure in sides.items():
            note(f"run {number} of {runs}: {name}")
            results[name].append(measure())
    return results


def alone(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What a module's function returns when called in a new process: no imports, threads or caches in common."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args, **kwargs).result()


def command() -> str:
    """The `victorian` command of the environment that runs this script."""
    return str(Path(sys.executable).with_name("victorian"))


def victorian(*arguments: str) -> str:
    """Run a verb and return what it prints, passed on to stderr while it comes; a verb that fails ends the script."""
    note(f"victorian {' '.join(arguments)}")
    printed = ""
    with subprocess.Popen([command(), *arguments], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            sys.stderr.write(line)
            printed += line
    if process.returncode:
        raise SystemExit(f"`victorian {arguments[0]}` ended with code {process.returncode}")
    return printed


def note(words: str) -> None:
    """Tell whoever waits; tables alone go to stdout."""
    print(words, file=sys.stderr, flush=True)


def print_row(*cells: object) -> None:
    """One row of a Markdown table."""
    print("| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |", flush=True)


def print_header(*titles: str) -> None:
    """What a Markdown table begins with: a blank line, the titles, the rule; columns after the first are numbers."""
    print()
    print_row(*titles)
    print("|" + "|".join(["---", *["---:"] * (len(titles) - 1)]) + "|", flush=True)


def print_machine() -> None:
    """One line that says what the figures below it were measured on."""
    memory = psutil.virtual_memory().total / 2**30
    versions = f"torch {version('torch')}, Ray {version('ray')}, Python {platform.python_version()}"
    print(f"\nMachine: {cores()} CPU cores ({_cpu_name()}), {memory:.0f} GiB, {versions}.", flush=True)


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
