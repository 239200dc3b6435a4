"""A WebSocket: several generations at once, each cancelled when asked or when the client leaves.

A handler that only sends is never told that the client has gone. So receiving is the main line here, and every
generation is a task beside it that ends with it.
"""

import asyncio
import contextlib
import logging
import uuid
from collections.abc import AsyncGenerator

from fastapi import WebSocket, WebSocketDisconnect
from pydantic import ValidationError

from victorian.config import ServiceConfig
from victorian.engine.request import Event, Request
from victorian.errors import OverloadedError, RequestError, ServiceError, VictorianError
from victorian.service.answers import FAULT
from victorian.service.callers import Caller, price
from victorian.service.incoming import incoming
from victorian.service.logs import REFUSED, fields
from victorian.service.models import Models, Served
from victorian.service.outbox import Outbox, StalledError
from victorian.service.protocol import (
    Cancel,
    CloseCode,
    Connected,
    ErrorMessage,
    Generate,
    Ping,
    Pong,
    client_message,
)
from victorian.service.socket_messages import event_message, limits, offers, refusal, unreadable

logger = logging.getLogger(__name__)

LEAVING = "this process takes nothing new: connect again"

Goodbye = tuple[CloseCode, str]
"""Why a socket is closed, for programs and for people."""


class Conversation:
    """What is said on one socket, from `connected` to the end."""

    def __init__(self, socket: WebSocket, models: Models, config: ServiceConfig) -> None:
        self._socket = socket
        self._models = models
        self._config = config
        self._caller: Caller = socket.state.caller
        self._loop = asyncio.get_running_loop()
        self._session = uuid.uuid4().hex
        self._generations: dict[str, asyncio.Task[None]] = {}
        self._outbox = Outbox(socket, config.socket.send_seconds)
        self._offers = offers(models)
        self._heard = self._loop.time()
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Listen, and generate, until one side ends it; then nothing of it is left running."""
        await self._socket.accept()
        self._models.watch(self._tell_of_change)
        lines: list[asyncio.Task[Goodbye | None]] = []
        try:
            if self._models.leaving:
                await self._outbox.send(refusal(None, ServiceError(LEAVING, "shutting_down")))
                await self._outbox.close(CloseCode.GOING_AWAY, LEAVING)
                return
            if not self._offers:
                why = "no model is loaded yet: try again later"
                await self._outbox.send(refusal(None, OverloadedError(why)))
                await self._outbox.close(CloseCode.TRY_AGAIN_LATER, why)
                return
            greeting = Connected(session=self._session, models=self._offers, limits=limits(self._config))
            await self._outbox.send(greeting)
            lines = [asyncio.create_task(self._listen()), asyncio.create_task(self._until_idle())]
            done, _ = await asyncio.wait(lines, return_when=asyncio.FIRST_COMPLETED)
            if goodbye := next(iter(done)).result():
                await self._outbox.close(*goodbye)
        except (StalledError, WebSocketDisconnect):
            return
        finally:
            self._models.unwatch(self._tell_of_change)
            tasks = [*lines, *self._generations.values()]
            for name in self._generations:  # a task that has not begun would not cancel its request
                self._models.cancel(self._name(name))
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    # When it ends.

    def _tell_of_change(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed, and the socket with it
            self._loop.call_soon_threadsafe(self._changed.set)

    async def _until_idle(self) -> Goodbye | None:
        """Wait until there is nothing to stay open for."""
        idle_seconds = self._config.socket.idle_seconds
        while not self._outbox.stalled:
            left = None
            if not self._generations:
                if self._models.leaving:
                    return CloseCode.GOING_AWAY, LEAVING
                if offers(self._models) != self._offers:
                    return CloseCode.GOING_AWAY, "what is served has changed: connect again"
                left = self._heard + idle_seconds - self._loop.time()
                if left <= 0:
                    return CloseCode.NORMAL, f"idle for {idle_seconds:g} seconds"
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._changed.wait()
        return None

    # What the client says.

    async def _listen(self) -> Goodbye | None:
        """Heed the client's messages until it leaves, or says too much at once."""
        most = self._config.socket.message_bytes
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                return None
            data = message.get("bytes") or (message.get("text") or "").encode()
            if len(data) > most:
                return CloseCode.TOO_BIG, f"a message has {len(data)} bytes, at most {most} are read"
            self._heard = self._loop.time()
            await self._receive(data)

    async def _receive(self, data: bytes) -> None:
        try:
            message = client_message.validate_json(data)
        except ValidationError as error:
            answer = unreadable(data, error)
            self._refuse(error)
            if answer.id in self._generations:  # an error with its id would end it
                answer = answer.model_copy(update={"id": None})
            await self._outbox.send(answer)
            return
        match message:
            case Generate():
                with contextlib.ExitStack() as until_told:
                    await self._begin(message, until_told)
            case Cancel():
                self._models.cancel(self._name(message.id))
            case Ping():
                await self._outbox.send(Pong())

    async def _begin(self, message: Generate, until_told: contextlib.ExitStack) -> None:
        most = self._config.socket.generations
        named: str | None = message.id
        model = ""
        try:
            if message.id in self._generations:
                named = None  # an error with the id would end the other one
                raise RequestError(f"a generation with the id {message.id!r} is under way on this socket already", "id")
            if len(self._generations) >= most:
                raise OverloadedError(f"{most} generations are under way on this socket, which is the limit")
            if self._models.leaving:
                raise ServiceError(LEAVING, "shutting_down")
            await self._caller.spend()
            # Submitted here and not in the task, so that a cancel which follows at once finds it.
            served = until_told.enter_context(self._models.answering(message.model))
            model = served.name
            request = await self._prepare(message, served)
            await self._caller.spend_tokens(price([request], 1, message.parameters.max_tokens))
            try:
                [events] = served.streams([request])
            except ServiceError as refused:  # the model may have been replaced meanwhile; nobody pays twice for that
                served = self._models.successor(message.model, served, refused)
                request = await self._prepare(message, served)
                [events] = served.streams([request])
        except VictorianError as error:
            self._refuse(error, model, message.id)
            await self._outbox.send(refusal(named, error))
            return
        task = self._generations[message.id] = asyncio.create_task(self._generate(message.id, served, request, events))
        told = until_told.pop_all()
        task.add_done_callback(lambda _: told.close())  # which a task that has not begun would not do when cancelled

    async def _prepare(self, message: Generate, served: Served) -> Request:
        served.engine.require_room()
        return await asyncio.to_thread(  # a megabyte of text takes a quarter of a second to encode
            served.engine.request,
            message.prompt,
            message.parameters,
            self._name(message.id),
            logprobs=message.alternatives,
            deadline_seconds=self._config.deadline(message.deadline_seconds),
        )

    def _refuse(self, error: Exception, model: str = "", generation: str | None = None) -> None:
        """Leave a number and a line; the log bounds how many."""
        self._models.refuse(error, model)
        asking = incoming()
        who = {"request_id": asking.request_id, "id": generation and self._name(generation)}
        logger.warning("message refused", extra=fields(**who, status=REFUSED, **asking.refusal))

    # What it is told.

    async def _generate(
        self, generation: str, served: Served, request: Request, stream: AsyncGenerator[list[Event], None]
    ) -> None:
        """Send a generation's tokens and its end."""
        encoding = served.engine.encoding
        try:
            async with contextlib.aclosing(stream):
                async for events in stream:
                    await self._outbox.send(*(event_message(generation, event, request, encoding) for event in events))
        except (StalledError, WebSocketDisconnect):
            return  # leaving the stream has cancelled the request; the main line hears of it too
        except Exception:  # a bug of ours ends one generation, and its client is told
            logger.exception("a generation could not be sent")
            with contextlib.suppress(StalledError, WebSocketDisconnect):
                await self._outbox.send(ErrorMessage(code="internal_error", message=FAULT, id=generation))
        finally:
            del self._generations[generation]
            self._heard = self._loop.time()
            self._changed.set()

    def _name(self, generation: str) -> str:
        """The engine's id for a client's: two sockets may use the same."""
        return f"{self._session}/{generation}"
