"""Who types and acts faster than the desk answers loses no letter and no press."""

import re

import pytest
from playwright.sync_api import WebSocketRoute, expect

from tests.browser.conftest import Open

pytestmark = [pytest.mark.browser, pytest.mark.slow]


class TestTyping:
    def test_what_is_typed_before_an_undo_is_answered_stays(self, open_desk: Open) -> None:
        sheet = open_desk()
        sheet.type("It was dark.\n")
        sheet.area.blur()
        expect(sheet.account).to_contain_text("3 words")
        sheet.type("AAA")
        sheet.area.press("Control+z")
        sheet.area.press_sequentially("QQQ")
        expect(sheet.area).to_have_value("It was dark.\nQQQ")
        sheet.area.blur()
        expect(sheet.account).to_contain_text("4 words")
        expect(sheet.area).to_have_value("It was dark.\nQQQ")

    def test_nothing_can_be_typed_from_the_key_that_has_the_model_write(self, open_desk: Open) -> None:
        sheet = open_desk()
        sheet.set_length(8)
        sheet.type("It was dark.")
        assert sheet.area.evaluate(
            """(area) => {
                area.dispatchEvent(new KeyboardEvent("keydown", {key: "Enter", ctrlKey: true}));
                return area.readOnly;
            }"""
        )
        sheet.written()
        assert sheet.text == "It was dark." + sheet.marked
        expect(sheet.area).to_have_js_property("readOnly", False)

    def test_what_is_typed_behind_the_press_of_a_button_is_kept(self, open_desk: Open) -> None:
        sheet = open_desk()
        sheet.set_length(8)
        sheet.type("It was dark.")
        sheet.area.blur()
        expect(sheet.account).to_contain_text("3 words")
        sheet.settled()
        sheet.area.evaluate(
            """(area) => {
                document.querySelector(".st-key-continue button").click();
                area.setRangeText(" QQQ", area.value.length, area.value.length, "end");
                area.dispatchEvent(new InputEvent("input", {bubbles: true}));
            }"""
        )
        sheet.written()
        expect(sheet.area).to_have_value(re.compile(r"^It was dark\.(?s:.+) QQQ$"))

    def test_also_where_it_is_told_after_the_press_was_heeded(self, open_desk: Open) -> None:
        sheet = open_desk()
        sheet.type("It was dark.")
        sheet.area.blur()
        expect(sheet.account).to_contain_text("3 words")
        sheet.settled()
        shown = sheet.area.evaluate(
            """(area) => {
                const { sheet } = area.closest(".desk");
                const told = [];
                const answer = (changes) => sheet.update({
                    data: { ...sheet.data, ...changes },
                    setStateValue: (name, edit) => told.push(edit.text),
                    setTriggerValue: () => {},
                });
                const ours = ["It was dark.", "writer", null, null];
                answer({});
                area.setRangeText(" QQQ", area.value.length, area.value.length, "end");
                area.dispatchEvent(new InputEvent("input", {bubbles: true}));
                sheet.send();
                answer({ epoch: sheet.data.epoch + 1, writing: true, segments: [ours] });
                const meanwhile = area.value;
                answer({
                    epoch: sheet.data.epoch + 1, writing: false, segments: [ours, [" He left.", "model", null, null]],
                });
                sheet.send();
                return [meanwhile, area.value, told];
            }"""
        )
        whole = "It was dark. He left. QQQ"
        assert shown == ["It was dark.", whole, ["It was dark. QQQ", whole]]

    def test_what_was_typed_right_before_a_reload_is_there_after_it(self, open_desk: Open) -> None:
        sheet = open_desk()
        for typed, whole in (("It was", "It was"), (" DDD", "It was DDD")):
            sheet.type(typed)
            sheet.page.reload()
            expect(sheet.area).to_have_value(whole)
            expect(sheet.account).to_contain_text(f"{len(whole.split())} words")

    def test_a_key_whose_message_is_lost_is_asked_for_again(self, open_desk: Open) -> None:
        lost: list[str | bytes] = []

        def lossy(route: WebSocketRoute) -> None:
            server = route.connect_to_server()

            def tell(message: str | bytes) -> None:
                if not lost and b'"undo"' in (message if isinstance(message, bytes) else message.encode()):
                    lost.append(message)
                else:
                    server.send(message)

            route.on_message(tell)

        sheet = open_desk()
        sheet.page.route_web_socket("**/_stcore/stream", lossy)
        sheet.page.reload()
        sheet.type("It was")
        sheet.area.blur()
        expect(sheet.account).to_contain_text("2 words")
        sheet.area.press("Control+z")
        expect(sheet.area).to_have_value("")
        assert lost

    def test_a_passage_is_taken_at_the_moment_when_all_are_written(self, open_desk: Open) -> None:
        sheet = open_desk()
        sheet.set_length(8)
        sheet.type("It was dark.")
        sheet.button("Three ways").click()
        expect(sheet.button("Stop")).to_be_visible()
        sheet.page.evaluate(
            """() => new Promise((taken) => {
                const buttons = () => [...document.querySelectorAll("button")];
                const look = () => {
                    if (document.querySelector(".st-key-stop_writing button")) return;
                    watch.disconnect();
                    buttons().find((button) => button.innerText.trim() === "Take 2").click();
                    taken();
                };
                const watch = new MutationObserver(look);
                watch.observe(document.body, {subtree: true, childList: true});
                look();
            })"""
        )
        sheet.written()
