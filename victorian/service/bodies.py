"""How large the body of a request may be, whatever its headers say of it."""

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from victorian.service.protocol import MAX_MESSAGE_BYTES


class BodyLimit:
    """Raises for a body that is too large while it is read. Starlette's own answers in plain text."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        size = 0

        async def limited() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b"")) if message["type"] == "http.request" else 0
            if size > MAX_MESSAGE_BYTES:
                raise HTTPException(413, f"the body is larger than {MAX_MESSAGE_BYTES} bytes: send less")
            return message

        await self._app(scope, limited if scope["type"] == "http" else receive, send)
