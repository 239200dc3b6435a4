"""Ray Serve: the deployment, and the application that `serve run serve_config.yaml` builds.

The engine lives inside the replica that answers HTTP: a handle between the two would cost a message a token.
"""

# No `from __future__ import annotations`: Serve validates a builder's arguments by the annotation's object.

import asyncio
import logging
import os
import time
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayError
from ray.serve.config import HTTPOptions
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentBroadcastResponse
from ray.serve.schema import LoggingConfig

from victorian.artifact import find_artifact
from victorian.cluster.doors import proxy_host, require_address, require_closed_doors, with_absolute_paths
from victorian.cluster.metrics import RayMeter
from victorian.cluster.replica import leaving
from victorian.config import ModelsConfig, ServiceConfig
from victorian.errors import ServiceError
from victorian.service.ingress import create_app
from victorian.service.logs import write_logs
from victorian.service.models import Models
from victorian.service.observation import Observer
from victorian.service.readiness import beyond_repair, stuck

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
        self._watching: asyncio.Task[None] | None = None

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Serve these models from now on; called before the first request, and when the configuration has changed.

        Streams under way end on the weights that they began with. If a model cannot be had, nothing changes: Serve
        would end a replica that raises here, and with it every stream, so that is logged and no more.
        """
        self._watching = self._watching or asyncio.create_task(self._watch())
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

    async def _watch(self) -> None:
        """Once this replica is being replaced, have nobody wait for what does not end by itself.

        Open sockets are to connect elsewhere. An engine that hangs would keep what is under way, and the machine's
        resources from this replica's successor, until Serve's patience is over.
        """
        while not leaving():
            await asyncio.sleep(1)
        self._models.leave()
        while not stuck(self._models, self._config.observe):
            await asyncio.sleep(1)
        logger.error("ended at once: an engine hangs, and nothing else is under way")
        os._exit(1)

    def drain(self) -> int:
        """Take no new requests from now on; how many have not been answered to their end."""
        self._models.drain()
        return self._models.unanswered

    def check_health(self) -> None:
        """Ray replaces a replica whose engine has broken, or hangs."""
        if trouble := beyond_repair(self._models, self._config.observe):
            raise RuntimeError(trouble)

    def __del__(self) -> None:
        if hasattr(self, "_models"):
            self._models.close()


def build_app(arguments: ServiceConfig) -> serve.Application:
    """The application for `serve run`; which models it serves is the deployment's `user_config`."""
    require_closed_doors(arguments, proxy_host())  # each replica looks again; here the deployment fails at once
    application: serve.Application = Deployment.bind(arguments.model_dump())  # type: ignore[attr-defined]  # Serve's decorator is untyped
    return application


def start(config: ServiceConfig, models: ModelsConfig, host: str, port: int) -> None:
    """Serve models in this session's cluster; returns when they answer.

    Raises:
        ConfigError: if Serve runs there and listens elsewhere, or if others would be let in without keys.
    """
    _quieten()
    # Found here, where relative paths mean what they say.
    config = with_absolute_paths(config)
    require_closed_doors(config, host)
    found = [one.model_copy(update={"artifact": find_artifact(one.artifact)}) for one in models.models]
    user_config = ModelsConfig(models=tuple(found)).model_dump()
    serve.start(http_options=HTTPOptions(host=host, port=port))
    require_address(host, port)
    deployment = Deployment.options(user_config=user_config)  # type: ignore[attr-defined]
    quiet = LoggingConfig(enable_access_log=False)  # the application has a line of its own for each request
    application = deployment.bind(config.model_dump())
    serve.run(application, name=APPLICATION, route_prefix="/", blocking=False, logging_config=quiet)


def drain(seconds: float) -> int:
    """Have every replica take nothing new, and wait until all is answered; how many were not in time.

    Raises:
        ServiceError: if nothing is served here.
    """
    _quieten()
    try:
        replicas = serve.get_app_handle(APPLICATION)
        end = time.monotonic() + seconds
        # Asked again and again, since a replica may have been started meanwhile.
        while (left := sum(_counts(replicas.broadcast("drain")))) and time.monotonic() < end:
            time.sleep(0.2)
    except (RayServeException, TimeoutError) as error:
        raise ServiceError(f"no service called {APPLICATION!r} could be told to take nothing new: {error}") from error
    return left


def _counts(answers: DeploymentBroadcastResponse) -> list[int]:
    """What the replicas said; one that has died meanwhile said nothing, and has no streams."""
    return [one for one in answers.results(timeout_s=30, return_exceptions=True) if not isinstance(one, RayError)]


def _quieten() -> None:
    """Have Serve's client say nothing in the terminal: the caller says what there is to say."""
    logging.getLogger("ray.serve").setLevel(logging.WARNING)


def stop() -> None:
    """Take the application off a cluster that goes on; one that ends with its session needs no goodbye."""
    serve.delete(APPLICATION, _blocking=False)
