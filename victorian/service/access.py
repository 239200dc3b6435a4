"""The doors: what stands between a network and every route. Whoever is let in is named in `scope["state"]["caller"]`.

All is closed but what PUBLIC names, so a route that is added is guarded before anyone thinks of it. Plain ASGI, which
looks at how a request begins and hands everything else on as it comes: streams are not buffered.
"""

import contextlib
import logging
from collections import Counter
from collections.abc import Callable
from urllib.parse import urlsplit

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as AsgiScope
from starlette.websockets import WebSocket, WebSocketDisconnect

from victorian.config import AccessConfig
from victorian.errors import AuthenticationError, OverloadedError
from victorian.service.callers import ANYONE, Caller, Quota
from victorian.service.incoming import incoming
from victorian.service.keys import Key, Keyring, Scope
from victorian.service.logs import REFUSED, fields
from victorian.service.protocol import MAX_HEADER_BYTES, CloseCode, error_body
from victorian.service.socket_messages import refusal

logger = logging.getLogger(__name__)

PUBLIC = frozenset({"/", "/health", "/ready"})
"""What load balancers and browsers ask for before there is a key. Exact paths: nothing below them is open."""
ADMIN = ("/metrics", "/admin")
"""These and all below them want the scope `admin`, everything else `generate`."""

SUBPROTOCOL, BEARER = "victorian", "bearer."

Refuse = Callable[[Exception], None]
"""Is told of everybody who is not let in, by what that would have raised further in."""


def guard(app: FastAPI, config: AccessConfig, keyring: Keyring, refuse: Refuse) -> None:
    """Put the doors in front of an application."""
    app.add_middleware(Access, config=config, keyring=keyring, refuse=refuse)
    if config.origins:  # outermost: a page may read a refusal too, and its preflight carries no key
        app.add_middleware(
            CORSMiddleware,
            allow_origins=config.origins,
            allow_methods=("GET", "POST", "DELETE"),
            allow_headers=("*",),
            expose_headers=("*",),
        )


def scope_for(path: str) -> Scope | None:
    """What a key must be good for to reach a path; None where no key is needed."""
    if path in PUBLIC:
        return None
    return "admin" if any(path == one or path.startswith(f"{one}/") for one in ADMIN) else "generate"


class Access:
    """The middleware."""

    def __init__(self, app: ASGIApp, config: AccessConfig, keyring: Keyring, refuse: Refuse) -> None:
        self._app = app
        self._refuse = refuse
        self._config = config
        self._keyring = keyring
        self._quota = Quota(config)
        self._sockets: Counter[str] = Counter()
        """Open WebSockets of each caller."""

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        match scope["type"]:
            case "http":
                await self._http(scope, receive, send)
            case "websocket":
                await self._websocket(scope, receive, send)
            case _:
                await self._app(scope, receive, send)

    async def _http(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        needed = scope_for(_path(scope))
        key = self._key(_bearer(headers))
        if not scope["path"].isprintable():
            # A route's pattern ends before a last newline too: that path would reach it and be judged as another here.
            answer: ASGIApp = _refused(404, "no path here holds characters that cannot be printed", "not_found")
        elif _header_bytes(scope) > MAX_HEADER_BYTES:
            message = f"the request's headers have more than {MAX_HEADER_BYTES} bytes"
            answer = _refused(431, message, "headers_too_large", {"Connection": "close"})
        elif needed is None:
            answer = self._app
        elif not self._own_or_allowed(headers):
            answer = self._unauthorized(403, _foreign(headers), "origin_not_allowed")
        elif key is None:
            answer = self._unauthorized(401, _UNKNOWN_KEY, "invalid_api_key", {"WWW-Authenticate": "Bearer"})
        elif needed not in key.scopes:
            answer = self._unauthorized(403, _out_of_scope(needed), "missing_scope")
        else:
            answer = self._app
            caller = self._introduce(scope, key)
            send = _adding(send, caller.headers)
            if spent := await self._quota.spend(key.name):
                caller.headers.extend(spent.headers)
                if not spent.allowed:
                    self._refuse(OverloadedError(spent.refusal, code="rate_limited"))
                    retry = {"Retry-After": str(spent.retry_after)}
                    answer = _refused(429, spent.refusal, "rate_limit_exceeded", retry, "rate_limit_error")
        await answer(scope, receive, send)

    async def _websocket(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """A foreign page's handshake is refused. Everybody else is let in to be told why they are not.

        A browser shows a page nothing of a handshake that was refused, neither its status nor its body.
        """
        headers = Headers(scope=scope)
        needed = scope_for(_path(scope))
        key = self._key(_bearer(headers) or _bearer_among(scope))
        if SUBPROTOCOL in scope.get("subprotocols", ()):
            send = _choosing(send, SUBPROTOCOL)
        socket = WebSocket(scope, receive, send)
        sane = scope["path"].isprintable() and _header_bytes(scope) <= MAX_HEADER_BYTES
        if not sane:
            await socket.close(CloseCode.POLICY_VIOLATION)
        elif not self._own_or_allowed(headers):
            self._refuse(AuthenticationError(_foreign(headers)))
            await socket.close(CloseCode.POLICY_VIOLATION)
        elif key is None:
            await self._turn_away(socket, AuthenticationError(_UNKNOWN_KEY))
        elif needed is not None and needed not in key.scopes:
            await self._turn_away(socket, AuthenticationError(_out_of_scope(needed)))
        elif (most := self._crowded(key)) is not None:
            await self._turn_away(socket, OverloadedError(f"{most}: try again in a moment"))
        else:
            self._introduce(scope, key)
            self._sockets[key.name] += 1
            try:
                await self._app(scope, receive, send)
            finally:
                self._sockets[key.name] -= 1

    def _unauthorized(
        self, status: int, message: str, code: str, headers: dict[str, str] | None = None
    ) -> JSONResponse:
        self._refuse(AuthenticationError(message))
        return _refused(status, message, code, headers)

    async def _turn_away(self, socket: WebSocket, error: AuthenticationError | OverloadedError) -> None:
        """Let somebody in, say why they cannot stay, and close."""
        self._refuse(error)
        refused = refusal(None, error)
        logger.warning(
            "socket refused", extra=fields(status=REFUSED, path=socket.scope["path"][:200], **incoming().refusal)
        )
        with contextlib.suppress(WebSocketDisconnect):
            await socket.accept()
            await socket.send_text(refused.model_dump_json(exclude_none=True))
            full = isinstance(error, OverloadedError)
            await socket.close(CloseCode.TRY_AGAIN_LATER if full else CloseCode.POLICY_VIOLATION, refused.code)

    def _key(self, secret: str | None) -> Key | None:
        if not self._keyring.on:
            return ANYONE
        return self._keyring.find(secret) if secret else None

    def _introduce(self, scope: AsgiScope, key: Key) -> Caller:
        caller = Caller(key, self._keyring, self._quota)
        scope["state"] = {**scope.get("state", {}), "caller": caller}
        return caller

    def _crowded(self, key: Key) -> str | None:
        """Why there is no room for one more socket, if there is none."""
        if self._sockets.total() >= self._config.max_sockets:
            return f"{self._config.max_sockets} WebSockets are open here, which is the limit"
        most = self._config.max_sockets_per_key
        if most is not None and self._sockets[key.name] >= most:
            return f"this key has {most} WebSockets open here, which is its limit"
        return None

    def _own_or_allowed(self, headers: Headers) -> bool:
        """Browsers send the page's origin, and let any page open a socket anywhere; other clients send none."""
        origin = headers.get("origin")
        if origin is None or origin in self._config.origins or "*" in self._config.origins:
            return True
        try:
            return urlsplit(origin).netloc == headers.get("host")
        except ValueError:
            return False


_UNKNOWN_KEY = "this service wants a key that it knows, as `Authorization: Bearer KEY`; its operator gives you one"


def _foreign(headers: Headers) -> str:
    return f"pages of {headers['origin'][:200]!r} may not call this service unless its `access.origins` names them"


def _out_of_scope(needed: Scope) -> str:
    return f"this key is not good for the scope {needed!r}, which is needed here; its operator gives you another"


def _path(scope: AsgiScope) -> str:
    """Below where the application is mounted, as its own routes see it."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    if root and path == root:
        return "/"  # the routes send it there
    return path[len(root) :] if path.startswith(f"{root}/") else path


def _bearer(headers: Headers) -> str | None:
    kind, _, secret = headers.get("authorization", "").partition(" ")
    return secret.strip() if kind.lower() == "bearer" else None


def _bearer_among(scope: AsgiScope) -> str | None:
    """The key among the subprotocols, which are all that a page can choose of its WebSocket's handshake."""
    offered = scope.get("subprotocols", ())
    return next((one.removeprefix(BEARER) for one in offered if one.startswith(BEARER)), None)


def _header_bytes(scope: AsgiScope) -> int:
    """What stood before the body, but for a few bytes of the first line."""
    line = len(scope.get("raw_path") or scope["path"]) + len(scope.get("query_string", b""))
    return line + sum(len(name) + len(value) + 4 for name, value in scope["headers"])


def _refused(
    status: int, message: str, code: str, headers: dict[str, str] | None = None, kind: str = "invalid_request_error"
) -> JSONResponse:
    return JSONResponse(error_body(message, kind, code=code), status, headers)


def _adding(send: Send, headers: list[tuple[bytes, bytes]]) -> Send:
    """A `send` that puts headers on the answer: those that are there when it begins."""

    async def adding(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *headers]
        await send(message)

    return adding


def _choosing(send: Send, subprotocol: str) -> Send:
    """A `send` that accepts a handshake with this subprotocol: a browser takes none that does not choose of its own."""

    async def choosing(message: Message) -> None:
        if message["type"] == "websocket.accept":
            message = {**message, "subprotocol": subprotocol}
        await send(message)

    return choosing
