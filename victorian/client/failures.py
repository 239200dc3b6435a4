"""What a service says went wrong, as exceptions, and which of it may be tried again. Opens no connection."""

import math
import random

import httpx2
from pydantic import ValidationError

from victorian.errors import (
    AuthenticationError,
    OverloadedError,
    ReplicaLostError,
    RequestError,
    ServiceError,
    VictorianError,
)
from victorian.service.protocol import ErrorBody, ErrorMessage

FIRST_PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 10.0
"""A service that asks for more patience than this is not waited for: the caller hears of it."""


def unreachable(url: str, error: Exception) -> ServiceError:
    """Nobody listens there, or nobody who speaks our language."""
    return ServiceError(f"no service answers at {url}: {error or 'timed out'}; is it running?", "unreachable")


def unanswered(url: str, error: httpx2.HTTPError) -> ServiceError:
    """Why HTTP has no answer; one that is only slow is not asked again."""
    if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout):
        return unreachable(url, error)
    if isinstance(error, httpx2.NetworkError | httpx2.RemoteProtocolError):
        return ReplicaLostError(f"{url} broke off before it answered: {str(error) or type(error).__name__}")
    return ServiceError(f"{url} did not answer: {str(error) or type(error).__name__}")


def told_over_socket(message: ErrorMessage) -> VictorianError:
    """The exception that an error message stands for."""
    return _told(message.code, message.message, message.param, message.retry_after_seconds)


def told_over_http(status: int, body: bytes, retry_after: str | None) -> VictorianError:
    """The exception that an HTTP answer stands for."""
    try:
        detail = ErrorBody.model_validate_json(body, extra="ignore").error
        message, param, code = detail.message, detail.param, detail.code
    except ValidationError:
        return _told_by_a_proxy(status, f"HTTP {status}: {body[:200].decode(errors='replace')}".removesuffix(": "))
    if status in (401, 403):
        return AuthenticationError(message, param, code)
    if status == 429 or code == "overloaded":
        return OverloadedError(message, param, code, _seconds(retry_after))
    if status < 500:
        return RequestError(message, param, code)
    return ServiceError(
        message, code or ("shutting_down" if status == 503 else "internal_error"), _seconds(retry_after)
    )


def _told_by_a_proxy(status: int, message: str) -> VictorianError:
    """What something between us and the service says, which says it without an error object."""
    match status:
        case 301 | 302 | 303 | 307 | 308:
            return ServiceError(f"{message}: this address only points to another, perhaps of https; give that one")
        case 401 | 403:
            return AuthenticationError(message)
        case 404:  # Serve's word while an application is not there, or not yet
            return ServiceError(f"no service is at this path: {message}", "unreachable")
        case 429:
            return OverloadedError(message)
        case 503:
            return ServiceError(message, "shutting_down")
    # Serve answers 500 for a replica that died before it had answered.
    return RequestError(message) if status < 500 else ReplicaLostError(message)


def told_in_stream(data: str) -> VictorianError:
    """The exception that a server-sent event stands for which is no piece of an answer."""
    try:
        detail = ErrorBody.model_validate_json(data, extra="ignore").error
    except ValidationError:
        return ServiceError("the service sent an event that is not of the completions API")
    return _told(detail.code or "internal_error", detail.message, detail.param, None)


def _told(code: str, message: str, param: str | None, retry_after: float | None) -> VictorianError:
    match code:
        case "overloaded" | "rate_limited":
            return OverloadedError(message, param, code, retry_after)
        case "unauthorized":
            return AuthenticationError(message, param, code)
        case "invalid_request" | "invalid_message" | "model_not_found":
            return RequestError(message, param, code)
    return ServiceError(message, code, retry_after)


def _seconds(retry_after: str | None) -> float | None:
    try:
        seconds = float(retry_after or "")
    except ValueError:  # a date, which no service of ours sends
        return None
    return seconds if 0 <= seconds < math.inf else None


class Retries:
    """How often, and after which pauses, something is tried again that was refused, reached nobody, or met its end.

    Whoever has had a part of an answer does not ask here.
    """

    def __init__(self, most: int) -> None:
        self._left = most
        self._pause = FIRST_PAUSE_SECONDS

    def pause(self, error: VictorianError) -> float:
        """Seconds until the next try: twice as many each time, a part of it by chance, and no less than was asked for.

        Raises:
            VictorianError: this one, if it would come again, or if it has come too often.
        """
        transient = isinstance(error, OverloadedError) or (
            isinstance(error, ServiceError)
            and error.code in ("unreachable", "shutting_down", "not_ready", "replica_lost")
        )
        asked = error.retry_after_seconds or 0.0 if isinstance(error, OverloadedError | ServiceError) else 0.0
        if not transient or not self._left or asked > LONGEST_PAUSE_SECONDS:
            raise error
        self._left -= 1
        pause = self._pause * random.uniform(0.5, 1.0)
        self._pause = min(self._pause * 2, LONGEST_PAUSE_SECONDS)
        return max(pause, asked)
