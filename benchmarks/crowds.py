"""Claims: a crowd is served to the end and fairly; too large a crowd is refused quickly and harms nobody who was let
in; a replica that is killed breaks its own streams alone, and its readers know.

Peer: none; a crowd's figures stand beside those of the same service with as many readers as it has places.

- streams: `tiny` with random weights, 200 WebSockets, each of which asks again when its text has ended.
- overload: GPT-2's 124M shape in int8, places for 16 texts of 128 tokens. First 16 readers who ask again and again,
  then ten times as many requests a second as were served, come what may.
- kill: `tiny`, two replicas, readers on both; one gets SIGKILL. Readers use our client, without retries.

    .venv/bin/python benchmarks/crowds.py [--cases streams overload kill] [--minutes 5] [--front] [--waiting 4]
"""

import asyncio
import os
import random
import signal
import ssl
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import tyro
from measure import alone, note, print_header, print_machine, print_row
from models import write_models
from serving import Reading, fronted, read_events, read_socket, served

from victorian.client import AsyncClient
from victorian.config import Recipe, SamplingParameters
from victorian.errors import ReplicaLostError, VictorianError
from victorian.model.gpt2 import GPT
from victorian.recipes import GPT2_124M, RECIPES

CASES = ("streams", "overload", "kill")
MIB = 2**20


def percentile(values: Sequence[float], share: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[share - 1] if len(values) > 1 else values[0]


def directory(folder: str, recipe: Recipe) -> str:
    """A model of random weights."""
    model = GPT(recipe.model)
    model.initialize(seed=0)
    return write_models(Path(folder), model, recipe, ()).directory


# 200 streams.


async def keep_reading(url: str, count: int, seconds: float) -> list[tuple[int, int]]:
    """Tokens that each reader had, and texts of its that broke off."""
    end = time.monotonic() + seconds

    async def reader(seed: int) -> tuple[int, int]:
        tokens = lost = 0
        while (left := end - time.monotonic()) > 0:
            body = {"prompt": "It was", "max_tokens": 2_000, "min_tokens": 2_000, "seed": seed}
            reading = Reading(time.monotonic())
            try:
                async with asyncio.timeout(left):
                    await read_socket(url, body, reading)
                lost += not reading.ended
            except TimeoutError:  # the time is over in the middle of a text
                pass
            tokens += len(reading.moments)
        return tokens, lost

    return list(await asyncio.gather(*(reader(seed) for seed in range(count))))


def many_streams(minutes: float, count: int = 200) -> None:
    with tempfile.TemporaryDirectory() as folder:
        engine = {"max_running": count, "max_waiting": 0, "cache_tokens": None}
        with served(directory(folder, RECIPES["tiny"]), {"engine": engine}) as service:
            [replica] = service.replicas()
            memory: list[float] = []
            running = Background(keep_reading, service.url, count, minutes * 60)
            while not running.done():
                time.sleep(min(10.0, minutes * 6))
                memory.append(replica.memory_info().rss / MIB)
                note(f"replica: {memory[-1]:,.0f} MiB")
            tokens, lost = zip(*running.result(), strict=True)
            ready = service.ready()
    print_header(f"tiny, {count} WebSockets, {minutes:g} minutes", "")
    print_row("texts that broke off", sum(lost))
    print_row("tokens/s", f"{sum(tokens) / minutes / 60:,.0f}")
    print_row("slowest reader's tokens / fastest reader's", f"{min(tokens) / max(tokens):.2f}")
    half = len(memory) // 2
    print_row(
        "replica's memory, MiB: after a tenth, half, all of the time", *_at(memory, (len(memory) // 10, half, -1))
    )
    print_row("ready afterwards", ready)


def _at(values: Sequence[float], places: Sequence[int]) -> list[str]:
    return [" / ".join(f"{values[place]:,.0f}" for place in places)]


class Background:
    """A coroutine of ours in another process, while this one looks at the service."""

    def __init__(self, function: Any, *args: Any) -> None:
        from concurrent.futures import ThreadPoolExecutor

        self._pool = ThreadPoolExecutor(1)
        self._future = self._pool.submit(alone, _run, function, *args)

    def done(self) -> bool:
        return self._future.done()

    def result(self) -> Any:
        found = self._future.result()
        self._pool.shutdown()
        return found


def _run(function: Any, *args: Any) -> Any:
    return asyncio.run(function(*args))


# Ten times more than there is room for.


def body(seed: int) -> dict[str, Any]:
    return {"prompt": "It was", "max_tokens": 128, "min_tokens": 128, "seed": seed}


def readers(url: str, trust: str | None) -> httpx2.AsyncClient:
    """As many connections as are wanted; `trust` is the certificate of who signed for an https address."""
    verify = ssl.create_default_context(cafile=trust) if trust else True
    return httpx2.AsyncClient(base_url=url, verify=verify, timeout=None, limits=httpx2.Limits(max_connections=None))


async def at_capacity(url: str, trust: str | None, places: int, seconds: float) -> list[Reading]:
    """As many readers as places, who ask again and again."""
    end = time.monotonic() + seconds
    found: list[Reading] = []
    async with readers(url, trust) as http:

        async def reader(seed: int) -> None:
            while time.monotonic() < end:
                found.append(await read_events(http, body(seed)))

        await asyncio.gather(*(reader(seed) for seed in range(places)))
    return found


async def over_capacity(url: str, trust: str | None, a_second: float, seconds: float) -> list[Reading]:
    """So many requests a second, at random moments, whatever becomes of them."""
    tasks = []
    chance = random.Random(0)
    async with readers(url, trust) as http:
        end = time.monotonic() + seconds
        at = time.monotonic()
        while at < end:
            await asyncio.sleep(at - time.monotonic())
            tasks.append(asyncio.create_task(read_events(http, body(len(tasks)))))
            at += chance.expovariate(a_second)
        return list(await asyncio.gather(*tasks))


def overload(minutes: float, front: bool, waiting: int, places: int = 16) -> None:
    with tempfile.TemporaryDirectory() as folder, ExitStack() as held:
        engine = {"max_running": places, "max_waiting": waiting, "precision": "int8"}
        service = held.enter_context(served(directory(folder, GPT2_124M), {"engine": engine}))
        to = held.enter_context(fronted(service, places + waiting)) if front else (service.url, None)
        alone(_run, at_capacity, *to, places, 5.0)
        usual = alone(_run, at_capacity, *to, places, 30.0)
        rate = 10 * len(usual) / 30.0
        note(f"capacity {rate / 10:.1f} a second; {rate:.0f} a second for {minutes:g} minutes")
        crowd = alone(_run, over_capacity, *to, rate, minutes * 60)
        ready = service.ready()
    accepted = [r for r in crowd if r.refused is None]
    refused = [r.moments[0] - r.asked for r in crowd if r.refused == 429]
    seconds = [_seconds(readings) for readings in (usual, [r for r in accepted if r.ended])]
    way = "behind the front proxy" if front else "behind Serve's proxy"
    print_header(
        f"124M, int8, {places} places, {waiting} may wait, {rate:.0f} requests/s, {way}",
        "at capacity",
        "ten times that",
    )
    print_row("requests", len(usual), len(crowd))
    print_row("served to the end", len(seconds[0]), len(seconds[1]))
    print_row("neither served nor refused with 429", 0, len(crowd) - len(seconds[1]) - len(refused))
    for share in (50, 95):
        print_row(f"seconds of those served, p{share}", *(f"{percentile(s, share):.2f}" for s in seconds))
    for share in (50, 95, 99):
        print_row(f"ms until refused, p{share}", "", f"{1e3 * percentile(refused, share):.0f}" if refused else "")
    print_row("ready afterwards", "", ready)


def _seconds(readings: Sequence[Reading]) -> list[float]:
    return [r.moments[-1] - r.asked for r in readings]


# A replica is killed.


@dataclass
class Told:
    """What readers heard, with the moments of this machine's clock."""

    broken: list[float] = field(default_factory=list)
    """A stream broke, and the client said so."""
    whole: list[float] = field(default_factory=list)
    refused: list[tuple[float, str]] = field(default_factory=list)
    """A request that was made then failed before it was answered."""
    silent: int = 0
    """Texts that were shorter than asked for, and yet were called whole."""


async def read_with_client(url: str, count: int, seconds: float) -> Told:
    end = time.monotonic() + seconds
    told = Told()
    sampling = SamplingParameters(max_tokens=600, min_tokens=600, seed=1)

    async def reader() -> None:
        async with AsyncClient(url, retries=0) as client:
            while time.monotonic() < end:
                asked = time.monotonic()
                try:
                    answer = await client.complete("It was", sampling)
                except ReplicaLostError:
                    told.broken.append(time.monotonic())
                except VictorianError as error:
                    told.refused.append((asked, f"{type(error).__name__}: {error}"))
                    await asyncio.sleep(0.05)
                else:
                    told.whole.append(asked)
                    told.silent += answer.complete.usage.completion_tokens != 600

    await asyncio.gather(*(reader() for _ in range(count)))
    return told


def kill(seconds: float = 30.0, readers: int = 16) -> None:
    with tempfile.TemporaryDirectory() as folder:
        engine = {"max_running": readers, "threads": 1}
        with served(directory(folder, RECIPES["tiny"]), {"engine": engine}, {"num_replicas": 2}) as service:
            running = Background(read_with_client, service.url, readers, seconds)
            time.sleep(seconds / 3)
            victim = service.replicas()[0]
            struck = time.monotonic()
            os.kill(victim.pid, signal.SIGKILL)
            told: Told = running.result()
    late = [(at - struck, why) for at, why in told.refused if at > struck + 1]
    print_header(f"tiny, two replicas, {readers} readers, one replica killed", "")
    print_row("streams that broke, and whose readers were told", len(told.broken))
    print_row("texts called whole that were not", told.silent)
    print_row("requests that failed, made within a second after", len(told.refused) - len(late))
    print_row("requests that failed, made later", len(late))
    print_row("texts read to the end", len(told.whole))
    for at, why in late[:5]:
        note(f"{at:.2f} s after: {why}")


def main(cases: tuple[str, ...] = CASES, minutes: float = 5.0, front: bool = False, waiting: int = 4) -> None:
    """Measure what crowds get.

    Args:
        cases: streams, overload, kill.
        minutes: Of 200 streams; the overload has two fifths of it.
        front: Have deploy/haproxy.cfg in front in the overload, and refuse what is too much.
        waiting: Requests that may wait for a place in the overload.
    """
    if unknown := [case for case in cases if case not in CASES]:
        raise SystemExit(f"expected cases of {', '.join(CASES)}, got {', '.join(unknown)}")
    print_machine()
    if "streams" in cases:
        many_streams(minutes)
    if "overload" in cases:
        overload(minutes * 0.4, front, waiting)
    if "kill" in cases:
        kill()


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
