"""The Python client: streams a generation over the WebSocket, and asks about the service over HTTP.

with Client() as client:
    for piece in client.stream("It was a dark night"):
        print(piece, end="")
"""

import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from time import monotonic
from types import TracebackType
from urllib.parse import urlsplit

import httpx2
import websockets.exceptions
import websockets.sync.client
from pydantic import ValidationError

from victorian.config import SamplingParameters, client_key, first_problem, service_url
from victorian.errors import AuthenticationError, OverloadedError, RequestError, ServiceError
from victorian.service.protocol import (
    Cancel,
    Complete,
    Connected,
    ErrorBody,
    ErrorMessage,
    Generate,
    ModelList,
    ServerMessage,
    TokenMessage,
    server_message,
)

OPEN_SECONDS = 10.0
CLOSE_SECONDS = 1.0
"""A service that is still sending hears of a close only when its messages are read: do not wait for its goodbye."""


class Stream:
    """One generation under way: iterate over it for pieces of text as they come.

    Leaving the iteration ends the generation, and so does `close`, which a stream that is never read needs.

    Attributes:
        complete: how it ended, once it has; None while it runs and after an error.
        closed: whether the connection has been left.
    """

    def __init__(
        self,
        url: str,
        prompt: str,
        parameters: SamplingParameters,
        timeout: float,
        tick: float | None,
        headers: dict[str, str] | None = None,
    ) -> None:
        self.complete: Complete | None = None
        self.closed = False
        self._timeout = timeout
        self._tick = tick
        self._id = uuid.uuid4().hex
        try:
            message = Generate(id=self._id, prompt=prompt, parameters=parameters)
        except ValidationError as error:
            raise RequestError(first_problem(error), "prompt") from error
        self._open = ExitStack()
        try:
            # Prompts and texts are small; compressing a message a token costs more than it saves.
            connecting = websockets.sync.client.connect(
                url,
                open_timeout=OPEN_SECONDS,
                close_timeout=CLOSE_SECONDS,
                compression=None,
                additional_headers=headers,
            )
            self._socket = self._open.enter_context(connecting)
        except (OSError, ValueError, websockets.exceptions.WebSocketException) as error:
            raise ServiceError(f"no service answers at {url}: {error or 'timed out'}; is it running?") from error
        try:
            self.connected = self._expect_connected()
            self._socket.send(message.model_dump_json())
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Iterator[str]:
        """Pieces of text, and with a tick an empty one whenever nothing came for that long.

        Raises:
            RequestError: if the service refuses the request; OverloadedError if it only has no room now.
            ServiceError: if the connection breaks before the end: what came so far is not the whole.
        """
        try:
            began = False  # before the first token a request may wait in the queue for as long as it takes
            silent_since = monotonic()
            while True:
                try:
                    message = self._receive(self._tick or self._timeout)
                except TimeoutError as error:
                    if began and monotonic() - silent_since >= self._timeout:
                        raise ServiceError(f"the service sent nothing for {self._timeout:g} seconds") from error
                    if self._tick:
                        yield ""
                    continue
                silent_since = monotonic()
                match message:
                    case TokenMessage() as token:
                        began = True
                        if token.text:
                            yield token.text
                    case Complete() as complete:
                        self.complete = complete
                        return
                    case ErrorMessage() as refusal:
                        raise _error(refusal)
                    case Connected():
                        raise ServiceError("the service greeted twice; is it a Victorian service?")
        finally:
            self.close()

    def cancel(self) -> None:
        """Ask for an early end: the iteration ends soon, with the reason `cancelled`. Can be called from any thread."""
        try:
            self._socket.send(Cancel(id=self._id).model_dump_json())
        except websockets.exceptions.ConnectionClosed:
            return

    def close(self) -> None:
        """Leave; the service stops generating."""
        self.closed = True
        self._open.close()

    def _expect_connected(self) -> Connected:
        try:
            message = self._receive(self._timeout)
        except TimeoutError as error:
            raise ServiceError(f"the service sent no greeting for {self._timeout:g} seconds") from error
        if isinstance(message, ErrorMessage):
            raise _error(message)
        if not isinstance(message, Connected):
            raise ServiceError(f"expected a greeting, got {message.type!r}; is it a Victorian service?")
        return message

    def _receive(self, seconds: float) -> ServerMessage:
        """The next message; TimeoutError if none comes in time."""
        try:
            return server_message.validate_json(self._socket.recv(seconds))
        except websockets.exceptions.ConnectionClosed as error:
            raise ServiceError(f"the connection broke before the end of the text: {error}") from error
        except ValidationError as error:
            raise ServiceError("the service sent a message that is not of this protocol") from error


class Client:
    """A service at an address; by default VICTORIAN_URL, else this machine's port 8000."""

    def __init__(self, url: str | None = None, timeout: float = 60.0, key: str | None = None) -> None:
        """A client for the service at `url`.

        Args:
            timeout: seconds of silence that are borne once an answer has begun.
            key: API key that is sent with every request; by default VICTORIAN_API_KEY, if that is set.

        Raises:
            ServiceError: if `url` is not an address.
            AuthenticationError: if no key can be `key`.
        """
        self.url = (url or service_url()).rstrip("/")
        try:
            parts = urlsplit(self.url)
            usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            usable = False
        if not usable:
            raise ServiceError(f"expected an address like http://127.0.0.1:8000, got {self.url!r}")
        self._timeout = timeout
        self._headers = _authorization(key or client_key())
        self._http = httpx2.Client(base_url=self.url, timeout=timeout, headers=self._headers)
        self._streams: list[Stream] = []

    def stream(self, prompt: str, parameters: SamplingParameters | None = None, tick: float | None = None) -> Stream:
        """Begin a generation.

        Args:
            tick: seconds after which an empty piece is given where no text has come, so that a caller can look up.

        Raises:
            RequestError: if the prompt cannot be sent.
            ServiceError: if no service answers.
        """
        address = "ws" + self.url.removeprefix("http") + "/v1/stream"
        stream = Stream(address, prompt, parameters or SamplingParameters(), self._timeout, tick, self._headers)
        self._streams = [open for open in self._streams if not open.closed] + [stream]
        return stream

    def models(self) -> list[str]:
        """Names of the models that are served.

        Raises:
            AuthenticationError: if the service wants another key; OverloadedError if this one has used up its minute.
            ServiceError: if no service answers.
        """
        try:
            answer = self._http.get("/v1/models")
            if answer.status_code in (401, 403, 429):
                message = ErrorBody.model_validate_json(answer.content).error.message
                raise OverloadedError(message) if answer.status_code == 429 else AuthenticationError(message)
            answer.raise_for_status()
            return [card.id for card in ModelList.model_validate_json(answer.content).data]
        except (httpx2.HTTPError, ValidationError) as error:
            raise ServiceError(f"no service answers at {self.url}: {error}") from error

    def ready(self) -> bool:
        """Whether the service can generate now."""
        try:
            return self._http.get("/ready").status_code == 200
        except httpx2.HTTPError:
            return False

    def close(self) -> None:
        """End what is under way, and the connections."""
        for stream in self._streams:
            stream.close()
        self._http.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _authorization(key: str | None) -> dict[str, str]:
    """The header that carries a key, or none; AuthenticationError where a key would break it."""
    if key is None:
        return {}
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise AuthenticationError("the API key holds characters that no key has: is it whole, and nothing but the key?")
    return {"Authorization": f"Bearer {key}"}


def _error(message: ErrorMessage) -> Exception:
    match message.code:
        case "unauthorized":
            return AuthenticationError(message.message)
        case "overloaded" | "rate_limit":
            return OverloadedError(message.message)
        case "invalid_request" | "invalid_message":
            return RequestError(message.message)
        case "internal_error":
            return ServiceError(message.message)
