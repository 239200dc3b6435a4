"""Server-sent events of the completions API, read as what the WebSocket would have said. Knows no network."""

import secrets
from time import monotonic
from typing import Any, Literal

from pydantic import ValidationError

from victorian.client.failures import told_in_stream
from victorian.errors import RequestError, ServiceError
from victorian.service.protocol import (
    Complete,
    Completion,
    Generate,
    ServerMessage,
    SocketUsage,
    Timings,
    TokenMessage,
)


class Events:
    """Server-sent events of the completions API, as the messages that the socket would have sent."""

    def __init__(self, request: Generate) -> None:
        """For a request that asks for no more than text.

        Raises:
            RequestError: if it asks for alternatives.
        """
        if request.alternatives is not None:
            raise RequestError("alternatives come over the WebSocket: take that transport", "alternatives")
        seed = request.parameters.seed
        self._seed = secrets.randbits(63) if seed is None else seed  # drawn here, because the events do not tell it
        self._request = request
        self._begun = monotonic()
        self._first: float | None = None
        self._tokens = 0
        self._reason: Literal["stop", "length"] = "stop"
        self._usage: SocketUsage | None = None

    def body(self) -> dict[str, Any]:
        """What is posted."""
        said = self._request.model_dump(mode="json", include={"model", "prompt", "deadline_seconds"}, exclude_none=True)
        parameters = self._request.parameters.model_dump(mode="json", exclude_none=True)
        return {
            **parameters,
            **said,
            "seed": self._seed,
            "stream": True,
            "stream_options": {"include_usage": True},
        }

    def read(self, data: str) -> ServerMessage | None:
        """The message that an event stands for, if there is one.

        Raises:
            VictorianError: if it tells of one.
        """
        if data == "[DONE]":
            return self._complete()
        try:
            chunk = Completion.model_validate_json(data, extra="ignore")
        except ValidationError as error:
            raise told_in_stream(data) from error
        if chunk.usage:
            spent = chunk.usage
            self._usage = SocketUsage(
                prompt_tokens=spent.prompt_tokens,
                completion_tokens=spent.completion_tokens,
                total_tokens=spent.total_tokens,
            )
        for choice in chunk.choices:
            if choice.finish_reason is not None:
                self._reason = "length" if choice.finish_reason == "length" else "stop"
                if not choice.text:
                    continue
            self._first = self._first or monotonic()
            self._tokens += 1
            return TokenMessage(id=self._request.id, index=self._tokens - 1, text=choice.text)
        return None

    def _complete(self) -> Complete:
        if self._usage is None:
            raise ServiceError("the service ended without its usage; is it a Victorian service?")
        now = monotonic()
        first = self._first or now
        return Complete(
            id=self._request.id,
            reason=self._reason,
            usage=self._usage,
            seed=self._seed,
            timings=Timings(
                first_token_seconds=first - self._begun if self._first else 0.0,
                seconds=now - self._begun,
                tokens_per_second=(self._tokens - 1) / (now - first) if self._tokens > 1 and now > first else 0.0,
            ),
        )
