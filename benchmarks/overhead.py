"""Claim: all but a few percent of a step of GPT-2's 124M is the network's, and the engine's memory is what it must be.

Peer: none; what the engine does beside the network is compared with the network, and its memory with a sum.

A step's time is from its beginning to that of the next, over the last 64 steps in which every stream has its next token
drawn (32 random tokens before, 128 after, the service's own sampling or the likeliest token); the network's is what
`runner.run` takes. Memory is that of a process which has had 16 streams of 2,048 tokens in the cache, in int8, over one
that has imported the same and made no engine; the sum is the weights as the engine has to keep them and the cache. The
model that the engine was made from is dropped before, as a service drops it.

    .venv/bin/python benchmarks/overhead.py [--rounds 5] [--cases step memory]
"""

import gc
from functools import partial
from itertools import pairwise
from time import perf_counter

import psutil
import tyro
from measure import alone, in_turns, note, print_header, print_machine, print_row, spread
from peers import NEW, PROMPT, random_prompts, run

from victorian.config import EngineConfig, SamplingParameters
from victorian.engine.engine import Engine
from victorian.model.gpt2 import GPT
from victorian.recipes import GPT2_124M
from victorian.tokens.bpe import get_encoding

PRECISIONS = ("fp32", "bf16", "int8")
SAMPLING = {
    "likeliest": SamplingParameters(temperature=0, repetition_penalty=1),
    "as served": SamplingParameters(seed=0),
}
MIB = 2**20
CASES = ("step", "memory")


def new_engine(precision: str, streams: int) -> Engine:
    model = GPT(GPT2_124M.model)
    model.initialize(seed=0)
    config = EngineConfig.model_validate({"precision": precision, "max_running": streams})
    return Engine(model.eval(), get_encoding(GPT2_124M.tokens.ranks), config)


def time_steps(precision: str, sampling: str, streams: int) -> tuple[float, float]:
    """Seconds of a step, and of the network in it, means over late steps that draw for every stream."""
    begins: list[tuple[float, float, int]] = []
    with new_engine(precision, streams) as engine:
        runner = engine._forward.runner
        plain_run, plain_step = runner.run, engine.step
        in_network, drawn = 0.0, 0

        def timed_run(reads):  # type: ignore[no-untyped-def]
            nonlocal in_network, drawn
            began = perf_counter()
            logits = plain_run(reads)
            in_network, drawn = perf_counter() - began, len(reads)
            return logits

        def timed_step() -> None:
            nonlocal in_network, drawn
            in_network, drawn = 0.0, 0
            began = perf_counter()
            plain_step()
            begins.append((began, in_network, drawn))

        runner.run, engine.step = timed_run, timed_step  # type: ignore[method-assign]
        for seed in range(2):
            begins.clear()
            run(engine, random_prompts(seed, streams, PROMPT, engine.encoding.size), NEW, SAMPLING[sampling])
    whole = [(after[0] - this[0], this[1], this[2]) for this, after in pairwise(begins)]
    full = [(step, network) for step, network, count in whole if count == streams][-NEW // 2 :]
    return sum(step for step, _ in full) / len(full), sum(network for _, network in full) / len(full)


def resident() -> float:
    gc.collect()
    return psutil.Process().memory_info().rss / MIB


def memory(with_engine: bool, streams: int) -> tuple[float, float]:
    """MiB that the process holds with the engine's cache full, and once before it was; or with no engine at all."""
    if not with_engine:
        get_encoding(GPT2_124M.tokens.ranks)
        return resident(), 0.0
    context = GPT2_124M.model.context
    with new_engine("int8", streams) as engine:
        before = resident()
        run(engine, random_prompts(0, streams, context - 8, engine.encoding.size), 8, SAMPLING["likeliest"])
        return resident(), before


def memory_needed(streams: int) -> tuple[float, float]:
    """MiB of weights and of the cache: matrices in int8 with a scale, an offset and a bias for each output, the
    embedding that is looked up in bf16 as well, all else as it is."""
    m = GPT2_124M.model
    c = m.channels
    outputs = m.layers * (3 + 1 + 4 + 1) * c
    weights = (
        m.vocabulary * (3 * c + 12) + m.layers * 12 * c * c + outputs * 12 + (m.context + 4 * m.layers + 2) * c * 4
    )
    return weights / MIB, streams * m.context * m.layers * 2 * c * 2 / MIB


def main(rounds: int = 5, cases: tuple[str, ...] = CASES, streams: tuple[int, ...] = (1, 16)) -> None:
    """Measure what the engine costs beside the network.

    Args:
        rounds: Runs of each side.
        cases: step, memory.
        streams: Numbers of streams to decode side by side, for `step`.
    """
    if unknown := [case for case in cases if case not in CASES]:
        raise SystemExit(f"expected cases of {', '.join(CASES)}, got {', '.join(unknown)}")
    print_machine()
    if "step" in cases:
        keys = [(precision, kind, count) for precision in PRECISIONS for kind in SAMPLING for count in streams]
        work = {f"{p}, {kind}, streams: {n}": partial(alone, time_steps, p, kind, n) for p, kind, n in keys}
        found = in_turns(work, rounds)
        print_header(f"a step, median of {rounds}", "ms", "beside the network, ms", "share")
        for side, runs in found.items():
            beside = [step - network for step, network in runs]
            share = spread(100 * extra / step for extra, (step, _) in zip(beside, runs, strict=True))
            cells = spread(1e3 * step for step, _ in runs), spread(1e3 * extra for extra in beside)
            print_row(side, *(f"{cell:.2f}" for cell in cells), f"{share:.1f} %")
    if "memory" in cases:
        note("memory")
        (bare, _), (full, empty) = alone(memory, False, 16), alone(memory, True, 16)
        weights, cache = memory_needed(16)
        print_header("16 x 2,048 tokens, int8", "MiB")
        print_row("weights and cache, as computed", f"{weights + cache:,.0f} ({weights:,.0f} + {cache:,.0f})")
        print_row("engine with a full cache, over a process without", f"{full - bare:,.0f}")
        print_row("engine before its first request, over the same", f"{empty - bare:,.0f}")
        print_row("process without an engine", f"{bare:,.0f}")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
