"""Who is asking: the id of a request, and the trace that it belongs to, from its headers to all that is said of it.

Pure ASGI, so nothing is buffered. The id comes back on every answer, errors included, and in a WebSocket's handshake.
"""

import contextvars
import logging
import re
import uuid
from dataclasses import dataclass, field

from fastapi import FastAPI
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import Message, Receive, Scope, Send

from victorian.errors import ServiceError
from victorian.service.logs import REFUSED, fields
from victorian.service.outbox import StalledError, let_abort, within

logger = logging.getLogger(__name__)

ID_HEADER = "X-Request-Id"
SANE_ID = re.compile(r"[A-Za-z0-9_.-]{1,128}")
TRACE_HEADERS = ("traceparent", "tracestate")


@dataclass
class Incoming:
    """One HTTP request, or one WebSocket."""

    request_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    trace: dict[str, str] = field(default_factory=dict)
    """The caller's, as W3C's headers tell it; see https://www.w3.org/TR/trace-context/."""
    told: bool = False
    """Whether the log knows already how it went."""
    refusal: dict[str, object] = field(default_factory=dict)
    """What else the log is to know, if this or a message of it was refused."""


_current: contextvars.ContextVar[Incoming | None] = contextvars.ContextVar("incoming", default=None)


def incoming() -> Incoming:
    """What is being answered; outside of any request something of no account."""
    return _current.get() or Incoming()


class Application(FastAPI):
    """A FastAPI application that says which request it answers.

    It wraps the application and is no middleware in it, because the answer to an error that nobody expected is written
    around all of those.
    """

    answers_carry_id: bool = True
    """Over HTTP. Ray Serve's proxy adds the same header to every answer, and one is enough."""
    send_seconds: float = 30.0
    """How long an HTTP client may take nothing of its answer before it is cut off."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await super().__call__(scope, receive, send)
        asking = _read(Headers(scope=scope))
        _current.set(asking)
        let_abort(scope, send)
        if scope["type"] == "http":
            send = within(self.send_seconds, scope, send)

        async def identify(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.accept", "websocket.http.response.start"):
                if self.answers_carry_id or message["type"] == "websocket.accept":
                    message.setdefault("headers", [])
                    MutableHeaders(scope=message)[ID_HEADER] = asking.request_id
                if message.get("status", 0) >= 400 and not asking.told:
                    what = {
                        "request_id": asking.request_id,
                        "path": scope["path"][:200],
                        "http_status": message["status"],
                    }
                    logger.warning("request refused", extra=fields(status=REFUSED, **what, **asking.refusal))
            await send(message)

        try:
            return await super().__call__(scope, receive, identify)
        except StalledError as error:
            logger.warning(str(error), extra=fields(request_id=asking.request_id))
        except Exception as error:
            logger.exception("request met an error of ours", extra=fields(request_id=asking.request_id))
            # Whoever runs us prints what he gets, and an error's message may quote the request.
            message = f"request {asking.request_id} met a {type(error).__name__}, which stands in the log"
            raise ServiceError(message) from None


def _read(headers: Headers) -> Incoming:
    asked = headers.get(ID_HEADER, "")
    trace = {name: headers[name] for name in TRACE_HEADERS if name in headers}
    return Incoming(asked, trace) if SANE_ID.fullmatch(asked) else Incoming(trace=trace)
