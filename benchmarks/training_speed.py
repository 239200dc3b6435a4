"""Claim: the training loop runs GPT-2's 124M shape faster than the usual loops over `transformers` on the same CPU.

Peers: `GPT2LMHeadModel` with its own loss and `torch.optim.AdamW`, eager, in float32 and under bfloat16 autocast, on
random weights and random tokens of batch 2 x 512, no dropout on any side, as this CPU's fused attention refuses it.
Ours is `training/loop.py` with the recipe `gpt2-124m` at that batch, as it is and with `--training.compile on`. Every
run is a process of its own, in turns; a figure is tokens a second of the median step after the first few, forward,
backward and optimizer. Beside it stands the share of the best product this CPU does in that type (MFU): model FLOPs as
in `training/plan.py`, products of 2048 x 2048 matrices as the peak.

    .venv/bin/python benchmarks/training_speed.py [--steps 8] [--runs 3]
"""

import statistics
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
import tyro
from measure import alone, in_turns, print_header, print_machine, print_row, ratios, spread

from victorian.config import Recipe
from victorian.device import DTYPES, measured_flops, use_threads
from victorian.model.huggingface import to_config
from victorian.recipes import GPT2_124M
from victorian.storage import open_storage
from victorian.tokens.stream import TokenStream
from victorian.training.loop import Extras, train
from victorian.training.monitors import Journal, read_records
from victorian.training.plan import flops_per_token
from victorian.training.worker import LocalWorker

BATCH, TIME = 2, 512
WARM_UP = 3
THEIRS_FP32, THEIRS_BF16 = "transformers, fp32", "transformers, bf16 autocast"
OURS, COMPILED = "ours", "ours, compiled"


@dataclass(frozen=True)
class Speed:
    tokens_per_second: float
    mfu: float


def recipe_for(compiled: bool, steps: int) -> Recipe:
    """The paper's model and optimizer at the batch that is measured."""
    value = GPT2_124M.model_dump()
    value["model"] |= {"context": TIME, "dropout": 0.0}
    value["training"] |= {
        "tokens_per_step": BATCH * TIME,
        "sequences_per_microbatch": BATCH,
        "steps": steps,
        "compile": "on" if compiled else "off",
        "checkpoint_every_steps": 10 * steps,
    }
    return Recipe.model_validate(value)


def tokens(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 50_257, count, dtype=np.uint16)


def speed_of(seconds: list[float], kind: str) -> Speed:
    rate = BATCH * TIME / statistics.median(seconds[WARM_UP:])
    peak = measured_flops(torch.device("cpu"), DTYPES[kind], size=2048, seconds=2.0)
    return Speed(rate, flops_per_token(recipe_for(False, 1).model) * rate / peak)


def run_ours(compiled: bool, steps: int) -> Speed:
    """The loop itself, without Ray."""
    use_threads()
    recipe = recipe_for(compiled, steps + WARM_UP)
    data = tokens(BATCH * TIME * (steps + WARM_UP) + 1)
    stream = TokenStream((data,), (0,), len(data))
    with tempfile.TemporaryDirectory(prefix="victorian-speed-") as folder:
        storage = open_storage(folder)
        train(recipe, stream, None, LocalWorker(Path(folder)), Extras(monitors=[Journal(storage)]))
        records = read_records(storage)
    return speed_of([BATCH * TIME / record.tokens_per_second for record in records], "bf16")


def run_theirs(kind: str, steps: int) -> Speed:
    """The loop of a thousand tutorials."""
    from transformers import GPT2Config, GPT2LMHeadModel

    use_threads()
    config = GPT2Config.from_dict(to_config(recipe_for(False, 1).model, 50_256))
    model = GPT2LMHeadModel(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.01)
    data = torch.from_numpy(tokens(BATCH * TIME * (steps + WARM_UP)).astype(np.int64)).view(-1, BATCH, TIME)
    seconds = []
    for batch in data:
        began = perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=kind == "bf16"):
            loss = model(batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(perf_counter() - began)
    return speed_of(seconds, kind)


def main(steps: int = 8, runs: int = 3) -> None:
    """Measure training at GPT-2's 124M shape.

    Args:
        steps: Steps of a run that count.
        runs: Runs of each side.
    """
    sides = {
        THEIRS_FP32: partial(alone, run_theirs, "fp32", steps),
        THEIRS_BF16: partial(alone, run_theirs, "bf16", steps),
        OURS: partial(alone, run_ours, False, steps),
        COMPILED: partial(alone, run_ours, True, steps),
    }
    found = in_turns(sides, runs)
    speeds = {side: [run.tokens_per_second for run in all_of_them] for side, all_of_them in found.items()}
    print_machine()
    header = f"125M parameters, batch {BATCH} x {TIME}, median of {runs}"
    print_header(header, "tokens/s", "MFU", "times fp32", "times bf16 autocast")
    for side in sides:
        print_row(
            side,
            f"{spread(speeds[side]):.0f}",
            f"{spread(run.mfu for run in found[side]):.2f}",
            f"{ratios(speeds[side], speeds[THEIRS_FP32]):.2f}",
            f"{ratios(speeds[side], speeds[THEIRS_BF16]):.2f}",
        )


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
