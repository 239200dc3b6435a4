"""What the clients have in common: where the service is, what is sent to it, and what its answers mean. No network."""

from ipaddress import ip_address
from typing import Literal
from urllib.parse import urlsplit

import httpx2
from pydantic import ValidationError

from victorian.client.failures import Retries, told_over_http
from victorian.client.generation import Generation, Prompt, ask
from victorian.config import SamplingParameters, client_key, service_url
from victorian.errors import AuthenticationError, ServiceError
from victorian.service.protocol import ModelList, Tokenized

Way = Literal["websocket", "sse"]


class ServiceClient:
    """A service at an address; by default VICTORIAN_URL, else this machine's port 8000."""

    def __init__(
        self,
        url: str | None = None,
        timeout: float = 60.0,
        *,
        key: str | None = None,
        retries: int = 2,
        transport: Way = "websocket",
    ) -> None:
        """A client for the service at `url`.

        Args:
            timeout: seconds of silence that are borne once an answer has begun; over server-sent events also before.
            key: API key that is sent with every request; by default VICTORIAN_API_KEY, if that is set.
            retries: how often something is tried again that was refused for want of room, reached nobody, or was lost
                with a replica before anything of the answer had come. What has begun to answer is never asked again.
            transport: how generations come. Alternatives and ticks need the WebSocket.

        Raises:
            ServiceError: if `url` is not an address.
            AuthenticationError: if no key can be `key`.
        """
        self.url = (url or service_url()).rstrip("/")
        if any(mark in self.url for mark in "@?#"):  # and it is not shown: a secret would end in somebody's log
            raise ServiceError("expected an address without a name, password, query or #: a key goes into `key`")
        try:
            parts = urlsplit(self.url)
            usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            usable = False
        if not usable:
            raise ServiceError(f"expected an address like http://127.0.0.1:8000, got {self.url!r}")
        if parts.path.endswith("/v1"):  # what clients of OpenAI are given
            raise ServiceError(f"expected the service's address without the /v1 behind it, got {self.url!r}")
        self._direct = _on_this_machine(parts.hostname or "")
        """Whether the environment's proxy is passed by: it would look for the service on its own machine."""
        self._authorization = _authorization(key or client_key())
        self._timeout = timeout
        self._retries = retries
        self._way = transport

    @property
    def _socket_url(self) -> str:
        return "ws" + self.url[len("http") :] + "/v1/stream"  # http or HTTP

    def _headers(self) -> dict[str, str]:
        """What goes with every request, whichever way."""
        return {"User-Agent": "victorian"} | self._authorization

    def _patience(self) -> Retries:
        return Retries(self._retries)

    def _generation(
        self,
        prompt: Prompt,
        parameters: SamplingParameters | None,
        model: str | None,
        alternatives: int | None,
        deadline_seconds: float | None,
    ) -> Generation:
        return Generation(ask(prompt, parameters, model, alternatives, deadline_seconds), self._timeout)

    def _answered(self, answer: httpx2.Response) -> bytes:
        """The body of an answer that is none of an error."""
        if answer.status_code != 200:
            raise told_over_http(answer.status_code, answer.content, answer.headers.get("Retry-After"))
        return answer.content

    def _tokenize_body(self, prompt: str, model: str | None) -> dict[str, str]:
        return {"prompt": prompt} | ({"model": model} if model else {})

    def _names(self, body: bytes) -> list[str]:
        try:
            return [card.id for card in ModelList.model_validate_json(body, extra="ignore").data]
        except ValidationError as error:
            raise ServiceError(
                f"{self.url} answered, but with no list of models; is it a Victorian service?"
            ) from error

    def _tokens(self, body: bytes) -> Tokenized:
        try:
            return Tokenized.model_validate_json(body, extra="ignore")
        except ValidationError as error:
            raise ServiceError(f"{self.url} answered, but with no tokens; is it a Victorian service?") from error


def _on_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _authorization(key: str | None) -> dict[str, str]:
    """The header that carries a key, or none; AuthenticationError where a key would break it."""
    if key is None:
        return {}
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise AuthenticationError("the API key holds characters that no key has: is it whole, and nothing but the key?")
    return {"Authorization": f"Bearer {key}"}
