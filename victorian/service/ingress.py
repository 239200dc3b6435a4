"""The FastAPI application: what stands at which path, and what every request passes on its way there.

It is given models and answers with them; where the process runs and who routes to it is not known here.
"""

from fastapi import FastAPI, WebSocket
from fastapi.responses import JSONResponse, Response

from victorian.config import ServiceConfig
from victorian.service.answers import answer_errors
from victorian.service.completions import completions
from victorian.service.models import Models, Served
from victorian.service.outbox import Abortable
from victorian.service.protocol import MAX_MESSAGE_BYTES, ErrorBody, ModelCard, ModelList, error_body
from victorian.service.socket import Conversation


def create_app(models: Models, config: ServiceConfig) -> FastAPI:
    """The application for some models."""
    app = FastAPI(title="Victorian", docs_url=None, redoc_url=None, max_body_size=MAX_MESSAGE_BYTES)
    answer_errors(app)
    app.include_router(completions(models, config))

    @app.get("/health")
    async def health() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @app.get("/ready", responses={503: {"model": ErrorBody}})
    async def ready() -> Response:
        """The engines can serve."""
        if models.healthy:
            return JSONResponse({"status": "ready", "models": [served.name for served in models.all()]})
        return JSONResponse(error_body("the engine has stopped", "server_error", code="not_ready"), 503)

    @app.get("/v1/models")
    async def list_models() -> ModelList:
        return ModelList(data=[_card(served) for served in models.all()])

    @app.get("/v1/models/{name:path}", responses={404: {"model": ErrorBody}})
    async def model(name: str) -> ModelCard:
        return _card(models.find(name))

    @app.websocket("/v1/stream")
    async def stream(socket: WebSocket) -> None:
        await Conversation(socket, models, config).run()

    app.add_middleware(Abortable)  # outermost: it looks at the server's own `send`
    return app


def _card(served: Served) -> ModelCard:
    return ModelCard(id=served.name, created=served.created)
