"""One generation as its client sees it: what its messages come to. Knows no network, and is not told how they came."""

import uuid
from time import monotonic

from pydantic import ValidationError

from victorian.client.failures import told_over_socket
from victorian.config import SamplingParameters, first_problem
from victorian.errors import ReplicaLostError, RequestError, ServiceError
from victorian.service.protocol import (
    PROTOCOL_VERSION,
    Cancel,
    Complete,
    Connected,
    ErrorMessage,
    Generate,
    ServerMessage,
    TokenMessage,
    server_message,
)

Prompt = str | list[int]
"""Text or token ids."""


class Generation:
    """What was asked for, and what has come of it.

    Attributes:
        request: what was asked for.
        timeout: seconds of silence that are borne once an answer has begun.
        begun: whether something has come; what has begun is never asked for again.
        connected: how the service greeted, where it did.
        complete: how the generation ended, once it has.
    """

    def __init__(self, request: Generate, timeout: float) -> None:
        self.request = request
        self.timeout = timeout
        self.begun = False
        self.connected: Connected | None = None
        self.complete: Complete | None = None
        self._pieces: list[str] = []
        self._heard = monotonic()

    @property
    def text(self) -> str:
        """What has come so far."""
        return "".join(self._pieces)

    @property
    def cancellation(self) -> Cancel:
        return Cancel(id=self.request.id)

    def read(self, data: str | bytes) -> ServerMessage:
        """What came over the socket, without fields of a later service; ServiceError if it is not of the protocol."""
        try:
            return server_message.validate_json(data, extra="ignore")
        except ValidationError as error:
            raise ServiceError("the service sent a message that is not of this protocol") from error

    def greet(self, message: ServerMessage) -> None:
        """Take the first message on a socket.

        Raises:
            OverloadedError: if the service has no room for another socket.
            ServiceError: if it speaks otherwise.
        """
        if isinstance(message, ErrorMessage):
            raise told_over_socket(message)
        if not isinstance(message, Connected):
            raise ServiceError(f"expected a greeting, got {message.type!r}; is it a Victorian service?")
        if message.protocol != PROTOCOL_VERSION:
            raise ServiceError(f"the service speaks version {message.protocol} of the protocol, not {PROTOCOL_VERSION}")
        self.connected = message
        self._heard = monotonic()

    def take(self, message: ServerMessage) -> TokenMessage | None:
        """Note a message; the token, if it is one.

        Raises:
            RequestError: if the service refuses the request; OverloadedError if it only has no room now.
            ServiceError: if it fails, or goes away.
        """
        self._heard = monotonic()
        match message:
            case TokenMessage():
                self.begun = True
                self._pieces.append(message.text)
                return message
            case Complete():
                self.complete = message
            case ErrorMessage():
                raise told_over_socket(message)
            case Connected():
                raise ServiceError("the service greeted twice; is it a Victorian service?")
        return None

    def silence(self) -> None:
        """Bear that nothing came: before the first token a request may wait in the queue for as long as it takes.

        Raises:
            ReplicaLostError: once that is too long.
        """
        if self.begun and monotonic() - self._heard >= self.timeout:
            raise self.lost(f"the service sent nothing for {self.timeout:g} seconds")

    def lost(self, why: object) -> ReplicaLostError:
        """What a connection that broke is told as."""
        return ReplicaLostError(f"the connection broke before the end of the text: {why}", self.text)


def ask(
    prompt: Prompt,
    parameters: SamplingParameters | None,
    model: str | None,
    alternatives: int | None,
    deadline_seconds: float | None,
) -> Generate:
    """The message that begins a generation; RequestError if what it should say cannot be said."""
    try:
        return Generate(
            id=uuid.uuid4().hex,
            model=model,
            prompt=prompt,
            parameters=parameters or SamplingParameters(),
            alternatives=alternatives,
            deadline_seconds=deadline_seconds,
        )
    except ValidationError as error:
        raise RequestError(first_problem(error), str(error.errors()[0]["loc"][0])) from error
