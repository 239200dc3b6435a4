"""Claim: `make test` takes at most 10 minutes on 2 CPU cores. Peer: none, the goal is absolute.

Runs `make install` first, so that its time does not count, then `make test` as anybody would, and prints its wall
time and the slowest tests, which pytest lists because PYTEST_ADDOPTS asks for them.

    .venv/bin/python benchmarks/suite.py [--slowest N]
"""

import os
import re
import subprocess
import sys
from pathlib import Path
from time import perf_counter

import tyro
from measure import note, print_header, print_machine, print_row

ROOT = Path(__file__).resolve().parent.parent
GOAL_SECONDS = 600
DURATION = re.compile(r"^(?P<seconds>\d+\.\d+)s (?P<phase>call|setup|teardown)\s+(?P<test>\S.*)$")
SUMMARY = re.compile(r"^=+ (?P<counts>.*\d+ (?:passed|failed|error).*) in [\d.]+s.*=+$")


def run_suite(slowest: int) -> tuple[int, float, list[str]]:
    """Exit code, seconds and output of `make test`; the output is passed on to stderr while it comes."""
    options = f"{os.environ.get('PYTEST_ADDOPTS', '')} --durations={slowest} --durations-min=0 --color=no"
    environment = {**os.environ, "PYTEST_ADDOPTS": options.strip()}
    lines: list[str] = []
    began = perf_counter()
    with subprocess.Popen(
        ["make", "test"], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            sys.stderr.write(line)
            lines.append(line.rstrip("\n"))
    return process.returncode, perf_counter() - began, lines


def report(code: int, seconds: float, lines: list[str]) -> None:
    """Print the tables for one run of the suite."""
    counts = next((found["counts"] for line in reversed(lines) if (found := SUMMARY.match(line))), "no summary")
    print_machine()
    print_header("`make test`", "seconds", "goal", "tests")
    print_row("passed" if code == 0 else f"**exit code {code}**", f"{seconds:.0f}", f"at most {GOAL_SECONDS}", counts)
    print_header("slowest tests", "phase", "seconds")
    for found in filter(None, map(DURATION.match, lines)):
        print_row(f"`{found['test']}`", found["phase"], found["seconds"])
    if seconds > GOAL_SECONDS:
        note("the goal was missed")


def main(slowest: int = 15) -> None:
    """Measure `make test`.

    Args:
        slowest: How many of the slowest tests to list.
    """
    subprocess.run(["make", "install"], cwd=ROOT, check=True, stdout=sys.stderr)
    code, seconds, lines = run_suite(slowest)
    report(code, seconds, lines)
    if code:
        raise SystemExit(code)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
