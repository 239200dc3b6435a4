"""Claim: the same network reaches the paper recipe's validation loss in half of its tokens, or fewer.

Peers: the paper's recipe (AdamW, 1e-4, cosine, 100 warm-up steps, dropout 0.2) at the shape that is measured, and the
same with the learning rate at which it does best, found by a sweep on one seed. Ours is Muon for matrices and AdamW
for the rest, as in the recipe `tiny` or `small`, with the steps that are given. Every run is a process of its own that
trains by steps without Ray; a run that is in OUTPUT is not done again, so an interrupted script goes on. Losses are of
the validation split's first tokens, medians over seeds with their range.

    .venv/bin/python benchmarks/recipes.py --data SHARDS --output runs.jsonl [--recipe tiny] [--steps 300] [--seeds 3]
"""

import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tyro
from measure import alone, note, print_header, print_machine, print_row, spread

from victorian.config import Recipe
from victorian.device import use_threads
from victorian.recipes import GPT2_124M, find_recipe
from victorian.storage import open_storage
from victorian.tokens.manifest import read_manifest
from victorian.tokens.stream import open_split
from victorian.training.loop import train
from victorian.training.worker import LocalWorker

FRACTIONS = (0.25, 0.3, 0.4, 0.5, 1.0)
"""Shares of the paper recipe's tokens that ours is given."""
VALIDATION_TOKENS = 131_072


@dataclass(frozen=True)
class Result:
    """One run."""

    side: str
    recipe: str
    steps: int
    seed: int
    learning_rate: float
    loss: float
    """On the validation split at the end, nats a token."""


def paper_recipe(name: str, steps: int, rate: float) -> dict[str, Any]:
    """The paper's optimizer, schedule and dropout at another shape; a short run's warm-up is a tenth of it."""
    value = find_recipe(name).model_dump()
    value["model"]["dropout"] = GPT2_124M.model.dropout
    value["optimizer"] = GPT2_124M.optimizer.model_dump() | {"learning_rate": rate}
    warmup = min(GPT2_124M.schedule.warmup_steps, steps // 10)
    value["schedule"] = GPT2_124M.schedule.model_dump() | {"warmup_steps": warmup}
    return value


def run(value: dict[str, Any], data: str, steps: int, seed: int) -> float:
    """Train and return the last validation loss."""
    value["training"] |= {
        "steps": steps,
        "seconds": None,
        "seed": seed,
        "validation_every_steps": steps,
        "validation_tokens": VALIDATION_TOKENS,
        "checkpoint_every_steps": 10 * steps,
    }
    recipe = Recipe.model_validate(value)
    use_threads()
    storage = open_storage(data)
    manifest = read_manifest(storage)
    with tempfile.TemporaryDirectory(prefix="victorian-recipes-") as folder:
        streams = open_split(storage, manifest, "train"), open_split(storage, manifest, "validation")
        loss = train(recipe, *streams, LocalWorker(Path(folder))).position.validation_loss
    assert loss is not None
    return loss


class Ledger:
    """The runs that were done, one JSON line each."""

    def __init__(self, path: Path, data: str, recipe: str) -> None:
        self._path, self._data, self._recipe = path, data, recipe
        lines = path.read_text().splitlines() if path.exists() else []
        self._done = [Result(**json.loads(line)) for line in lines]

    def loss(self, side: str, value: dict[str, Any], steps: int, seed: int) -> float:
        """Of a run that was done, or is done now."""
        rate = value["optimizer"]["learning_rate"]
        for done in self._done:
            if (done.side, done.recipe, done.steps, done.seed, done.learning_rate) == (
                (side, self._recipe, steps, seed, rate)
            ):
                return done.loss
        note(f"{self._recipe}, {side}, learning rate {rate:g}, {steps} steps, seed {seed}")
        loss = alone(run, value, self._data, steps, seed)
        result = Result(side, self._recipe, steps, seed, rate, loss)
        self._done.append(result)
        with self._path.open("a") as file:
            file.write(json.dumps(asdict(result)) + "\n")
        note(f"  {loss:.4f}")
        return loss


def main(
    data: str,
    output: Path,
    recipe: str = "tiny",
    steps: int = 300,
    seeds: int = 3,
    rates: tuple[float, ...] = (3e-4, 1e-3, 2e-3, 4e-3, 8e-3),
) -> None:
    """Compare recipes at one shape.

    Args:
        data: Shards prepared for the recipe.
        output: File of the runs that were done; the same again goes on with it.
        recipe: Shape, batch, and our optimizer.
        steps: Steps of the paper's recipe.
        seeds: Runs of each side but the sweep's.
        rates: What the paper's recipe is swept over beside its own 1e-4.
    """
    ledger = Ledger(output, data, recipe)
    everywhere = range(seeds)
    paper = GPT2_124M.optimizer.learning_rate
    sweep = {rate: ledger.loss("paper", paper_recipe(recipe, steps, rate), steps, 0) for rate in (paper, *rates)}
    best = min(sweep, key=lambda rate: sweep[rate])
    rows = [
        (f"the paper's recipe, learning rate {rate:g}", steps, paper_recipe(recipe, steps, rate), "paper")
        for rate in dict.fromkeys((paper, best))
    ]
    for fraction in FRACTIONS:
        rows.append((f"`{recipe}`", round(steps * fraction), find_recipe(recipe).model_dump(), "ours"))
    print_machine()
    print_header(f"`{recipe}`'s shape, sweep on one seed", "validation loss, nats a token")
    for rate, loss in sweep.items():
        print_row(f"the paper's recipe, learning rate {rate:g}", f"{loss:.3f}")
    print_header(f"`{recipe}`'s shape, {seeds} seeds", "steps", "share of tokens", "validation loss, nats a token")
    for name, taken, value, side in rows:
        losses = [ledger.loss(side, value, taken, seed) for seed in everywhere]
        print_row(name, taken, f"{taken / steps:.0%}", f"{spread(losses):.3f}")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
