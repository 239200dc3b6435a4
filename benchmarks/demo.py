"""Claim: `make demo` goes from books to prose in at most 5 minutes on 2 CPU cores. Peer: none, the goal is absolute.

Starts `victorian demo --once` with a fresh output folder and a port of its own. The clock starts before the process
is started. It stops at the first byte that arrives on the command's stdout after the prompt that the command prints
before the passage: that byte is the first that the service streamed. The stage times are taken where their lines
arrive, so that they include the start of Python; the command's own clock, which begins later, stands beside them.

    .venv/bin/python benchmarks/demo.py [--corpus DIR] [--runs N]
"""

import os
import re
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from time import perf_counter

import tyro
from measure import command, in_turns, note, print_header, print_machine, print_row, spread

from victorian.corpus.sources import SAMPLE
from victorian.demo import HOST, PROMPT

GOAL_SECONDS = 300
STAGE = re.compile(rb"^\[(?P<clock>\d+(?::\d\d)+)\] (?P<name>[^:\n]+): .*\n", re.MULTILINE)
BEFORE_PASSAGE = f"\n{PROMPT}".encode()
COLOURS = ("FORCE_COLOR", "TTY_COMPATIBLE")
"""Would put escape codes between the prompt and the passage."""


@dataclass(frozen=True)
class DemoRun:
    """Moments of one run, in seconds from its start."""

    first_byte: float
    end: float
    stages: dict[str, tuple[float, str]]
    """When a stage's line came, and what the command's own clock said in it."""


def run_demo(corpus: str, training_seconds: float | None) -> DemoRun:
    """One run from nothing; what the command prints is passed on to stderr."""
    with tempfile.TemporaryDirectory(prefix="victorian-demo-") as folder:
        flags = ["--once", "--corpus", corpus, "--output", folder, "--port", str(_free_port())]
        if training_seconds is not None:
            flags += ["--training.seconds", str(training_seconds)]
        environment = {name: value for name, value in os.environ.items() if name not in COLOURS}
        began = perf_counter()
        with subprocess.Popen(
            [command(), "demo", *flags], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, bufsize=0, env=environment
        ) as process:
            assert process.stdout is not None
            try:
                first_byte, stages = _read(process.stdout.fileno(), began)
            except BaseException:
                process.terminate()  # ends what the command started as well
                raise
        end = perf_counter() - began
        if process.returncode or first_byte is None:
            raise SystemExit(f"`victorian demo --once` ended with code {process.returncode} and no whole passage")
        return DemoRun(first_byte, end, stages)


def _read(pipe: int, began: float) -> tuple[float | None, dict[str, tuple[float, str]]]:
    """Read until the command closes its stdout, noting when things came."""
    seen = b""
    first_byte: float | None = None
    stages: dict[str, tuple[float, str]] = {}
    while chunk := os.read(pipe, 65_536):
        now = perf_counter() - began
        sys.stderr.buffer.write(chunk)
        sys.stderr.flush()
        seen += chunk
        for line in STAGE.finditer(seen):
            stages.setdefault(line["name"].decode(), (now, line["clock"].decode()))
        prompt = seen.find(BEFORE_PASSAGE)
        if first_byte is None and 0 <= prompt < len(seen) - len(BEFORE_PASSAGE):
            first_byte = now
    return first_byte, stages


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def main(corpus: str = SAMPLE, runs: int = 1, training_seconds: float | None = None) -> None:
    """Measure `victorian demo --once`.

    Args:
        corpus: A folder in PG19's layout or of .txt files, or `sample` for the books in the package.
        runs: Times to run it; each takes minutes.
        training_seconds: Seconds of training instead of the recipe's, to try this script.
    """
    found = in_turns({"demo": lambda: run_demo(corpus, training_seconds)}, runs)["demo"]
    print_machine()
    print_header(f"moment (median of {runs})", "seconds from the start", "the command's clock")
    rows = [(name, [run.stages[name][0] for run in found], found[0].stages[name][1]) for name in found[0].stages]
    rows.append(("**first byte of the passage**", [run.first_byte for run in found], ""))
    for name, seconds, clock in sorted(rows, key=lambda row: spread(row[1]).median):
        print_row(name, f"{spread(seconds):.1f}", clock)
    print_row("end of the command", f"{spread(run.end for run in found):.1f}", "")
    print_row("goal for the first byte", f"at most {GOAL_SECONDS}", "")
    if spread(run.first_byte for run in found).median > GOAL_SECONDS:
        note("the goal was missed")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
