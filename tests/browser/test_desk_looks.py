"""How the writing desk looks in light, in dark and on a telephone, and whether axe finds it in anybody's way."""

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser.desk_fixtures import PHONE, Open, Sheet, address, desk_browser, open_desk, paced, shoot
from tests.running_service import soon

__all__ = ["address", "desk_browser", "open_desk", "paced", "shoot"]

pytestmark = [pytest.mark.browser, pytest.mark.slow]

BEGINNING = "It was a dark and stormy night; the rain fell in torrents upon the moor, and"
Shoot = Callable[[Sheet, str], None]
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
        shoot(sheet, f"{name}-empty")
        sheet.area.fill(BEGINNING)
        sheet.page.get_by_text("Token view").click()
        sheet.area.press("Control+Enter")
        expect(sheet.button("Stop")).to_be_visible()
        assert soon(lambda: len(sheet.text) > len(BEGINNING) + 200, 20)
        shoot(sheet, f"{name}-writing")
        assert sheet.findings() == []
        sheet.area.press("Escape")
        sheet.written()
        sheet.area.evaluate("(area, at) => area.setSelectionRange(at, at)", len(BEGINNING) + 20)
        sheet.area.press("Control+.")
        expect(sheet.page.locator(".choices")).to_be_visible()
        shoot(sheet, f"{name}-choices")
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
        shoot(sheet, f"{name}-panel")
        assert sheet.findings() == []
