"""The page at `/` to the eye, to a screen reader, and to whoever waits for it."""

from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.browser.conftest import Shoot, Start, Visit
from tests.browser.manuscript import BEGINNING, button, connected, ended, streaming, write
from tests.running_service import Service
from tests.service.conftest import Keys
from victorian.config import AccessConfig

pytestmark = pytest.mark.browser

PHONE = {"viewport": {"width": 375, "height": 700}, "is_mobile": True, "has_touch": True, "device_scale_factor": 2}
FIRST_PAINT = """new Promise((tell) => {
    const seen = (list) => list.getEntriesByName("first-contentful-paint").forEach((one) => tell(one.startTime));
    new PerformanceObserver(seen).observe({type: "paint", buffered: true});
})"""
"""Milliseconds from asking for the page."""


def findings(page: Page) -> list[str]:
    """What axe finds that is serious or critical."""
    found = Axe().run(page).response["violations"]
    return [
        f"{one['id']}: {[node['target'] for node in one['nodes']]}"
        for one in found
        if one["impact"] in ("serious", "critical")
    ]


class TestLooks:
    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_accessible_at_every_stage(self, prose: Service, visit: Visit, shoot: Shoot, scheme: str) -> None:
        page = visit(prose.url, color_scheme=scheme)
        connected(page)
        shoot(page, f"page-{scheme}-empty")
        assert findings(page) == []
        page.get_by_label("Seed").fill("3")
        write(page, f"{BEGINNING}, and the coach from Exeter had not yet come in when the landlord", 90)
        ended(page)
        page.get_by_label("Manuscript").press("Control+End")
        page.keyboard.type("\n\n“And who,” said she, “will go down to the gate?”\n\n")
        write(page, length=90)
        ended(page)
        button(page, "Retry")
        ended(page)
        shoot(page, f"page-{scheme}")
        page.get_by_text("Who wrote what", exact=True).click()
        assert findings(page) == []
        page.locator("#passages").scroll_into_view_if_needed()
        shoot(page, f"page-{scheme}-authors")

    def test_what_the_model_writes_is_in_sight_wherever_the_page_was(self, paced: Service, visit: Visit) -> None:
        page = visit(paced.url)
        connected(page)
        page.get_by_label("Manuscript").fill("It was dark.\n" * 60)
        page.evaluate("scrollTo(0, 0)")
        write(page, length=60)
        streaming(page)
        below = page.evaluate(
            "document.getElementById('sheet').getBoundingClientRect().bottom"
            " - document.getElementById('desk').getBoundingClientRect().top"
        )
        assert below <= 1

    def test_on_a_telephone(self, prose: Service, visit: Visit, shoot: Shoot) -> None:
        page = visit(prose.url, **PHONE)
        connected(page)
        shoot(page, "page-phone-empty")
        write(page, f"{BEGINNING}, and the coach from Exeter had not yet come in", 150)
        ended(page)
        shoot(page, "page-phone")
        assert findings(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= 375
        below = page.evaluate(
            "document.querySelector('#mirror').getBoundingClientRect().bottom - innerHeight + "
            "document.querySelector('#desk').offsetHeight"
        )
        assert below < 120, "the page did not follow what was written"
        for name in ("Continue", "Stop", "Retry", "Copy"):
            box = page.get_by_role("button", name=name, exact=True).bounding_box()
            assert box is not None
            assert box["height"] >= 40
        page.get_by_text("Settings").click()
        page.get_by_label("Seed").scroll_into_view_if_needed()
        shoot(page, "page-phone-settings")

    def test_the_door(self, start: Start, visit: Visit, shoot: Shoot, tmp_path: Path) -> None:
        keys = Keys(tmp_path / "keys")
        with start(access=AccessConfig(keys_file=str(keys.file))) as service:
            page = visit(service.url, **PHONE)
            expect(page.get_by_label("Key", exact=True)).to_be_visible()
            shoot(page, "page-door")
            assert findings(page) == []

    def test_the_mirror_lies_on_the_text(self, service: Service, visit: Visit) -> None:
        """Or marks would stand under other words than the model's."""
        page = visit(service.url)
        page.get_by_label("Manuscript").fill(f"{'many words of a story ' * 60}\n\nand\tmore {'longword' * 40}\n")
        heights = page.evaluate("['#manuscript', '#mirror'].map((one) => document.querySelector(one).scrollHeight)")
        assert heights[0] == heights[1]

    def test_it_is_small_and_soon_there(self, service: Service, visit: Visit) -> None:
        page = visit(service.url)
        connected(page)
        paint = page.evaluate(FIRST_PAINT)
        size = page.evaluate(
            """[...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")]
                .reduce((sum, one) => sum + one.transferSize, 0)"""
        )
        assert size < 60_000
        assert paint < 2_000  # benchmarks/page.py measures; here the machine may be busy
