"""A full house is told so before anything is done for a request: its body is not even read.

That is known beforehand where there is one model. Of several the body says which is meant, and the route asks then.
Whoever is refused is counted here.
"""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.routing import APIRoute

from victorian.errors import RequestError, VictorianError
from victorian.service.models import Models, Served
from victorian.service.protocol import MAX_CHOICES, CompletionRequest


def admission(models: Models) -> type[APIRoute]:
    """The class of routes that take requests for texts."""

    class Admission(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def admit(request: Request) -> Response:
                try:
                    if only := models.only:
                        request.state.model = only.name
                        only.engine.require_room()
                    return await handle(request)
                except (VictorianError, RequestValidationError) as error:
                    models.refuse(error, getattr(request.state, "model", ""))
                    raise

            return admit

    return Admission


def require_room(request: Request, served: Served, body: CompletionRequest) -> None:
    """For all choices of a request whose model is known.

    Raises:
        RequestError: if it asks for more choices than any may.
        Also as `Engine.require_room` does.
    """
    request.state.model = served.name
    prompts = len(body.prompts())
    if prompts * body.n > MAX_CHOICES:
        message = f"{prompts} prompts with {body.n} choices each are more than {MAX_CHOICES} choices: ask for fewer"
        raise RequestError(message, "n")
    served.engine.require_room(prompts * body.n)
