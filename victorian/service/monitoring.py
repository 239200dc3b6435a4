"""What those ask who watch a service: `/health`, `/ready`, `/metrics`; and what is done about it in between."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from fastapi import APIRouter, FastAPI
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from victorian.config import ObservationConfig
from victorian.service.answers import RETRY_AFTER
from victorian.service.models import Models
from victorian.service.observation import Observer
from victorian.service.protocol import ErrorBody, error_body
from victorian.service.readiness import Readiness

logger = logging.getLogger(__name__)

SHOW_SECONDS = 5.0
"""How often the models' loads are shown to meters that nobody scrapes here."""


def monitoring(models: Models, observer: Observer, config: ObservationConfig) -> APIRouter:
    """The routes, and the task beside them that lives as long as the application."""
    readiness = Readiness(models, config)

    def show_loads() -> None:
        observer.show(models.loads)

    async def watch() -> None:
        while True:
            try:
                show_loads()
                await readiness.refresh()
            except Exception:  # one round that fails is no reason to be blind from then on
                logger.exception("watching the models failed")
            await asyncio.sleep(min(config.probe_seconds, SHOW_SECONDS))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(watch())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            await asyncio.to_thread(observer.close)

    router = APIRouter(lifespan=lifespan)

    @router.head("/health", include_in_schema=False)
    @router.get("/health")
    async def health() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @router.head("/ready", include_in_schema=False)  # as `wget --spider` and many load balancers ask
    @router.get("/ready", responses={503: {"model": ErrorBody}})
    async def ready() -> Response:
        """Every model has lately generated a token, or does so now."""
        if troubles := await readiness.troubles():
            message = "; ".join(f"{name}: {trouble}" if name else trouble for name, trouble in troubles.items())
            return JSONResponse(
                error_body(message, "server_error", code="not_ready"), 503, {"Retry-After": RETRY_AFTER}
            )
        return JSONResponse({"status": "ready", "models": [served.name for served in models.all()]})

    @router.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Prometheus's format. Behind several replicas each answers for itself."""
        show_loads()
        content, content_type = observer.prometheus.exposition()
        return Response(content, media_type=None, headers={"Content-Type": content_type})

    return router
