"""What a writer looks at and is in stays where it is, whatever the model does beside it."""

import time
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Locator, expect

from tests.browser.conftest import Open, Shoot, Start
from tests.browser.sheet import PHONE, Sheet, desk_process
from tests.running_service import soon
from victorian.engine.engine import Engine

pytestmark = [pytest.mark.browser, pytest.mark.slow]

SLOW_SECONDS = 0.4
PASSAGES = 8
"""The sheet was gone in about two of ten."""
LONG = "\n\n".join(f"{n} " + "It was the best of times, said she. " * 8 for n in range(16))
SMALL: dict[str, Any] = {"viewport": {"width": 640, "height": 480}}


def top(sheet: Sheet) -> float:
    """How far the page is scrolled."""
    scrolled: float = sheet.page.get_by_test_id("stMain").evaluate("(main) => main.scrollTop")
    return scrolled


def at_caret(sheet: Sheet) -> str:
    """What stands around the caret, which is a bar."""
    said: str = sheet.area.evaluate(
        "({value, selectionStart: at}) => `${value.slice(at - 6, at)}|${value.slice(at, at + 3)}`"
    )
    return said


def in_sight(sheet: Sheet, place: Locator) -> bool:
    """Whether all of it is, above the row of buttons."""
    box, row = place.bounding_box(), sheet.page.get_by_test_id("stBottom").bounding_box()
    return box is not None and row is not None and box["y"] >= 0 and box["y"] + box["height"] <= row["y"]


class SlowEngine(Engine):
    """An engine whose first token comes after the browser's first look."""

    def step(self) -> None:
        time.sleep(SLOW_SECONDS)
        super().step()


class TestPlace:
    def test_the_sheet_and_the_caret_in_it_stay_while_the_first_word_is_waited_for(
        self, open_desk: Open, start: Start, free_port: Callable[[], int]
    ) -> None:
        with start(engine_type=SlowEngine) as slow, desk_process(slow.url, free_port()) as url:
            sheet = open_desk(url)
            sheet.set_length(2)
            sheet.type("It was")
            first = sheet.area.element_handle()
            assert first
            for _ in range(PASSAGES):
                sheet.area.press("Control+Enter")
                expect(sheet.button("Stop")).to_be_visible()
                sheet.written()
                assert first.evaluate("(area) => area.isConnected")
                expect(sheet.area).to_be_focused()

    def test_the_focus_of_who_presses_a_button_with_a_key_goes_to_the_sheet(self, open_desk: Open) -> None:
        sheet = open_desk()
        sheet.set_length(2_000)
        sheet.type("It was")
        for name, other in (("Continue", "Stop"), ("Stop", "Continue")):
            sheet.button(name).focus()
            sheet.page.keyboard.press("Enter")
            expect(sheet.button(other)).to_be_visible()
            expect(sheet.area).to_be_focused()
        sheet.written()
        sheet.button("Continue").click()
        expect(sheet.button("Stop")).to_be_visible()
        sheet.button("Stop").click()
        sheet.written()
        expect(sheet.area).not_to_be_focused()

    def test_what_is_taken_back_is_where_the_caret_and_the_view_are(self, open_desk: Open) -> None:
        sheet = open_desk()
        sheet.area.fill(LONG)
        sheet.area.blur()
        expect(sheet.button("Undo")).to_be_enabled()
        sheet.settled()
        sheet.area.focus()
        sheet.area.evaluate(
            "(area) => { const at = area.value.indexOf('best', 900); area.setSelectionRange(at, at + 4); }"
        )
        sheet.page.keyboard.type("WORST")
        expect(sheet.page.get_by_text("WORST")).to_be_attached()
        sheet.area.blur()
        sheet.settled()
        before = top(sheet)
        sheet.area.press("Control+z")
        expect(sheet.area).to_have_value(LONG)
        assert at_caret(sheet).startswith("e best|")
        assert abs(top(sheet) - before) < 300
        sheet.area.press("Control+y")
        expect(sheet.area).not_to_have_value(LONG)
        assert at_caret(sheet) == " WORST| of"

    def test_who_corrects_a_word_and_has_the_model_go_on_sees_that_and_keeps_the_caret(self, open_desk: Open) -> None:
        sheet = open_desk()
        sheet.set_length(8)
        sheet.area.fill(LONG)
        sheet.area.evaluate("(area) => area.setSelectionRange(500, 504)")
        sheet.area.press("Control+Enter")
        sheet.written()
        assert sheet.marked
        caret = sheet.area.evaluate("(area) => [area.selectionStart, area.selectionEnd]")
        assert caret == [500, 504]
        expect(sheet.page.locator(".marks .model").last).to_be_in_viewport()

    def test_a_page_that_is_turned_to_begins_at_its_beginning(self, open_desk: Open) -> None:
        sheet = open_desk()
        sheet.area.fill(LONG * 10)
        sheet.area.blur()
        expect(sheet.page.get_by_label("Page 3", exact=True)).to_be_visible()
        sheet.settled()
        for page in (3, 2):
            turned = sheet.text
            sheet.page.get_by_label(f"Page {page}", exact=True).click()
            expect(sheet.area).not_to_have_value(turned)
            expect(sheet.page.get_by_role("heading", name="The writing desk")).to_be_in_viewport()
            assert sheet.area.evaluate("(area) => area.selectionStart") == 0

    @pytest.mark.parametrize("options", [{}, PHONE, SMALL], ids=["wide", "phone", "small"])
    def test_what_is_to_be_chosen_is_in_sight(self, open_desk: Open, shoot: Shoot, options: dict[str, Any]) -> None:
        sheet = open_desk(**options)
        sheet.area.fill(LONG)
        sheet.page.get_by_text("Token view").click()
        sheet.area.press("Control+Enter")
        assert soon(lambda: len(sheet.marked) > 30, 20)
        sheet.area.press("Escape")
        sheet.written()
        sheet.area.evaluate("(area) => area.setSelectionRange(area.value.length - 1, area.value.length - 1)")
        sheet.area.press("Control+.")
        choices = sheet.page.locator(".choices")
        expect(choices).to_be_visible()
        assert in_sight(sheet, choices)
        sheet.page.keyboard.press("Escape")
        sheet.button("Three ways").click()
        expect(sheet.page.locator(".way")).to_have_count(3)
        expect(sheet.button("Stop")).to_be_visible()
        sheet.button("Stop").click()
        expect(sheet.button("Stop")).to_be_hidden()
        sheet.settled()
        shoot(sheet.page, f"desk-ways-{'-'.join(options) or 'wide'}")
        assert in_sight(sheet, sheet.page.get_by_text("Way 1", exact=True))

    def test_what_went_wrong_is_said_in_sight_of_who_writes(self, open_desk: Open) -> None:
        sheet = open_desk()
        sheet.page.get_by_label("Memory", exact=True).fill("Pip is a boy. " * 400)
        sheet.area.fill(LONG)
        sheet.page.get_by_test_id("stMain").evaluate("(main) => main.scrollTo(0, main.scrollHeight)")
        sheet.button("Continue").click()
        expect(sheet.page.get_by_role("alert")).to_contain_text("shorten it")
        expect(sheet.page.get_by_role("alert")).to_be_in_viewport(ratio=1)

    def test_a_key_is_seen_to_be_heard_before_the_desk_has_answered(self, open_desk: Open) -> None:
        sheet = open_desk()
        sheet.set_length(8)
        sheet.type("It was")
        seen = sheet.area.evaluate(
            """(area) => {
                area.dispatchEvent(new KeyboardEvent("keydown", {key: "Enter", ctrlKey: true}));
                return area.closest(".desk").querySelector(".end").className;
            }"""
        )
        assert seen == "end writing"
        sheet.written()
        expect(sheet.page.locator(".end")).to_have_class("end")
