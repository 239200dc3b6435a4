"""Claim: Ray Train costs a run nothing but its start, and the training loop hardly leaves the network.

Peer: the same loop without Ray. All train the recipe `tiny` on the same shards for the same number of seconds, each in
a process of its own, in turns: the loop alone, through Ray Train with one worker, which has both cores, and with two
workers, which have one each; a step of any sees the same batch. Tokens/s is the median over
the steps after the first 5, of forward, backward and optimizer. The share of the wall time outside these is given as
the run's last record has it, validation and checkpoints included, and as the median over the steps beside which
neither took place.

    .venv/bin/python benchmarks/training.py [--corpus DIR] [--seconds 30] [--runs N]
"""

import statistics
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter

import tyro
from measure import alone, in_turns, print_header, print_machine, print_row, ratios, spread, victorian

from victorian.artifact import artifact_uri, new_record, write_artifact
from victorian.config import Recipe
from victorian.corpus.sources import SAMPLE
from victorian.device import use_threads
from victorian.recipes import TINY
from victorian.storage import open_storage, sha256
from victorian.tokens.manifest import MANIFEST, read_manifest
from victorian.tokens.stream import open_split
from victorian.training.loop import Extras, train
from victorian.training.monitors import Journal, StepRecord, read_records
from victorian.training.worker import LocalWorker

WARM_UP_STEPS = 5
PLAIN, RAY, SHARED = "the loop alone", "through Ray Train, 1 worker", "through Ray Train, 2 workers of a thread each"


@dataclass(frozen=True)
class TrainingRun:
    """What one process measured."""

    seconds: float
    """Wall time of the whole call, from shards to artifact; the start of Ray itself is left out."""
    records: list[StepRecord]

    @property
    def tokens_per_second(self) -> float:
        return statistics.median(record.tokens_per_second for record in self.records[WARM_UP_STEPS:])

    @property
    def outside(self) -> float:
        """Share of the wall time, validation and checkpoints included."""
        return self.records[-1].outside

    @property
    def waiting(self) -> float:
        """Share of the wall time in which training waited for batches."""
        last = self.records[-1]
        return sum(record.data_wait for record in self.records) * (1 - last.outside) / last.seconds

    @property
    def outside_plain_steps(self) -> float:
        """The median share in the steps that neither validated nor followed a checkpoint."""
        # A record says what share of the wall time so far was not spent in steps: the wall time follows.
        walls = [record.seconds / (1 - record.outside) for record in self.records]
        every = TINY.training.checkpoint_every_steps
        shares = []
        for index in range(WARM_UP_STEPS, len(self.records)):
            before, record = self.records[index - 1], self.records[index]
            if record.validation_loss is None and before.step % every:
                shares.append(1 - (record.seconds - before.seconds) / (walls[index] - walls[index - 1]))
        return statistics.median(shares)

    @property
    def besides_steps(self) -> float:
        """Seconds of the call that were not forward, backward and optimizer."""
        return self.seconds - self.records[-1].seconds


def recipe_for(seconds: float) -> Recipe:
    """`tiny` for some seconds."""
    return TINY.model_copy(update={"training": TINY.training.model_copy(update={"seconds": seconds})})


def train_plainly(data: str, run: str, seconds: float) -> TrainingRun:
    """Shards to artifact in this process, without Ray."""
    recipe = recipe_for(seconds)
    use_threads()
    began = perf_counter()
    storage, journal = open_storage(data), Journal(open_storage(run))
    manifest = read_manifest(storage)
    validation = open_split(storage, manifest, "validation") if "validation" in manifest.splits else None
    extras = Extras(monitors=[journal])
    trained = train(recipe, open_split(storage, manifest, "train"), validation, LocalWorker(Path(run)), extras)
    at = trained.position
    digest = sha256(storage.read(MANIFEST))
    record = new_record(recipe, at.step, at.seconds, at.loss, at.validation_loss, digest)
    write_artifact(artifact_uri(run), trained.model, recipe, record)
    return TrainingRun(perf_counter() - began, read_records(open_storage(run)))


def train_through_ray(workers: int, data: str, run: str, seconds: float) -> TrainingRun:
    """The same through a TorchTrainer."""
    from victorian.cluster.session import session

    with session():
        from victorian.cluster.train import Options, train_run

        began = perf_counter()
        result = train_run(recipe_for(seconds), data, run, Options(workers=workers))
        return TrainingRun(perf_counter() - began, result.metrics)


def measure(side: str, data: str, seconds: float) -> TrainingRun:
    """One run of one side in a process and a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="victorian-training-") as run:
        works = {PLAIN: train_plainly, RAY: partial(train_through_ray, 1), SHARED: partial(train_through_ray, 2)}
        result = alone(works[side], data, run, seconds)
    if len(result.records) <= WARM_UP_STEPS + 1:
        raise SystemExit(f"{seconds} seconds were {len(result.records)} steps; give more --seconds to measure")
    return result


def main(corpus: str = SAMPLE, seconds: float = 30, runs: int = 3) -> None:
    """Measure training with and without Ray Train.

    Args:
        corpus: A folder in PG19's layout or of .txt files, or `sample` for the books in the package.
        seconds: Seconds of training a run.
        runs: Runs of each side.
    """
    with tempfile.TemporaryDirectory(prefix="victorian-training-data-") as data:
        victorian("prepare", corpus, "--output", data, "--recipe", TINY.name)
        found = in_turns({side: partial(measure, side, data, seconds) for side in (PLAIN, RAY, SHARED)}, runs)
    print_machine()
    print_header(
        f"`{TINY.name}`, {seconds:g} s of training, median of {runs}",
        "tokens/s",
        "outside forward, backward, optimizer",
        "waiting for data",
        "the same without validation and checkpoints",
        "seconds of the call besides its steps",
    )
    for side, results in found.items():
        print_row(
            side,
            f"{spread(run.tokens_per_second for run in results):,.0f}",
            f"{spread(run.outside for run in results):.2%}",
            f"{spread(run.waiting for run in results):.3%}",
            f"{spread(run.outside_plain_steps for run in results):.2%}",
            f"{spread(run.besides_steps for run in results):.1f}",
        )
    speeds = {side: [run.tokens_per_second for run in results] for side, results in found.items()}
    print_row("ratio, 1 worker : alone", f"{ratios(speeds[RAY], speeds[PLAIN]):.3f}", "", "", "", "")
    print_row("ratio, 2 workers : 1 worker", f"{ratios(speeds[SHARED], speeds[RAY]):.3f}", "", "", "", "")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
