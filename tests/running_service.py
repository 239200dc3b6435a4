"""A real service on loopback: the application under uvicorn, over a toy engine."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvicorn

from victorian.artifact import read_artifact
from victorian.config import EngineConfig, ServiceConfig
from victorian.engine.engine import Engine
from victorian.engine.succession import Succession
from victorian.service.ingress import create_app
from victorian.service.models import Models, Served
from victorian.service.observation import Observer


def soon(condition: Callable[[], bool], seconds: float = 15.0) -> bool:
    """Whether something comes to be within some seconds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


@dataclass(frozen=True)
class Service:
    url: str
    engine: Engine
    models: Models
    server: uvicorn.Server

    @property
    def socket_url(self) -> str:
        return "ws" + self.url.removeprefix("http") + "/v1/stream"

    @property
    def tasks(self) -> int:
        """Tasks that have not ended on the service's event loop."""
        return len(asyncio.all_tasks(self.server.servers[0].get_loop()))

    @property
    def connections(self) -> int:
        return len(self.server.server_state.connections)

    def idle(self) -> bool:
        """Whether nothing is left running, soon."""
        return soon(lambda: self.engine.active == self.models.unanswered == 0)


@contextmanager
def running(
    artifact: Path,
    port: int,
    config: ServiceConfig,
    observer: Observer | None = None,
    engine_type: type[Engine] = Engine,
) -> Iterator[Service]:
    """A service of a model directory under uvicorn, for as long as the block."""
    loaded = read_artifact(str(artifact))
    with engine_type(loaded.model, loaded.encoding, config.engine) as engine:
        models = Models([Served("toy", 1_700_000_000, Succession(engine))])
        app = create_app(models, config, observer)
        server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning"))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        try:
            yield Service(f"http://127.0.0.1:{port}", engine, models, server)
        finally:
            server.should_exit = True
            thread.join(timeout=10)


@pytest.fixture(scope="session")
def service(toy_artifact: Path, free_port: Callable[[], int]) -> Iterator[Service]:
    config = ServiceConfig(engine=EngineConfig(max_running=4, max_waiting=4))
    with running(toy_artifact, free_port(), config) as made:
        yield made
