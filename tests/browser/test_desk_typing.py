"""Who types and acts faster than the desk answers loses no letter and no press."""

import re

import pytest
from playwright.sync_api import WebSocketRoute, expect

from tests.browser.conftest import Open
from tests.browser.sheet import Sheet

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def answered(sheet: Sheet, story: str) -> object:
    """What the sheet shows, and tells Python as typed, when it is answered as the story has it."""
    sheet.type("It was dark.")
    sheet.area.blur()
    expect(sheet.account).to_contain_text("3 words")
    sheet.settled()
    return sheet.area.evaluate(
        """(area, story) => {
            const { sheet } = area.closest(".desk");
            const [texts, told] = [[], []];
            let data = { ...sheet.data, epoch: 1, heard: sheet.sent, acted: 0 };
            const answer = (changes) => {
                data = { ...data, ...changes };
                sheet.update({
                    data, setStateValue: (name, edit) => told.push(edit.text), setTriggerValue: () => {},
                });
            };
            const type = (text) => {
                area.setRangeText(text, area.value.length, area.value.length, "end");
                area.dispatchEvent(new InputEvent("input", { bubbles: true }));
            };
            const note = () => texts.push(area.value);
            const [ours, theirs] = [["It was dark.", "writer", null, null], [" He left.", "model", null, null]];
            answer({});
            new Function("sheet", "answer", "type", "note", "ours", "theirs", story)(
                sheet, answer, type, note, ours, theirs,
            );
            return { texts, told };
        }""",
        story,
    )


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
        shown = answered(
            open_desk(),
            """
            type(" QQQ");
            sheet.send();
            answer({ epoch: 2, writing: true, segments: [ours] });
            note();
            answer({ epoch: 3, writing: false, segments: [ours, theirs] });
            sheet.send();
            note();
            """,
        )
        whole = "It was dark. He left. QQQ"
        assert shown == {"texts": ["It was dark.", whole], "told": ["It was dark. QQQ", whole]}

    def test_what_comes_after_a_press_is_nothing_that_was_typed(self, open_desk: Open) -> None:
        shown = answered(
            open_desk(),
            """
            answer({ epoch: 2, writing: true, segments: [ours] });
            sheet.act("stop");
            answer({ segments: [ours, theirs] });
            answer({ epoch: 3, writing: false, acted: sheet.sent, segments: [ours, theirs] });
            sheet.send();
            note();
            """,
        )
        assert shown == {"texts": ["It was dark. He left."], "told": []}

    def test_what_two_presses_took_back_stays_away(self, open_desk: Open) -> None:
        shown = answered(
            open_desk(),
            """
            type(" QQQ");
            sheet.act("undo");
            const first = sheet.sent;
            sheet.act("undo");
            answer({ epoch: 2, heard: first, acted: first, segments: [ours] });
            answer({ epoch: 3, heard: first, acted: sheet.sent, segments: [] });
            sheet.send();
            note();
            """,
        )
        assert shown == {"texts": [""], "told": []}

    def test_a_token_without_a_text_is_no_hindrance(self, open_desk: Open) -> None:
        shown = answered(
            open_desk(),
            """
            answer({ epoch: 2, segments: [["", "model", null, 0], ours, ["", "model", null, 1]] });
            sheet.act("undo");
            answer({ epoch: 3, acted: sheet.sent, segments: [["", "model", null, 0], theirs] });
            note();
            """,
        )
        assert shown == {"texts": [" He left."], "told": []}

    def test_what_is_typed_before_a_page_is_turned_stays_on_its_own(self, open_desk: Open) -> None:
        sheet = open_desk()
        sheet.area.fill("word " * 4_000)
        sheet.area.blur()
        expect(sheet.account).to_contain_text("4,000 words")

        def turn_to(page: int, shows: str) -> None:
            sheet.page.get_by_label(f"Page {page}", exact=True).click()
            expect(sheet.area).to_have_value(re.compile(shows))

        turn_to(2, "^(word ){1500,3000}$")
        sheet.settled()
        sheet.type("QQQ")
        turn_to(1, "^(word ){1500,3000}$")
        expect(sheet.account).to_contain_text("4,001 words")
        turn_to(2, "^(word )+QQQ$")

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
