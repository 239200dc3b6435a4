"""The documentation's site in a real browser: it asks nobody else, it can be searched, and it fits a telephone."""

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Shoot, Visit

pytestmark = pytest.mark.browser

LOOKED_AT = ("index", "tutorial", "how-to/own-books", "reference/configuration", "reference/messages", "benchmarks")
RIGHTMOST = "Math.max(0, ...[...document.querySelectorAll('.toc-entry')].map((e) => e.getBoundingClientRect().right))"
TELEPHONE = {"width": 390, "height": 800}


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """Of the built pages, on this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("page", LOOKED_AT)
def test_a_page_fits_a_screen_and_a_telephone_and_asks_nobody_else(
    visit: Visit, shoot: Shoot, address: str, page: str
) -> None:
    name = page.replace("/", "-")
    large = visit(f"{address}/{page}.html")
    shoot(large, f"docs-{name}")
    assert large.evaluate(RIGHTMOST) <= large.evaluate("innerWidth"), "the page's contents beside it are cut off"
    small = visit(f"{address}/{page}.html", viewport=TELEPHONE)
    shoot(small, f"docs-{name}-telephone")
    assert small.evaluate("document.documentElement.scrollWidth") <= TELEPHONE["width"]


def test_the_site_is_searched_without_a_server(visit: Visit, site: Path) -> None:
    page = visit((site / "search.html").as_uri() + "?q=max_running")
    expect(page.locator("#search-results a").first).to_be_visible()
    assert "configuration.html" in " ".join(found(page))


def found(page: Page) -> list[str]:
    """Where the results of a search lead."""
    return [str(link.get_attribute("href")) for link in page.locator("#search-results a").all()]
