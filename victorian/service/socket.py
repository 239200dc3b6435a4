"""One WebSocket: several generations at once, each cancelled when asked or when the client leaves.

A handler that only sends is never told that the client has gone. So receiving is the main line here, and every
generation is a task beside it that ends with it.
"""

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncGenerator

from fastapi import WebSocket, WebSocketDisconnect
from pydantic import TypeAdapter, ValidationError

from victorian.config import Section, ServiceConfig, bounds, first_problem
from victorian.engine.request import Completed, Event, Failed, TokenEvent
from victorian.errors import OverloadedError, RequestError, VictorianError
from victorian.service.callers import Caller
from victorian.service.models import Models
from victorian.service.protocol import (
    MAX_GENERATIONS_PER_SOCKET,
    MAX_MESSAGE_BYTES,
    Cancel,
    Complete,
    Connected,
    ErrorMessage,
    Generate,
    GenerationId,
    Limits,
    Timings,
    TokenMessage,
    client_message,
    usage,
)

TOO_BIG = 1009


class Conversation:
    """What is said on one socket, from `connected` to the end."""

    def __init__(self, socket: WebSocket, models: Models, config: ServiceConfig) -> None:
        self._socket = socket
        self._models = models
        self._config = config
        self._caller: Caller = socket.state.caller
        self._session = uuid.uuid4().hex
        self._generations: dict[str, asyncio.Task[None]] = {}
        self._sending = asyncio.Lock()

    async def run(self) -> None:
        """Serve the socket until the client leaves; then nothing of it is left running."""
        await self._socket.accept()
        try:
            served = self._models.find(None)
            limits = Limits(context=served.engine.context, max_tokens=int(bounds("max_tokens")[1]))
            await self._send(Connected(session=self._session, model=served.name, limits=limits))
            while True:
                message = await self._socket.receive()
                if message["type"] == "websocket.disconnect":
                    return
                data = message.get("bytes") or (message.get("text") or "").encode()
                if len(data) > MAX_MESSAGE_BYTES:
                    await self._socket.close(TOO_BIG)
                    return
                await self._receive(data)
        except WebSocketDisconnect:
            return
        finally:
            tasks = list(self._generations.values())
            for name in self._generations:  # a task that has not begun would not cancel its request
                self._models.cancel(self._name(name))
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _receive(self, data: bytes) -> None:
        try:
            message = client_message.validate_json(data)
        except ValidationError as error:
            await self._send(ErrorMessage(code="invalid_message", message=first_problem(error), id=self._id_in(data)))
            return
        match message:
            case Generate():
                await self._begin(message)
            case Cancel():
                self._models.cancel(self._name(message.id))

    async def _begin(self, message: Generate) -> None:
        if message.id in self._generations:
            problem = f"a generation with the id {message.id!r} is under way on this socket already"
            await self._send(ErrorMessage(code="invalid_request", message=problem, id=None))
        elif len(self._generations) >= MAX_GENERATIONS_PER_SOCKET:
            problem = f"{MAX_GENERATIONS_PER_SOCKET} generations are under way on this socket, which is the limit"
            await self._send(ErrorMessage(code="overloaded", message=problem, id=message.id))
        elif refusal := await self._caller.refusal():
            await self._send(ErrorMessage(code=refusal.code, message=refusal.message, id=message.id))
        else:
            try:  # submitted here and not in the task, so that a cancel which follows at once finds it
                served = self._models.find(None)
                request = served.engine.request(message.prompt, message.parameters, self._name(message.id))
                events = served.stream(request)
            except OverloadedError as error:
                await self._send(ErrorMessage(code="overloaded", message=str(error), id=message.id))
            except RequestError as error:
                await self._send(ErrorMessage(code="invalid_request", message=str(error), id=message.id))
            except VictorianError as error:
                await self._send(ErrorMessage(code="internal_error", message=str(error), id=message.id))
            else:
                task = asyncio.create_task(self._generate(message, events))
                self._generations[message.id] = task
                task.add_done_callback(lambda _: self._generations.pop(message.id, None))

    async def _generate(self, message: Generate, stream: AsyncGenerator[Event, None]) -> None:
        """Send a generation's tokens and its end."""
        try:
            async with contextlib.aclosing(stream) as events:
                async for event in events:
                    match event:
                        case TokenEvent():
                            await self._send(TokenMessage(id=message.id, index=event.index, text=event.text))
                        case Completed():
                            await self._send(_complete(message.id, event))
                        case Failed():
                            await self._send(ErrorMessage(code="internal_error", message=event.message, id=message.id))
        except (WebSocketDisconnect, RuntimeError):
            return  # the client has left between two tokens; leaving the stream has cancelled the request

    async def _send(self, message: Section) -> None:
        async with self._sending:
            await self._socket.send_text(message.model_dump_json())

    def _id_in(self, data: bytes) -> str | None:
        """The id of the generation that a refused message began, if it had a usable one that is not another's."""
        try:
            found = TypeAdapter(GenerationId).validate_python(json.loads(data)["id"])
        except (ValueError, TypeError, KeyError, RecursionError):
            return None
        return None if found in self._generations else found

    def _name(self, generation: str) -> str:
        """The engine's id for a client's: two sockets may use the same."""
        return f"{self._session}/{generation}"


def _complete(generation: str, event: Completed) -> Complete:
    later = event.completion_tokens - 1
    decoding = event.seconds - event.first_token_seconds
    return Complete(
        id=generation,
        reason=event.reason,
        usage=usage(event.prompt_tokens, event.completion_tokens),
        timings=Timings(
            first_token_seconds=event.first_token_seconds,
            seconds=event.seconds,
            tokens_per_second=later / decoding if later > 0 and decoding > 0 else 0.0,
        ),
    )
