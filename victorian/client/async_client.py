"""The Python client for callers with an event loop.

async with AsyncClient() as client:
    async for piece in await client.stream("It was a dark night"):
        print(piece, end="")
"""

import asyncio
from typing import Any, Self

import httpx2

from victorian.client.failures import unanswered
from victorian.client.generation import Generation, Prompt
from victorian.client.service import ServiceClient, Way
from victorian.client.streams import Answer, AsyncStream
from victorian.client.transports import AsyncEventsTransport, AsyncSocketTransport, AsyncTransport
from victorian.config import SamplingParameters
from victorian.errors import VictorianError
from victorian.service.protocol import Tokenized


class AsyncClient(ServiceClient):
    """A service at an address, on one event loop. Use as a context manager, or call `aclose`."""

    def __init__(
        self,
        url: str | None = None,
        timeout: float = 60.0,
        *,
        key: str | None = None,
        retries: int = 2,
        transport: Way = "websocket",
    ) -> None:
        super().__init__(url, timeout, key=key, retries=retries, transport=transport)
        direct = httpx2.AsyncHTTPTransport() if self._direct else None
        self._http = httpx2.AsyncClient(base_url=self.url, timeout=timeout, transport=direct)
        self._streams: list[AsyncStream] = []

    async def stream(
        self,
        prompt: Prompt,
        parameters: SamplingParameters | None = None,
        tick: float | None = None,
        *,
        model: str | None = None,
        alternatives: int | None = None,
        deadline_seconds: float | None = None,
    ) -> AsyncStream:
        """As `Client.stream`."""
        generation = self._generation(prompt, parameters, model, alternatives, deadline_seconds)
        stream = await AsyncStream(self._open, generation, self._patience(), tick).begin()
        self._streams = [open for open in self._streams if not open.closed] + [stream]
        return stream

    async def complete(
        self,
        prompt: Prompt,
        parameters: SamplingParameters | None = None,
        *,
        model: str | None = None,
        deadline_seconds: float | None = None,
    ) -> Answer:
        """As `Client.complete`."""
        async with await self.stream(prompt, parameters, model=model, deadline_seconds=deadline_seconds) as stream:
            async for _ in stream:
                pass
            return stream._answer()

    async def models(self) -> list[str]:
        """As `Client.models`."""
        return self._names(await self._ask("GET", "/v1/models"))

    async def tokenize(self, prompt: str, model: str | None = None) -> Tokenized:
        """As `Client.tokenize`."""
        return self._tokens(await self._ask("POST", "/v1/tokenize", self._tokenize_body(prompt, model)))

    async def ready(self) -> bool:
        """As `Client.ready`."""
        try:
            return (await self._http.get("/ready", headers=self._headers())).status_code == 200
        except httpx2.HTTPError:
            return False

    async def aclose(self) -> None:
        """End what is under way, and the connections."""
        for stream in self._streams:
            await stream.aclose()
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()

    async def _open(self, generation: Generation) -> AsyncTransport:
        if self._way == "sse":
            return await AsyncEventsTransport.open(self._http, self._headers(), generation)
        return await AsyncSocketTransport.open(self._socket_url, self._headers(), generation, self._direct)

    async def _ask(self, method: str, path: str, body: Any = None) -> bytes:
        retries = self._patience()
        while True:
            try:
                try:
                    return self._answered(await self._http.request(method, path, json=body, headers=self._headers()))
                except httpx2.HTTPError as error:
                    raise unanswered(self.url, error) from error
            except VictorianError as error:
                await asyncio.sleep(retries.pause(error))
