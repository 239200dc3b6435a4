"""Ray Serve: the deployment, and the application that `serve run serve_config.yaml` builds.

The engine lives inside the replica that answers HTTP: a handle between the two would cost a message a token.
"""

# No `from __future__ import annotations`: Serve validates a builder's arguments by the annotation's object.

import logging
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve.config import HTTPOptions

from victorian.artifact import find_artifact, read_artifact
from victorian.config import ServiceConfig
from victorian.engine.engine import Engine, warm_up
from victorian.service.ingress import Served, create_app

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
)
@serve.ingress()
class Deployment:
    """One replica: a model, its engine, and the application in front of it."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        config = ServiceConfig.model_validate(arguments)
        artifact = read_artifact(config.artifact)
        self.engine = Engine(artifact.model, artifact.encoding, config.engine)
        warm_up(self.engine)
        name = config.model_name or artifact.recipe.name
        self._served = Served(self.engine, name, int(artifact.record.finished.timestamp()))

    def __serve_build_asgi_app__(self) -> FastAPI:
        return create_app(self._served)

    def check_health(self) -> None:
        """Ray replaces a replica whose engine has broken."""
        if not self.engine.healthy:
            raise RuntimeError("the engine has stopped")

    def __del__(self) -> None:
        if hasattr(self, "engine"):
            self.engine.close()


def build_app(arguments: ServiceConfig) -> serve.Application:
    """The application for `serve run`: its model directory is found here, where relative paths mean what they say."""
    found = arguments.model_copy(update={"artifact": find_artifact(arguments.artifact)})
    application: serve.Application = Deployment.bind(found.model_dump())  # type: ignore[attr-defined]  # Serve's decorator is untyped
    return application


def start(config: ServiceConfig, host: str, port: int) -> None:
    """Serve an application in this session's cluster; returns when it answers."""
    logging.getLogger("ray.serve").setLevel(logging.WARNING)  # the caller says what there is to say
    serve.start(http_options=HTTPOptions(host=host, port=port))
    serve.run(build_app(config), name=APPLICATION, route_prefix="/", blocking=False)


def stop() -> None:
    """Take the application off a cluster that goes on; one that ends with its session needs no goodbye."""
    serve.delete(APPLICATION, _blocking=False)
