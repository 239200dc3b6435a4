"""A thousand clients that break off at every stage leave nothing behind."""

import asyncio
import gc
import json
import os
import random
from base64 import b64encode
from urllib.parse import urlsplit

import psutil
import pytest

from tests.running_service import Service, soon
from victorian.client import Client
from victorian.config import SamplingParameters

CLIENTS, AT_ONCE = 1000, 32
MARGIN_BYTES = 16 * 2**20
"""What may be more in this process afterwards: pools of the allocator, caches of a fixed size."""

STAGES = ("connected", "half a handshake", "handshake", "generating", "streaming", "garbage", "half a frame")


@pytest.mark.slow
def test_a_thousand_broken_clients_leave_nothing_behind(service: Service) -> None:
    assert soon(lambda: service.connections == 0, 10)
    tasks = service.tasks  # those of the server itself
    asyncio.run(break_off(service, 200))  # pools and caches fill
    files, memory = settled(service, tasks)
    asyncio.run(break_off(service, CLIENTS))
    files_after, memory_after = settled(service, tasks)
    assert files_after <= files
    assert memory_after - memory < MARGIN_BYTES
    with Client(service.url) as client:
        client.complete("It", SamplingParameters(max_tokens=2))


def settled(service: Service, tasks: int) -> tuple[int, int]:
    """Open files and bytes of the service's process, once nothing is under way and it has no more than these tasks."""
    assert service.idle()
    assert soon(lambda: (service.connections, service.tasks) == (0, tasks), 10)
    gc.collect()
    process = psutil.Process()
    return process.num_fds(), process.memory_info().rss


async def break_off(service: Service, clients: int) -> None:
    places = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> None:
        async with places:
            await vanish(service, STAGES[number % len(STAGES)], abruptly=number % 2 == 0)

    await asyncio.gather(*(one(number) for number in range(clients)))


async def vanish(service: Service, stage: str, abruptly: bool) -> None:
    """Go as far as the stage and then away, with or without TCP's goodbye."""
    address = urlsplit(service.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        if stage != "connected":
            await go_on(reader, writer, stage, address.netloc)
    finally:
        if abruptly:
            writer.transport.abort()
        else:
            writer.close()


async def go_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, stage: str, host: str) -> None:
    key = b64encode(os.urandom(16)).decode()
    head = f"GET /v1/stream HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    head += f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
    if stage == "half a handshake":
        writer.write(head[: len(head) // 2].encode())
        return await writer.drain()
    writer.write(head.encode())
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
    begin = frame(
        json.dumps(
            {"type": "generate", "id": "a", "prompt": "It", "parameters": {"max_tokens": 30_000, "min_tokens": 30_000}}
        )
    )
    match stage:
        case "generating":
            writer.write(begin)
        case "streaming":
            writer.write(begin)
            received = b""
            async with asyncio.timeout(10):  # at most eight generations are taken at once
                while b'"token"' not in received and b'"error"' not in received:
                    received += await reader.read(4096)
        case "garbage":
            writer.write(begin + os.urandom(random.randint(1, 500)))
        case "half a frame":
            writer.write(begin[:-10])
    return await writer.drain()


def frame(text: str) -> bytes:
    """A text frame as a client sends it, with a mask of zeros."""
    data = text.encode()
    assert len(data) < 126
    return bytes([0x81, 0x80 | len(data), 0, 0, 0, 0]) + data
