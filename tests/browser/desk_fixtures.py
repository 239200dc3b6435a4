"""A desk in a real browser: its own process before a real service, and a page that is watched."""

import re
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, FloatRect, Locator, Page, expect, sync_playwright

from tests.running_service import Service, running, soon
from victorian.config import EngineConfig, ServiceConfig
from victorian.demo import streamlit_page
from victorian.engine.engine import Engine

PRETRAINED = Path(__file__).parents[2] / "victorian" / "pretrained"
PACE_SECONDS = 0.02
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}

expect.set_options(timeout=20_000)  # the machine may be busy


class PacedEngine(Engine):
    """An engine of at most fifty tokens a second, so that there is time for what happens meanwhile."""

    def step(self) -> None:
        time.sleep(PACE_SECONDS)
        super().step()


@contextmanager
def paced_service(port: int) -> Iterator[Service]:
    config = ServiceConfig(engine=EngineConfig(max_running=8))
    with running(PRETRAINED, port, config, engine_type=PacedEngine) as made:
        yield made


@contextmanager
def desk_process(url: str, port: int) -> Iterator[str]:
    """The desk as `victorian app` starts it, once it answers; its address."""

    def answers() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    with streamlit_page(url, port):
        assert soon(answers, 60)
        yield f"http://127.0.0.1:{port}"


@dataclass
class Sheet:
    """A page of the desk, as somebody who writes on it meets it."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.page.on("pageerror", lambda error: self.complaints.append(f"uncaught: {error}"))
        self.page.on("dialog", lambda dialog: self.complaints.append(f"dialog: {dialog.message}"))
        self.page.on("request", lambda request: self.hosts.add(_host(request.url)))

    @property
    def area(self) -> Locator:
        return self.page.get_by_label("Manuscript", exact=True)

    @property
    def text(self) -> str:
        return self.area.input_value()

    @property
    def marked(self) -> str:
        """What is underlined as the model's."""
        return "".join(self.page.locator(".marks .model").all_text_contents())

    def button(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=name, exact=True)

    def type(self, text: str) -> None:
        self.area.click()
        self.area.press("Control+End")
        self.area.press_sequentially(text)

    def set_length(self, tokens: int) -> None:
        length = self.page.get_by_label("Length", exact=True)
        length.fill(str(tokens))
        length.press("Enter")

    @property
    def account(self) -> Locator:
        """The line under the sheet."""
        return self.page.get_by_test_id("stCaptionContainer").filter(has_text=re.compile("words|tokens"))

    def written(self) -> None:
        """Wait until a passage has ended and the page shows it."""
        expect(self.account).to_contain_text(re.compile("It reached its length|It was stopped|It came to its end"))
        expect(self.button("Continue")).to_be_enabled()

    def middle(self, place: Locator) -> tuple[float, float]:
        """Of something that is drawn anew again and again, where it is now."""
        boxes: list[FloatRect] = []
        assert soon(lambda: bool((box := place.bounding_box()) and not boxes.append(box)))
        return boxes[0]["x"] + boxes[0]["width"] / 2, boxes[0]["y"] + boxes[0]["height"] / 2

    def findings(self) -> list[str]:
        """What axe finds serious or critical."""
        found = Axe().run(self.page).response["violations"]
        return [
            f"{finding['id']}: {node['target']} {node['failureSummary']}"
            for finding in found
            for node in finding["nodes"]
            if finding["impact"] in ("serious", "critical")
        ]


def _host(url: str) -> str:
    """Whom a request goes to; data in an address goes to nobody else."""
    return urlsplit(url).hostname or "127.0.0.1"


Open = Callable[..., Sheet]


@pytest.fixture(scope="module")
def desk_browser(request: pytest.FixtureRequest) -> Iterator[Browser]:
    """The browser that the tests of this folder share, where they do: a process can drive but one at a time."""
    try:
        yield request.getfixturevalue("browser")
    except pytest.FixtureLookupError:
        chromium = shutil.which("chromium")
        if chromium is None:
            pytest.skip("no chromium here: `apt-get install chromium`")
        with sync_playwright() as playwright:
            launched = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            yield launched
            launched.close()


@pytest.fixture(scope="module")
def paced(free_port: Callable[[], int]) -> Iterator[Service]:
    with paced_service(free_port()) as made:
        yield made


@pytest.fixture(scope="module")
def address(paced: Service, free_port: Callable[[], int]) -> Iterator[str]:
    with desk_process(paced.url, free_port()) as url:
        yield url


@pytest.fixture
def open_desk(desk_browser: Browser, address: str) -> Iterator[Open]:
    """Opens the desk in a session of its own: `open_desk(color_scheme="dark")`; fails the test that it complains in."""
    opened: list[Sheet] = []
    with ExitStack() as contexts:

        def visit(at: str = address, **options: object) -> Sheet:
            context = desk_browser.new_context(**({"viewport": {"width": 1280, "height": 860}} | options))  # type: ignore[arg-type]
            contexts.callback(context.close)
            sheet = Sheet(context.new_page())
            opened.append(sheet)
            sheet.page.goto(at)
            expect(sheet.area).to_be_visible(timeout=60_000)
            return sheet

        yield visit
        for sheet in opened:
            assert sheet.complaints == []
            assert sheet.hosts == {"127.0.0.1"}


@pytest.fixture
def shoot(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Sheet, str], None]:
    """Takes a screenshot, into the folder of `--screenshots` where that is given."""
    folder = Path(request.config.getoption("--screenshots", default=None) or tmp_path)

    def take(sheet: Sheet, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        sheet.page.screenshot(path=folder / f"desk-{name}.png")

    return take
