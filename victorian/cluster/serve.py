"""Ray Serve: the deployment, and the application that `serve run serve_config.yaml` builds.

The engine lives inside the replica that answers HTTP: a handle between the two would cost a message a token.
"""

# No `from __future__ import annotations`: Serve validates a builder's arguments by the annotation's object.

import asyncio
import logging
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve.config import HTTPOptions
from ray.serve.schema import LoggingConfig

from victorian.artifact import find_artifact
from victorian.cluster.doors import proxy_host, require_closed_doors, with_absolute_paths
from victorian.cluster.metrics import RayMeter
from victorian.config import ModelsConfig, ServiceConfig
from victorian.service.ingress import create_app
from victorian.service.logs import write_logs
from victorian.service.models import Models
from victorian.service.observation import Observer

logger = logging.getLogger(__name__)

APPLICATION = "victorian"
LONGEST_STREAM_SECONDS = 600


@serve.deployment(
    name="Victorian",
    # Admission is the engine's: Serve's own would answer a full house without a word of explanation.
    max_ongoing_requests=1_000,
    # A replica that is replaced lets its streams finish.
    graceful_shutdown_timeout_s=LONGEST_STREAM_SECONDS,
    health_check_period_s=5,
    ray_actor_options={"num_cpus": 1},
    user_config=ModelsConfig().model_dump(),
)
@serve.ingress()
class Deployment:
    """One replica: its models, their engines, and the application in front of them."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        self._config = ServiceConfig.model_validate(arguments)
        require_closed_doors(self._config, proxy_host())
        write_logs(self._config.observe)
        self._models = Models()

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Serve these models from now on; called before the first request, and when the configuration has changed.

        Streams under way end on the weights that they began with. If a model cannot be had, nothing changes: Serve
        would end a replica that raises here, and with it every stream, so that is logged and no more.
        """
        try:
            config = ModelsConfig.model_validate(user_config)
            # In a thread: the streams of the models so far are on this loop.
            await asyncio.to_thread(self._models.load, config, self._config.engine)
        except Exception:  # whatever it was
            if not self._models.healthy:
                raise
            logger.exception("the models stay as they were")

    def __serve_build_asgi_app__(self) -> FastAPI:
        app = create_app(self._models, self._config, Observer(self._config.observe, [RayMeter()]))
        app.answers_carry_id = False
        return app

    def check_health(self) -> None:
        """Ray replaces a replica whose engine has broken."""
        if not self._models.healthy:
            raise RuntimeError("an engine has stopped")

    def __del__(self) -> None:
        if hasattr(self, "_models"):
            self._models.close()


def build_app(arguments: ServiceConfig) -> serve.Application:
    """The application for `serve run`; which models it serves is the deployment's `user_config`."""
    require_closed_doors(arguments, proxy_host())  # each replica looks again; here the deployment fails at once
    application: serve.Application = Deployment.bind(arguments.model_dump())  # type: ignore[attr-defined]  # Serve's decorator is untyped
    return application


def start(config: ServiceConfig, models: ModelsConfig, host: str, port: int) -> None:
    """Serve models in this session's cluster; returns when they answer."""
    logging.getLogger("ray.serve").setLevel(logging.WARNING)  # the caller says what there is to say
    # Found here, where relative paths mean what they say.
    config = with_absolute_paths(config)
    require_closed_doors(config, host)
    found = [one.model_copy(update={"artifact": find_artifact(one.artifact)}) for one in models.models]
    user_config = ModelsConfig(models=tuple(found)).model_dump()
    serve.start(http_options=HTTPOptions(host=host, port=port))
    deployment = Deployment.options(user_config=user_config)  # type: ignore[attr-defined]
    quiet = LoggingConfig(enable_access_log=False)  # the application has a line of its own for each request
    application = deployment.bind(config.model_dump())
    serve.run(application, name=APPLICATION, route_prefix="/", blocking=False, logging_config=quiet)


def stop() -> None:
    """Take the application off a cluster that goes on; one that ends with its session needs no goodbye."""
    serve.delete(APPLICATION, _blocking=False)
