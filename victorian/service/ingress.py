"""The FastAPI application: what stands at which path, and what every request passes on its way there.

It is given models and answers with them; where the process runs and who routes to it is not known here.
"""

from fastapi import HTTPException, WebSocket

from victorian.config import ServiceConfig, service_keys
from victorian.service.access import guard
from victorian.service.answers import Bugs, answer_errors, refusals
from victorian.service.bodies import BodyLimit
from victorian.service.completions import completions
from victorian.service.encoding import encoding
from victorian.service.incoming import Application
from victorian.service.keys import Keyring
from victorian.service.models import Models, Served
from victorian.service.monitoring import monitoring
from victorian.service.observation import Observer
from victorian.service.page import page
from victorian.service.protocol import ModelCard, ModelList
from victorian.service.socket import Conversation

NO_HANDSHAKE = (
    "here is a WebSocket, and its handshake did not come: a proxy on the way may have kept the Upgrade header, and "
    "has to pass it on; or ask at /v1/completions, which needs none"
)


def create_app(models: Models, config: ServiceConfig, observer: Observer | None = None) -> Application:
    """The application for some models; whoever has meters of his own brings the observer.

    Raises:
        ConfigError: if there are to be keys and they cannot be read.
    """
    observer = observer or Observer(config.observe)
    models.observe(observer)
    app = Application(title="Victorian", docs_url=None, redoc_url=None)
    app.send_seconds = config.socket.send_seconds
    app.add_middleware(BodyLimit)
    app.add_middleware(Bugs)
    answer_errors(app)
    guard(app, config.access, Keyring(config.access.keys_file, service_keys()), models.refuse)
    app.include_router(completions(models, config))
    app.include_router(encoding(models))
    app.include_router(monitoring(models, observer, config.observe))
    app.include_router(page())

    @app.head("/v1/models", include_in_schema=False)
    @app.get("/v1/models")
    async def list_models() -> ModelList:
        return ModelList(data=[_card(served) for served in models.all()])

    @app.get("/v1/models/{name:path}", responses=refusals())
    async def model(name: str) -> ModelCard:
        return _card(models.find(name))

    @app.websocket("/v1/stream")
    async def stream(socket: WebSocket) -> None:
        await Conversation(socket, models, config).run()

    @app.get("/v1/stream", include_in_schema=False)
    async def no_handshake() -> None:
        raise HTTPException(426, NO_HANDSHAKE, {"Upgrade": "websocket", "Connection": "Upgrade"})

    return app


def _card(served: Served) -> ModelCard:
    return ModelCard(id=served.name, created=served.created)
