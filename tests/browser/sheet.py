"""The writing desk in its own process, and what somebody does and sees who writes on it."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page, expect

from victorian.demo import streamlit_page

PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}


@contextmanager
def desk_process(url: str, port: int) -> Iterator[str]:
    """The desk as `victorian app` starts it, once it answers; its address."""
    with streamlit_page(url, port):
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
        self.settled()

    def settled(self) -> None:
        """Wait until the page's run is over and what it changed has come to rest.

        A run shows what it made piece by piece, and a browser that is busy may have only the first of it.
        """
        expect(self.page.get_by_test_id("stApp")).to_have_attribute("data-test-script-state", "notRunning")
        self._at_rest()

    def _at_rest(self) -> None:
        """Wait until no colour is on its way to another; the caret of what is being written blinks on."""
        # Looked at again and again: the promise of one that is replaced meanwhile may never be kept.
        self.page.wait_for_function(
            """() => !document.getAnimations().some(
                (one) => one instanceof CSSTransition && one.playState === "running"
            )""",
            polling=50,
        )

    def middle(self, place: Locator) -> tuple[float, float]:
        """Of the last line of something that is drawn anew again and again, where it is now: a word may be on two."""
        found = place.evaluate(
            """(element) => {
                const { x, y, width, height } = [...element.getClientRects()].at(-1);
                return [x + width / 2, y + height / 2];
            }"""
        )
        return found[0], found[1]

    def findings(self) -> list[str]:
        """What axe finds serious or critical."""
        self._at_rest()
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
