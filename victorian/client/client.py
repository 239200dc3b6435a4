"""The Python client: streams a generation over the WebSocket or as server-sent events, and asks about the service.

with Client() as client:
    for piece in client.stream("It was a dark night"):
        print(piece, end="")
"""

import threading
import time
from functools import cached_property
from typing import Any, Self

import httpx2

from victorian.client.failures import unanswered
from victorian.client.generation import Generation, Prompt
from victorian.client.service import ServiceClient, Way
from victorian.client.streams import Answer, Stream
from victorian.client.transports import EventsTransport, SocketTransport, Transport
from victorian.config import SamplingParameters
from victorian.errors import VictorianError
from victorian.service.protocol import Tokenized


class Client(ServiceClient):
    """A service at an address, for callers that wait, on any threads. Use as a context manager, or call `close`."""

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
        self._streams: list[Stream] = []
        self._noting = threading.Lock()

    def stream(
        self,
        prompt: Prompt,
        parameters: SamplingParameters | None = None,
        tick: float | None = None,
        *,
        model: str | None = None,
        alternatives: int | None = None,
        deadline_seconds: float | None = None,
    ) -> Stream:
        """Begin a generation.

        Args:
            tick: seconds after which an empty piece is given where no text has come, so that a caller can look up.
            model: its name; by default the service's first.
            alternatives: how many of the likeliest tokens come with each; with 0 only its own probability does.
            deadline_seconds: what it may take, waiting included.

        Raises:
            RequestError: if the prompt cannot be sent.
            ServiceError: if no service answers.
        """
        generation = self._generation(prompt, parameters, model, alternatives, deadline_seconds)
        stream = Stream(self._open, generation, self._patience(), tick)
        with self._noting:  # two threads that note theirs at once would note one, and `close` forget the other
            self._streams = [open for open in self._streams if not open.closed] + [stream]
        return stream

    def complete(
        self,
        prompt: Prompt,
        parameters: SamplingParameters | None = None,
        *,
        model: str | None = None,
        deadline_seconds: float | None = None,
    ) -> Answer:
        """The whole of a generation; raises as iterating over a stream does."""
        with self.stream(prompt, parameters, model=model, deadline_seconds=deadline_seconds) as stream:
            for _ in stream:
                pass
            return stream._answer()

    def models(self) -> list[str]:
        """Names of the models that are served; ServiceError if no service answers."""
        return self._names(self._ask("GET", "/v1/models"))

    def tokenize(self, prompt: str, model: str | None = None) -> Tokenized:
        """A text as token ids.

        Raises:
            RequestError: if the service refuses it.
            ServiceError: if no service answers.
        """
        return self._tokens(self._ask("POST", "/v1/tokenize", self._tokenize_body(prompt, model)))

    def ready(self) -> bool:
        """Whether the service can generate now."""
        try:
            return self._http.get("/ready", headers=self._headers()).status_code == 200
        except httpx2.HTTPError:
            return False

    def close(self) -> None:
        """End what is under way, and the connections."""
        for stream in self._streams:
            stream.close()
        if "_http" in self.__dict__:
            self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @cached_property
    def _http(self) -> httpx2.Client:
        """Made when it is wanted: a tenth of a second that a stream over the WebSocket need not wait for."""
        direct = httpx2.HTTPTransport() if self._direct else None
        return httpx2.Client(base_url=self.url, timeout=self._timeout, transport=direct)

    def _open(self, generation: Generation) -> Transport:
        if self._way == "sse":
            return EventsTransport(self._http, self._headers(), generation)
        return SocketTransport(self._socket_url, self._headers(), generation, self._direct)

    def _ask(self, method: str, path: str, body: Any = None) -> bytes:
        retries = self._patience()
        while True:
            try:
                try:
                    return self._answered(self._http.request(method, path, json=body, headers=self._headers()))
                except httpx2.HTTPError as error:
                    raise unanswered(self.url, error) from error
            except VictorianError as error:
                time.sleep(retries.pause(error))
