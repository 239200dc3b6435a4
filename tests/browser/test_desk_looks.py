"""How the writing desk looks in light, in dark and on a telephone, and whether axe finds it in anybody's way."""

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Open, Shoot
from tests.browser.sheet import PHONE
from tests.running_service import soon

pytestmark = [pytest.mark.browser, pytest.mark.slow]

BEGINNING = "It was a dark and stormy night; the rain fell in torrents upon the moor, and"
LOOKS: Any = pytest.mark.parametrize(
    ("name", "options"), [("light", {"color_scheme": "light"}), ("dark", {"color_scheme": "dark"}), ("phone", PHONE)]
)


class TestLooks:
    @LOOKS
    def test_nothing_serious_stands_in_anybodys_way(
        self, open_desk: Open, shoot: Shoot, name: str, options: dict[str, Any]
    ) -> None:
        sheet = open_desk(**options)
        expect(sheet.button("A letter")).to_be_visible()
        assert sheet.findings() == []
        shoot(sheet.page, f"desk-{name}-empty")
        sheet.area.fill(BEGINNING)
        sheet.page.get_by_text("Token view").click()
        sheet.area.press("Control+Enter")
        expect(sheet.button("Stop")).to_be_visible()
        assert soon(lambda: len(sheet.text) > len(BEGINNING) + 200, 20)
        shoot(sheet.page, f"desk-{name}-writing")
        assert sheet.findings() == []
        sheet.area.press("Escape")
        sheet.written()
        sheet.area.evaluate("(area, at) => area.setSelectionRange(at, at)", len(BEGINNING) + 20)
        sheet.area.press("Control+.")
        expect(sheet.page.locator(".choices")).to_be_visible()
        shoot(sheet.page, f"desk-{name}-choices")
        assert sheet.findings() == []
        width = sheet.page.evaluate("document.documentElement.scrollWidth")
        assert width <= sheet.page.viewport_size["width"]  # type: ignore[index]

    @LOOKS
    def test_the_panel_neither(self, open_desk: Open, shoot: Shoot, name: str, options: dict[str, Any]) -> None:
        sheet = open_desk(**options)
        if name == "phone":
            sheet.page.get_by_test_id("stExpandSidebarButton").click()
        sheet.page.get_by_text("Advanced").click()
        expect(sheet.page.get_by_label("Temperature", exact=True)).to_be_visible()
        sheet.page.get_by_text("Service", exact=True).click()
        shoot(sheet.page, f"desk-{name}-panel")
        assert sheet.findings() == []

    def test_nor_who_wrote_what_nor_the_runs(self, open_desk: Open, shoot: Shoot, toy_artifact: Path) -> None:
        sheet = open_desk()
        sheet.set_length(16)
        sheet.type(BEGINNING)
        sheet.area.press("Control+Enter")
        sheet.written()
        sheet.page.get_by_text("Who wrote what", exact=True).click()
        expect(sheet.page.locator(".hands li")).to_have_count(2)
        assert sheet.findings() == []
        sheet.page.get_by_role("link", name="Runs").click()
        folder = sheet.page.get_by_label("Folder of runs", exact=True)
        folder.fill(str(toy_artifact.parent.parent))
        folder.press("Enter")
        expect(sheet.page.get_by_role("button", name="Show data: Losses of 12 steps")).to_be_attached()
        expect(sheet.page.locator("svg.marks")).to_be_visible()
        shoot(sheet.page, "desk-runs")
        assert sheet.findings() == []
