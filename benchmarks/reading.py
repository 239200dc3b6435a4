"""Claim: the optimizer does not wait for its data, wherever the shards lie.

Peer: the same loop, building each batch when it is asked for. Both train the recipe `tiny` without Ray for the same
number of steps on the same shards, each in a process of its own, in turns; the batches are the same. The wait is
what every step's record says, the first step included; its share is that of the whole wall time of the steps, with
validation and checkpoints. "Local" shards are mapped where they lie; those "in the cache" were fetched into an empty
cache from a folder that stands for an object store, so no network is in it. With the third kind every window comes
some milliseconds late, as from a disk that has to look for it: what the thread is there for.

The reader alone builds batches of two recipes' shapes one after another, in one thread; opening verifies every shard.

    .venv/bin/python benchmarks/reading.py [--corpus DIR] [--steps 60] [--runs N]
"""

import statistics
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter, sleep

import tyro
from measure import alone, in_turns, print_header, print_machine, print_row, ratios, spread, victorian

from victorian.config import Recipe
from victorian.corpus.sources import SAMPLE
from victorian.device import use_threads
from victorian.recipes import GPT2_124M, TINY
from victorian.storage import Storage, open_storage
from victorian.tokens.batches import Batches
from victorian.tokens.bpe import Tokens
from victorian.tokens.manifest import read_manifest
from victorian.tokens.prefetch import BATCHES_AHEAD
from victorian.tokens.shard_cache import ShardCache
from victorian.tokens.stream import TokenStream, open_split
from victorian.training.loop import Extras, train
from victorian.training.monitors import Journal, StepRecord, read_records
from victorian.training.worker import LocalWorker

WARM_UP_STEPS = 5
CACHE_BYTES = 64 * 2**30
SLOW_SECONDS = 0.005
LOCAL, CACHED, SLOW = "local", "in the cache", f"local, {SLOW_SECONDS * 1e3:g} ms later a window"
SIDES = {
    f"{how}, shards {place}": (ahead, place)
    for place in (LOCAL, CACHED, SLOW)
    for how, ahead in (("built in the loop", 0), (f"{BATCHES_AHEAD} built ahead", BATCHES_AHEAD))
}


class Elsewhere:
    """A folder that cannot be mapped where it lies, as an object store cannot."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def __getattr__(self, name: str) -> object:
        return getattr(self._storage, name)

    def local_path(self, key: str) -> None:
        return None


class SlowStream(TokenStream):
    """Tokens that take their time."""

    def read(self, start: int, stop: int) -> Tokens:
        sleep(SLOW_SECONDS)
        return super().read(start, stop)


def place_of(data: str, place: str) -> Storage:
    """The data set as it is seen from this machine."""
    storage = open_storage(data)
    return Elsewhere(storage) if place == CACHED else storage  # type: ignore[return-value]


@dataclass(frozen=True)
class Waits:
    """What one run of training waited for."""

    records: list[StepRecord]

    @property
    def share(self) -> float:
        """Of the wall time of all steps."""
        last = self.records[-1]
        return sum(record.data_wait for record in self.records) / (last.seconds / (1 - last.outside))

    @property
    def median_ms(self) -> float:
        return 1e3 * statistics.median(record.data_wait for record in self.records)

    @property
    def worst_ms(self) -> float:
        return 1e3 * max(record.data_wait for record in self.records)

    @property
    def tokens_per_second(self) -> float:
        """Of forward, backward and optimizer: lower if the thread took their time."""
        return statistics.median(record.tokens_per_second for record in self.records[WARM_UP_STEPS:])


def train_once(data: str, place: str, ahead: int, steps: int, cache: str) -> Waits:
    """Train `tiny` in this process, without Ray."""
    budget = {"steps": steps, "seconds": None}
    recipe = TINY.model_copy(update={"training": TINY.training.model_copy(update=budget)})
    use_threads()
    storage, shards = place_of(data, place), ShardCache(Path(cache), CACHE_BYTES)
    manifest = read_manifest(storage)
    validation = open_split(storage, manifest, "validation", shards) if "validation" in manifest.splits else None
    training = open_split(storage, manifest, "train", shards)
    if place == SLOW:
        training = SlowStream(training.shards, training.starts, training.length)
    with tempfile.TemporaryDirectory(prefix="victorian-reading-run-") as run:
        extras = Extras(monitors=[Journal(open_storage(run))], batches_ahead=ahead)
        train(recipe, training, validation, LocalWorker(Path(run)), extras)
        return Waits(read_records(open_storage(run)))


@dataclass(frozen=True)
class Reading:
    """What one process read without training."""

    opening: float
    """Seconds until the training split was open, every shard verified."""
    opening_again: float
    batches_per_second: dict[str, float]
    """By recipe."""


def read_once(data: str, place: str, seconds: float) -> Reading:
    """Open the training split twice, the first time with an empty cache, and read batches for some seconds each."""
    storage = place_of(data, place)
    manifest = read_manifest(storage)
    with tempfile.TemporaryDirectory(prefix="victorian-reading-cache-") as folder:
        cache = ShardCache(Path(folder) / "shards", CACHE_BYTES)
        openings = []
        for _ in range(2):
            began = perf_counter()
            stream = open_split(storage, manifest, "train", cache)
            openings.append(perf_counter() - began)
        speeds = {}
        for recipe in (TINY, GPT2_124M):
            batches = Batches(stream, recipe.model.context, recipe.sequences_per_step, recipe.training.seed)
            batches.batch(0)  # draws the order of the first epoch
            step, began = 0, perf_counter()
            while (now := perf_counter()) < began + seconds:
                batches.batch(step)
                step += 1
            speeds[recipe.name] = step / (now - began)
        return Reading(openings[0], openings[1], speeds)


def print_waits(found: dict[str, list[Waits]], steps: int) -> None:
    print_header(
        f"`{TINY.name}`, {steps} steps of training, median of {len(next(iter(found.values())))}",
        "wait for data, share of wall time",
        "median step, ms",
        "worst step, ms",
        "tokens/s of the steps",
        "times the loop's",
    )
    for side, results in found.items():
        _, place = SIDES[side]
        in_the_loop = next(name for name, (ahead, where) in SIDES.items() if not ahead and where == place)
        speeds, peers = ([run.tokens_per_second for run in runs] for runs in (results, found[in_the_loop]))
        print_row(
            side,
            f"{spread(run.share for run in results):.3%}",
            f"{spread(run.median_ms for run in results):.3f}",
            f"{spread(run.worst_ms for run in results):.2f}",
            f"{spread(speeds):,.0f}",
            f"{ratios(speeds, peers):.3f}",
        )


def tokens_per_step(recipe: Recipe) -> str:
    return f"`{recipe.name}`, {recipe.training.tokens_per_step:,} tokens a batch"


def main(corpus: str = SAMPLE, steps: int = 60, reader_seconds: float = 3, runs: int = 3) -> None:
    """Measure how long training waits for its data.

    Args:
        corpus: A folder in PG19's layout or of .txt files, or `sample` for the books in the package.
        steps: Steps of training a run.
        reader_seconds: Seconds of reading a run and shape.
        runs: Runs of each side.
    """
    if steps <= WARM_UP_STEPS:
        raise SystemExit(f"expected more than {WARM_UP_STEPS} steps, got {steps}")
    with tempfile.TemporaryDirectory(prefix="victorian-reading-") as folder:
        data, cache = f"{folder}/data", f"{folder}/cache"
        victorian("prepare", corpus, "--output", data, "--recipe", TINY.name)
        manifest = read_manifest(open_storage(data))
        sides = {
            side: partial(alone, train_once, data, place, ahead, steps, cache) for side, (ahead, place) in SIDES.items()
        }
        waits = in_turns(sides, runs)
        places = {place: partial(alone, read_once, data, place, reader_seconds) for place in (LOCAL, CACHED)}
        readings = in_turns(places, runs)
    print_machine()
    print_waits(waits, steps)
    entry = manifest.splits["train"]
    print_header(
        f"the reader alone, {entry.tokens:,} tokens in {len(entry.shards)} shards, median of {runs}",
        "opening, s",
        "opening again, s",
        *(f"batches/s, {tokens_per_step(recipe)}" for recipe in (TINY, GPT2_124M)),
    )
    for place, results in readings.items():
        print_row(
            f"shards {place}",
            f"{spread(run.opening for run in results):.2f}",
            f"{spread(run.opening_again for run in results):.2f}",
            *(f"{spread(run.batches_per_second[recipe.name] for run in results):,.0f}" for recipe in (TINY, GPT2_124M)),
        )


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
