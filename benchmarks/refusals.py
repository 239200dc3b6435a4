"""Claim: whoever is refused for want of room costs a service little, so that a crowd takes nothing from those inside.

Peer: none; the same refusals by three proxies. Processor time is counted, not the clock, so a machine that others use
will do. The house is full of one request for 16 texts; threads that were busy with these before are left out.

- serve: Serve's own proxy, which `serve run` starts.
- haproxy: Ray's HAProxy in its place.
- front: deploy/haproxy.cfg before Serve's own proxy, which lets no more in than there is room for.

    .venv/bin/python benchmarks/refusals.py [--ways serve haproxy front] [--refusals 700]
"""

import asyncio
import os
import ssl
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx2
import psutil
import tyro
from crowds import directory, readers
from measure import alone, print_header, print_machine, print_row
from serving import fronted, served

from victorian.recipes import RECIPES

WAYS = ("serve", "haproxy", "front")
A_SECOND = 70
QUIET_SECONDS = 10.0
BUSY = 0.3
"""Share of a core with which a thread is the network's."""

Spent = dict[tuple[int, int], tuple[float, str]]
"""Seconds of each thread so far, and whose it is."""


def spent() -> Spent:
    """Of every process that this one has begun."""
    found: Spent = {}
    for process in psutil.Process().children(recursive=True):
        try:
            command = " ".join(process.cmdline())
            for thread in process.threads():
                found[process.pid, thread.id] = thread.user_time + thread.system_time, _part(command)
        except psutil.Error:  # it has ended
            continue
    return found


def _part(command: str) -> str:
    parts = {"ServeReplica": "replica", "ProxyActor": "proxy", "HAProxyManager": "proxy", "haproxy": "proxy"}
    return next((part for word, part in parts.items() if word in command), "the rest")


def fill(url: str, trust: str | None) -> None:
    """Take every place, until the service ends."""
    body = {"prompt": "It", "max_tokens": 32_000, "min_tokens": 32_000, "n": 16}
    verify = ssl.create_default_context(cafile=trust) if trust else True
    try:
        httpx2.post(f"{url}/v1/completions", json=body, verify=verify, timeout=None)
    except httpx2.HTTPError:
        return


def ask(url: str, trust: str | None, count: int) -> list[float]:
    """Seconds until each of so many requests was refused."""

    async def crowd() -> list[float]:
        async with readers(url, trust) as http:

            async def one() -> float:
                began = time.monotonic()
                answer = await http.post("/v1/completions", json={"prompt": "It was", "max_tokens": 128})
                if answer.status_code != 429:
                    raise SystemExit(f"expected a refusal, got {answer.status_code}: {answer.text[:200]}")
                return time.monotonic() - began

            tasks = []
            for _ in range(count):
                tasks.append(asyncio.create_task(one()))
                await asyncio.sleep(1 / A_SECOND)
            return list(await asyncio.gather(*tasks))

    return asyncio.run(crowd())


def measure(way: str, count: int) -> tuple[dict[str, float], list[float]]:
    """Milliseconds of a processor for each refusal, by who spent them; seconds until refused."""
    os.environ["RAY_SERVE_ENABLE_HA_PROXY"] = str(int(way == "haproxy"))
    args = {
        "engine": {"max_running": 1, "max_waiting": 15, "threads": 1},
        "observe": {"probe_seconds": 600},  # a probe would take a place
    }
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(1) as filling, ExitStack() as held:
        service = held.enter_context(served(directory(folder, RECIPES["tiny"]), args))
        to = held.enter_context(fronted(service, 1)) if way == "front" else (service.url, None)
        filling.submit(fill, *to)
        time.sleep(2)
        before = spent()
        time.sleep(QUIET_SECONDS)
        quiet = spent()
        seconds = ask(*to, count)
        after = spent()
    costs: dict[str, float] = {}
    for thread, (now, part) in after.items():
        then = quiet.get(thread, (0.0, part))[0]
        usual = (then - before.get(thread, (0.0, part))[0]) / QUIET_SECONDS
        if usual < BUSY:
            costs[part] = costs.get(part, 0.0) + (now - then - usual * count / A_SECOND) / count * 1e3
    return costs, seconds


def main(ways: tuple[str, ...] = WAYS, refusals: int = 700) -> None:
    """Measure what refusals cost.

    Args:
        ways: serve, haproxy, front.
        refusals: Of each.
    """
    if unknown := [way for way in ways if way not in WAYS]:
        raise SystemExit(f"expected ways of {', '.join(WAYS)}, got {', '.join(unknown)}")
    print_machine()
    print_header("ms of a core a refusal", "proxy", "replica", "all of the service", "ms until refused, p50", "p95")
    for way in ways:
        costs, seconds = alone(measure, way, refusals)
        shares = statistics.quantiles(seconds, n=20)
        cells = [costs.get("proxy", 0.0), costs.get("replica", 0.0), sum(costs.values())]
        times = [1e3 * shares[9], 1e3 * shares[18]]
        print_row(way, *(f"{one:.2f}" for one in cells), *(f"{one:.1f}" for one in times))


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
