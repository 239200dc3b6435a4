"""The page at `/`, as a writer uses it."""

import json

import pytest
from playwright.sync_api import WebSocketRoute, expect

from tests.browser.conftest import Visit
from tests.browser.manuscript import BEGINNING, button, connected, ended, streaming, text, write, written
from tests.running_service import Service
from victorian.client import Client
from victorian.config import SamplingParameters
from victorian.service.page import CONTROLS
from victorian.service.protocol import MAX_PROMPT_CHARACTERS

pytestmark = pytest.mark.browser


class TestWriting:
    def test_the_model_goes_on_from_what_was_typed(self, service: Service, visit: Visit) -> None:
        page = visit(service.url)
        write(page, BEGINNING)
        ended(page, "the 12 tokens asked for")
        (passage,) = written(page)
        assert text(page) == BEGINNING + passage
        for figure in ("tokens/s", "first in", "seed"):
            expect(page.locator("#figures")).to_contain_text(figure)
        button(page, "Continue")
        ended(page)
        assert text(page).startswith(BEGINNING + passage)
        assert len(text(page)) > len(BEGINNING + passage)

    def test_an_empty_page_begins_a_book(self, service: Service, visit: Visit) -> None:
        page = visit(service.url)
        write(page)
        ended(page)
        assert [text(page)] == written(page)

    def test_it_says_what_the_service_says_for_the_same_seed(self, service: Service, visit: Visit) -> None:
        page = visit(service.url)
        page.get_by_label("Temperature").fill("0.7")
        page.get_by_label("Top-k").fill("40")
        page.get_by_label("Seed").fill("11")
        write(page, BEGINNING, 20)
        ended(page)
        same = SamplingParameters(temperature=0.7, top_k=40, seed=11, max_tokens=20)
        with Client(service.url) as client:
            assert text(page) == BEGINNING + "".join(client.stream(BEGINNING, same))

    def test_the_parameters_are_those_of_their_definition(self, service: Service, visit: Visit) -> None:
        page = visit(service.url)
        parameters = SamplingParameters()
        for name, label, _, _ in CONTROLS:
            field = page.get_by_label(label)
            default = getattr(parameters, name)
            assert field.input_value() == ("" if default is None else str(default))
            expect(page.locator(f"#{name}-help")).to_have_text(SamplingParameters.model_fields[name].description or "")
            for bound in ("min", "max"):
                value = json.loads(field.get_attribute(bound) or "")
                SamplingParameters(**{name: value})

    def test_a_number_out_of_range_is_told_of_and_nothing_is_asked(self, service: Service, visit: Visit) -> None:
        page = visit(service.url)
        connected(page)
        write(page, BEGINNING, 0)
        expect(page.get_by_role("status")).to_contain_text("Length:")
        expect(page.get_by_label("Length")).to_be_focused()
        assert text(page) == BEGINNING

    def test_stop_ends_it_and_keeps_what_has_come(self, paced: Service, visit: Visit) -> None:
        page = visit(paced.url)
        write(page, BEGINNING, 30_000)
        streaming(page)
        button(page, "Stop")
        ended(page, "Stopped")
        assert paced.idle()
        assert text(page) == BEGINNING + written(page)[0]

    def test_retry_writes_the_passage_again_and_loses_no_version(self, service: Service, visit: Visit) -> None:
        page = visit(service.url)
        write(page, BEGINNING)
        ended(page)
        first = text(page)
        button(page, "Retry")
        ended(page)
        second = text(page)
        assert second.startswith(BEGINNING)
        assert second != first
        button(page, "Earlier version")
        assert text(page) == first
        assert [text(page)] == [BEGINNING + written(page)[0]]
        button(page, "Later version")
        assert text(page) == second

    def test_writer_and_model_are_told_apart_after_any_edit(self, service: Service, visit: Visit) -> None:
        page = visit(service.url)
        write(page, "One")
        ended(page)
        passage = written(page)[0]
        field = page.get_by_label("Manuscript")
        field.evaluate("(field, at) => field.setSelectionRange(at, at + 2)", len("One") + 4)
        field.press_sequentially("XYZ")
        assert written(page) == [passage[:4], passage[6:]]
        field.press("Control+Home")
        field.press_sequentially("Once. ")
        assert written(page) == [passage[:4], passage[6:]]
        page.get_by_text("Who wrote what", exact=True).click()
        expect(page.locator("#passages li")).to_have_count(4)
        listed = page.locator("#passages li").all_inner_texts()
        assert [one.split("\n", 1)[0] for one in listed] == ["You", "The model", "You", "The model"]
        assert listed[0].endswith("Once. One")
        expect(page.locator("#mirror span").first).to_have_css("text-decoration-line", "underline")
        expect(page.locator("#mirror span").first).to_have_css("text-decoration-style", "dotted")

    def test_who_types_meanwhile_keeps_every_letter(self, paced: Service, visit: Visit) -> None:
        page = visit(paced.url)
        write(page, BEGINNING, 80)
        streaming(page)
        field = page.get_by_label("Manuscript")
        field.press("Control+Home")
        field.press_sequentially("Chapter I. ")
        ended(page)
        assert text(page) == f"Chapter I. {BEGINNING}{written(page)[0]}"

    def test_letters_that_a_keyboard_puts_together_are_not_torn_apart(self, paced: Service, visit: Visit) -> None:
        page = visit(paced.url)
        write(page, BEGINNING, 60)
        streaming(page)
        page.get_by_label("Manuscript").press("Control+Home")
        keyboard = page.context.new_cdp_session(page)
        for letters in ("n", "ni", "nig"):
            keyboard.send("Input.imeSetComposition", {"text": letters, "selectionStart": 3, "selectionEnd": 3})
            page.wait_for_timeout(100)  # several tokens, none of which may end the composition
        keyboard.send("Input.insertText", {"text": "night. "})
        ended(page)
        assert text(page) == f"night. {BEGINNING}{written(page)[0]}"

    def test_a_text_longer_than_the_model_sees_is_gone_on_with(self, service: Service, visit: Visit) -> None:
        """One that is sent as it is and refused, since its tokens are short, and one that is cut at once."""
        for beginning in ("x1" * service.engine.context, "and then the " * 500):
            page = visit(service.url)
            write(page, beginning)
            ended(page)
            assert text(page) == beginning + written(page)[0]
            expect(page.locator("#figures")).to_contain_text("the model read your last")

    def test_of_a_text_longer_than_a_service_reads_at_once_the_end_is_read(
        self, service: Service, visit: Visit
    ) -> None:
        """By a model of a context so large that the text's end, as it has room there, is longer than that."""
        asked: list[int] = []

        def large(route: WebSocketRoute) -> None:
            server = route.connect_to_server()

            def offer(message: str | bytes) -> None:
                said = json.loads(message)
                for model in said.get("models", ()):
                    model["context"] = 30_000
                route.send(json.dumps(said))

            def ask(message: str | bytes) -> None:
                said = json.loads(message)
                asked.append(len(said["prompt"]))
                server.send(json.dumps({**said, "prompt": said["prompt"][-20:]}))

            server.on_message(offer)
            route.on_message(ask)

        page = visit(service.url, before=lambda page: page.route_web_socket("**/v1/stream", large))
        write(page, "and then " * (MAX_PROMPT_CHARACTERS // 8))
        ended(page)
        assert len(asked) == 1
        assert 20_000 < asked[0] < 30_000

    def test_both_halves_of_a_line_end_are_one_line_end(self, service: Service, visit: Visit) -> None:
        def halves(route: WebSocketRoute) -> None:
            server = route.connect_to_server()
            words = iter(["a\r", "", "\nb\r", "\n\r\n", "c\r", "d"])

            def tell(message: str | bytes) -> None:
                said = json.loads(message)
                if said["type"] == "token":
                    said["text"] = next(words)
                route.send(json.dumps(said))

            server.on_message(tell)

        page = visit(service.url, before=lambda page: page.route_web_socket("**/v1/stream", halves))
        write(page, "It", 6)
        ended(page)
        assert text(page) == "Ita\nb\n\nc\nd"

    def test_markup_is_text_and_any_script_is_written_its_own_way(self, service: Service, visit: Visit) -> None:
        page = visit(service.url)
        pasted = "<script>console.error('run')</script><img src=x onerror=\"console.error('run')\"> שלום 👩‍👩‍👧 \n"
        field = page.get_by_label("Manuscript")
        field.focus()
        page.evaluate(
            """(text) => {
                const data = new DataTransfer();
                data.setData("text/html", text);
                data.setData("text/plain", text);
                document.activeElement.dispatchEvent(new ClipboardEvent("paste", {clipboardData: data}));
                document.execCommand("insertText", false, text);
            }""",
            pasted,
        )
        write(page, None, 5)
        ended(page)
        page.get_by_text("Who wrote what", exact=True).click()
        assert text(page).startswith(pasted)
        expect(page.locator("#passages li").first).to_contain_text("<script>console.error('run')</script>")
        assert page.locator("main script, main img").count() == 0

    def test_control_characters_do_no_harm(self, service: Service, visit: Visit) -> None:
        page = visit(service.url)
        write(page, "It\x00 was\x1b[31m\x07 \ud83d dark", 5)
        ended(page)
        assert text(page).startswith("It")
        assert text(page).endswith(written(page)[0])

    def test_copy(self, service: Service, visit: Visit) -> None:
        page = visit(service.url, permissions=["clipboard-read", "clipboard-write"])
        write(page, BEGINNING)
        ended(page)
        button(page, "Copy")
        expect(page.get_by_role("status")).to_have_text("Copied.")
        assert page.evaluate("navigator.clipboard.readText()") == text(page)

    def test_the_text_outlives_a_reload_and_not_the_tab(self, service: Service, visit: Visit) -> None:
        page = visit(service.url)
        write(page, BEGINNING)
        ended(page)
        before = text(page), written(page)
        page.reload()
        assert (text(page), written(page)) == before
        other = page.context.new_page()
        other.goto(service.url)
        assert text(other) == ""

    def test_so_do_the_versions_of_the_last_passage(self, service: Service, visit: Visit) -> None:
        page = visit(service.url)
        write(page, BEGINNING)
        ended(page)
        first = text(page)
        page.evaluate(
            """() => {  // and leaves before anything has come
                document.getElementById("retry").click();
                dispatchEvent(new Event("pagehide"));
                const kept = {...sessionStorage};
                addEventListener("pagehide", () => Object.assign(sessionStorage, kept));
                location.reload();
            }"""
        )
        expect(page.get_by_label("Manuscript")).to_have_value(first)
        assert written(page) == [first.removeprefix(BEGINNING)]
        button(page, "Retry")
        ended(page)
        second = text(page)
        page.reload()
        expect(page.get_by_label("Manuscript")).to_have_value(second)
        expect(page.locator("#take")).to_have_text("2 of 2")
        page.locator("#earlier").click()
        expect(page.get_by_label("Manuscript")).to_have_value(first)

    def test_by_keyboard_alone(self, paced: Service, visit: Visit) -> None:
        page = visit(paced.url)
        expect(page.get_by_label("Manuscript")).to_be_focused()
        page.keyboard.type(BEGINNING)
        page.keyboard.press("Control+Enter")
        streaming(page)
        page.keyboard.press("Escape")
        ended(page, "Stopped")
        reached = []
        for _ in range(4):
            page.keyboard.press("Tab")
            reached.append(page.evaluate("document.activeElement.textContent"))
        assert reached == ["Continue", "Stop", "Retry", "Copy"]

    def test_two_tabs_do_not_hear_each_other(self, paced: Service, visit: Visit) -> None:
        one, other = visit(paced.url), visit(paced.url)
        write(one, "One", 40)
        write(other, "Other", 40)
        ended(one)
        ended(other)
        assert text(one) == "One" + written(one)[0]
        assert text(other) == "Other" + written(other)[0]
