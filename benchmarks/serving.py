"""A service as an operator starts it, and readers who count: what the benchmarks of the service share.

The service is `serve run` with the shipped `serve_config.yaml`, in which some values are changed, in a cluster of its
own. Readers live in another process, on one event loop, and look at no more of a message than they have to.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import httpx2
import psutil
import trustme
import yaml
from websockets.asyncio.client import connect

from victorian.cluster.session import prepare_environment

ROOT = Path(__file__).parents[1]
START_SECONDS = 180
Way = Literal["sse", "websocket"]


@dataclass(frozen=True)
class Service:
    """One that answers."""

    url: str
    process: psutil.Process

    def replicas(self) -> list[psutil.Process]:
        """Of the deployment, as processes."""
        return [one for one in self.process.children(recursive=True) if "ServeReplica" in " ".join(one.cmdline())]

    def ready(self) -> bool:
        try:
            return httpx2.get(f"{self.url}/ready", timeout=5).status_code == 200
        except httpx2.HTTPError:
            return False


@contextmanager
def served(artifact: str, args: Mapping[str, Any], deployment: Mapping[str, Any] | None = None) -> Iterator[Service]:
    """A model directory, served under the name `model` for as long as the block.

    Args:
        args: what to change of the application's `args`, section by section.
        deployment: what to change of the deployment.
    """
    prepare_environment()
    config = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config["http_options"]["port"] = port
    application = config["applications"][0]
    for section, values in args.items():
        application["args"][section] = {**application["args"].get(section, {}), **values}
    application["deployments"][0] |= {"user_config": {"models": [{"artifact": artifact, "name": "model"}]}}
    application["deployments"][0] |= deployment or {}
    with tempfile.TemporaryDirectory() as folder, open(Path(folder) / "log", "w+") as log:
        file = Path(folder) / "serve_config.yaml"
        file.write_text(yaml.safe_dump(config))
        command = [str(Path(sys.executable).with_name("serve")), "run", str(file)]
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, env=dict(os.environ))
        service = Service(f"http://127.0.0.1:{port}", psutil.Process(process.pid))
        try:
            end = time.monotonic() + START_SECONDS
            while not service.ready():
                if process.poll() is not None or time.monotonic() > end:
                    log.seek(0)
                    raise SystemExit(f"the service did not start: {log.read()[-2000:]}")
                time.sleep(0.2)
            yield service
        finally:
            family = service.process.children(recursive=True)
            process.send_signal(signal.SIGINT)
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
            _, left = psutil.wait_procs(family, timeout=10)
            for one in left:
                one.kill()


@contextmanager
def fronted(service: Service, texts: int) -> Iterator[tuple[str, str]]:
    """The shipped front proxy before a service, with no limit but this one; its address, and who signed for it.

    Args:
        texts: that it lets in at once.
    """
    with tempfile.TemporaryDirectory() as folder, open(Path(folder) / "log", "w") as log:
        authority, certificate = trustme.CA(), Path(folder) / "certificate.pem"
        authority.cert_pem.write_to_path(str(Path(folder) / "authority.pem"))
        authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(certificate))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        settings = {
            "VICTORIAN_LISTEN": f"127.0.0.1:{port}",
            "VICTORIAN_CERTIFICATE": str(certificate),
            "VICTORIAN_SERVICE": service.url.removeprefix("http://"),
            "VICTORIAN_TEXTS": str(texts),
            "VICTORIAN_CONNECTIONS": "2000",
            "VICTORIAN_NEW_CONNECTIONS": "20000",
        }
        command = ["haproxy", "-db", "-f", str(ROOT / "deploy" / "haproxy.cfg")]
        process = subprocess.Popen(command, env=os.environ | settings, stdout=log, stderr=log)
        try:
            trust = str(Path(folder) / "authority.pem")
            with httpx2.Client(verify=ssl.create_default_context(cafile=trust)) as http:
                end = time.monotonic() + 20
                while not _answers(http, f"https://localhost:{port}/ready"):
                    if process.poll() is not None or time.monotonic() > end:
                        raise SystemExit(f"the front proxy did not start: {Path(log.name).read_text()[-2000:]}")
                    time.sleep(0.2)
            yield f"https://localhost:{port}", trust
        finally:
            process.terminate()
            process.wait(timeout=20)


def _answers(http: httpx2.Client, address: str) -> bool:
    try:
        return http.get(address).status_code == 200
    except httpx2.HTTPError:
        return False


@dataclass
class Reading:
    """What one reader saw."""

    asked: float
    """Seconds on this machine's monotonic clock, as all moments here."""
    moments: list[float] = field(default_factory=list)
    """When each token came; of a reader who was refused, when he heard of it."""
    ended: bool = False
    """Whether the text came to its end and was told so."""
    refused: int | None = None
    """HTTP's status, or 0 for a WebSocket's `error`, where there was no room."""


async def read_all(url: str, way: Way, bodies: Sequence[Mapping[str, Any]]) -> list[Reading]:
    """Several texts at once, as they come."""
    if way == "websocket":
        return list(await asyncio.gather(*(read_socket(url, body) for body in bodies)))
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(base_url=url, timeout=None, limits=limits) as http:
        return list(await asyncio.gather(*(read_events(http, body) for body in bodies)))


async def read_events(http: httpx2.AsyncClient, body: Mapping[str, Any]) -> Reading:
    """One text over server-sent events; whatever breaks it off leaves `ended` false."""
    reading = Reading(time.monotonic())
    with contextlib.suppress(httpx2.HTTPError):
        async with http.stream("POST", "/v1/completions", json={**body, "stream": True}) as answer:
            if answer.status_code != 200:
                reading.refused = answer.status_code
                reading.moments.append(time.monotonic())
                await answer.aread()  # as every client does, so that the connection is good for another request
                return reading
            left = b""
            async for some in answer.aiter_raw():
                *events, left = (left + some).split(b"\n\n")
                tokens = sum(b'"finish_reason":null' in event for event in events)
                reading.moments.extend([time.monotonic()] * tokens)
                reading.ended |= b"data: [DONE]" in events
    return reading


async def read_socket(url: str, body: Mapping[str, Any], reading: Reading | None = None) -> Reading:
    """The same over a WebSocket of its own; noted in `reading`, which somebody may look at meanwhile."""
    prompt = body["prompt"]
    parameters = {name: value for name, value in body.items() if name != "prompt"}
    message = json.dumps({"type": "generate", "id": "a", "prompt": prompt, "parameters": parameters})
    async with connect(f"ws{url.removeprefix('http')}/v1/stream", compression=None) as connection:
        await connection.recv()
        reading = reading or Reading(time.monotonic())
        await connection.send(message)
        async for said in connection:
            if '"type":"token"' in said:
                reading.moments.append(time.monotonic())
            else:
                reading.ended = '"type":"complete"' in said
                reading.refused = None if reading.ended else 0
                break
    return reading
