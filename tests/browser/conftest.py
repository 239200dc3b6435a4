"""A real browser before real services. What its console complains of, and what a policy forbids, fails the test."""

import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from tests.browser.sheet import Sheet, desk_process
from tests.running_service import Service, running
from victorian.config import EngineConfig, ServiceConfig
from victorian.engine.engine import Engine

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PRETRAINED = Path(__file__).parents[2] / "victorian" / "pretrained"
PACE_SECONDS = 0.02

Start = Callable[..., AbstractContextManager[Service]]
Visit = Callable[..., Page]
Shoot = Callable[[Page, str], None]
Open = Callable[..., Sheet]

expect.set_options(timeout=20_000)  # the machine may be busy


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--screenshots", type=Path, help="folder for the tests' screenshots; by default a temporary one")


class PacedEngine(Engine):
    """An engine of fifty tokens a second, so that there is time for what happens meanwhile."""

    def step(self) -> None:
        time.sleep(PACE_SECONDS)
        super().step()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no chromium here: `apt-get install chromium`")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


@dataclass
class Watched:
    """A page, and what went on around it."""

    page: Page
    allowed: str
    """Pattern of complaints that the test provokes."""
    complaints: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.page.on("console", self._note)
        self.page.on("pageerror", lambda error: self.complaints.append(f"uncaught: {error}"))
        self.page.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc))
        self.page.on("websocket", lambda socket: self.hosts.add(urlsplit(socket.url).netloc))
        self.page.add_init_script(
            "addEventListener('securitypolicyviolation', (e) => console.error('policy: ' + e.violatedDirective))"
        )

    def _note(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not (self.allowed and re.search(self.allowed, message.text)):
            self.complaints.append(message.text)


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    """Opens an address in a session of its own, `visit(url, color_scheme="dark")`, and watches it.

    `allowed` is a pattern of complaints that the test provokes; the rest are options of playwright's `new_context`.
    """
    opened: list[Watched] = []

    def open_page(url: str, allowed: str = "", before: Callable[[Page], Any] | None = None, **options: Any) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 860}, **options})
        watched = Watched(context.new_page(), allowed)
        opened.append(watched)
        if before:
            before(watched.page)
        watched.page.goto(url)
        return watched.page

    yield open_page
    for one in opened:
        own = urlsplit(one.page.url).netloc
        one.page.context.close()
        assert one.complaints == []
        assert one.hosts <= {own}, "something was asked of another host"


@pytest.fixture(scope="session")
def shoot(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Shoot:
    """Keeps what a page looks like: `shoot(page, "dark")`."""
    folder = request.config.getoption("--screenshots", None) or tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)

    def keep(page: Page, name: str) -> None:
        page.screenshot(path=folder / f"{name}.png")

    return keep


@pytest.fixture(scope="session")
def start(toy_artifact: Path, free_port: Callable[[], int]) -> Start:
    """Begins a service of its own: `start(engine_type=PacedEngine, access=AccessConfig(...))`."""

    def begin(
        port: int | None = None,
        engine_type: type[Engine] = Engine,
        artifact: Path = toy_artifact,
        engine: EngineConfig | None = None,
        **config: Any,
    ) -> AbstractContextManager[Service]:
        settings = ServiceConfig(engine=engine or EngineConfig(max_running=4, max_waiting=4), **config)
        return running(artifact, port or free_port(), settings, engine_type=engine_type)

    return begin


@pytest.fixture(scope="session")
def paced(start: Start) -> Iterator[Service]:
    """A service of fifty tokens a second."""
    with start(engine_type=PacedEngine) as made:
        yield made


@pytest.fixture(scope="session")
def prose(start: Start) -> Iterator[Service]:
    """A service of the model that comes with the package."""
    with start(artifact=PRETRAINED) as made:
        yield made


@pytest.fixture(scope="session")
def paced_prose(start: Start) -> Iterator[Service]:
    """The same at fifty tokens a second."""
    with start(engine_type=PacedEngine, artifact=PRETRAINED, engine=EngineConfig(max_running=8)) as made:
        yield made


@pytest.fixture(scope="session")
def desk_address(paced_prose: Service, free_port: Callable[[], int]) -> Iterator[str]:
    """Of a writing desk before a service of the model that comes with the package, at fifty tokens a second."""
    with desk_process(paced_prose.url, free_port()) as url:
        yield url


@pytest.fixture
def open_desk(browser: Browser, desk_address: str) -> Iterator[Open]:
    """Opens a desk in a session of its own: `open_desk(color_scheme="dark")`; fails the test that it complains in."""
    opened: list[Sheet] = []
    with ExitStack() as contexts:

        def visit(at: str = desk_address, **options: Any) -> Sheet:
            context = browser.new_context(**{"viewport": {"width": 1280, "height": 860}, **options})
            contexts.callback(context.close)
            sheet = Sheet(context.new_page())
            opened.append(sheet)
            sheet.page.goto(at)
            expect(sheet.area).to_be_visible(timeout=60_000)
            sheet.settled()
            return sheet

        yield visit
        for sheet in opened:
            assert sheet.complaints == []
            assert sheet.hosts == {"127.0.0.1"}
