"""Claim: a service costs little over its engine: with 1 and 16 streams, over SSE and over the WebSocket.

Peer: our engine alone, in a process of its own, without Ray on the machine; and, to tell what Ray takes by being there,
the same engine beside a service that nobody asks. GPT-2's 124M shape with random weights; prompts of 32 random tokens,
512 new ones, all streams at once. Speed is tokens a second while all streams decode; the time to the first token is
from asking until the client has it. A service is started anew in each round and asked once before it is measured.

    .venv/bin/python benchmarks/service.py [--rounds 5] [--precision int8] [--haproxy]
"""

import asyncio
import os
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

import tyro
from measure import alone, note, print_header, print_machine, print_row, ratios, spread
from models import Models, write_models
from peers import PROMPT, Ours, random_prompts
from serving import Way, read_all, served

from victorian.config import Precision
from victorian.model.gpt2 import GPT
from victorian.recipes import GPT2_124M

WAYS: tuple[Way, ...] = ("sse", "websocket")
NEW = 512
"""Tokens of a text: a stream of its own writes for two seconds, in which its beginning does not count for much."""
BESIDE = "engine beside a service that nobody asks"


def engine_alone(folder: str, precision: str, streams: int) -> float:
    """Tokens a second of the engine without a service."""
    return Ours(Models(Path(folder)), precision).decode(streams, NEW)


def through_service(url: str, way: Way, streams: int, seed: int, new: int) -> tuple[float, list[float]]:
    """Tokens a second as clients see them, and each client's seconds to the first one."""
    prompts = random_prompts(seed, streams, PROMPT, GPT2_124M.tokens.ranks)
    greedy = {"max_tokens": new, "min_tokens": new, "temperature": 0, "repetition_penalty": 1}
    readings = asyncio.run(read_all(url, way, [{"prompt": prompt, **greedy} for prompt in prompts]))
    if not all(reading.ended and len(reading.moments) == new for reading in readings):
        raise SystemExit(f"expected {new} tokens for each reader, got {[len(r.moments) for r in readings]}")
    began, ended = max(r.moments[0] for r in readings), min(r.moments[-1] for r in readings)
    tokens = sum(began < moment <= ended for r in readings for moment in r.moments)
    return tokens / (ended - began), [r.moments[0] - r.asked for r in readings]


def percentile(values: Sequence[float], share: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[share - 1] if len(values) > 1 else values[0]


def main(
    rounds: int = 5, precision: Precision = "int8", streams: tuple[int, ...] = (1, 16), haproxy: bool = False
) -> None:
    """Measure what a service costs.

    Args:
        rounds: Times that each side is measured.
        precision: Of the engine's products.
        streams: Readers at once.
        haproxy: Serve's HAProxy in place of its own proxy.
    """
    if haproxy:
        os.environ["RAY_SERVE_ENABLE_HA_PROXY"] = "1"
    print_machine()
    model = GPT(GPT2_124M.model)
    model.initialize(seed=0)
    speeds: dict[tuple[str, int], list[float]] = {}
    waits: dict[tuple[str, int], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        directory = write_models(Path(folder), model, GPT2_124M, ()).directory
        for number in range(rounds):
            for count in streams:
                note(f"round {number + 1} of {rounds}: engine, streams: {count}")
                speeds.setdefault(("engine", count), []).append(alone(engine_alone, folder, precision, count))
            with served(directory, {"engine": {"precision": precision, "max_running": max(streams)}}) as service:
                for count in streams:
                    note(f"round {number + 1} of {rounds}: engine beside the service, streams: {count}")
                    beside = alone(engine_alone, folder, precision, count)
                    speeds.setdefault((BESIDE, count), []).append(beside)
                for count in streams:
                    for way in WAYS:
                        note(f"round {number + 1} of {rounds}: {way}, streams: {count}")
                        for seed, new in enumerate((NEW // 4, NEW)):
                            speed, first = alone(through_service, service.url, way, count, seed, new)
                        speeds.setdefault((way, count), []).append(speed)
                        waits.setdefault((way, count), []).extend(first)
    print_header(f"{precision}, median of {rounds}", "tokens/s", "of the engine's", "first token p50, ms", "p95", "p99")
    for (side, count), found in speeds.items():
        share = "" if side == "engine" else f"{ratios(found, speeds['engine', count]):.2f}"
        first = waits.get((side, count))
        cells = [f"{1e3 * percentile(first, share):.0f}" if first else "" for share in (50, 95, 99)]
        print_row(f"{side}, streams: {count}", f"{spread(found):,.0f}", share, *cells)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
