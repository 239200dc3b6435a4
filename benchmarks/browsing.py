"""What scripts share that drive a browser: a service in this process, a desk before it, a Chromium without a window.

Knows nothing of what is measured.
"""

import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from playwright.sync_api import Browser, sync_playwright

from victorian.artifact import find_artifact, read_artifact
from victorian.config import EngineConfig, ServiceConfig
from victorian.demo import streamlit_page
from victorian.engine.engine import Engine
from victorian.engine.mailbox import warm_up
from victorian.engine.succession import Succession
from victorian.service.ingress import create_app
from victorian.service.models import Models, Served


class PacedEngine(Engine):
    """As fast as it can, or a step every so many seconds."""

    pace = 0.0

    def step(self) -> None:
        began = time.perf_counter()
        super().step()
        time.sleep(max(0.0, self.pace - (time.perf_counter() - began)))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(artifact: str) -> Iterator[tuple[str, PacedEngine]]:
    """The address of a service, and its engine."""
    loaded = read_artifact(find_artifact(artifact))
    with PacedEngine(loaded.model, loaded.encoding, EngineConfig()) as engine, socket.socket() as listening:
        succession = Succession(engine)
        warm_up(succession)
        listening.bind(("127.0.0.1", 0))
        app = create_app(Models([Served(loaded.recipe.name, 0, succession)]), ServiceConfig())
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", engine
        server.should_exit = True
        thread.join()


@contextmanager
def desk_before(url: str) -> Iterator[str]:
    """The address of a writing desk for a service, once it answers."""
    port = free_port()
    with streamlit_page(url, port):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def chromium() -> Iterator[Browser]:
    """The Chromium of this machine."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        raise SystemExit("no Chromium found: apt-get install --no-install-recommends chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()
