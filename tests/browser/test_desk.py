"""The writing desk in a real browser: what a writer does, and what happens to them."""

import re
import zipfile
from collections.abc import Callable
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import PRETRAINED, Open, PacedEngine, Shoot, Start
from tests.browser.sheet import Sheet, desk_process
from tests.running_service import Service, soon
from victorian.client.desk.manuscript import Manuscript, Piece
from victorian.client.desk.session import Session, loaded, saved
from victorian.client.desk.writing import LEFT_SECONDS

pytestmark = [pytest.mark.browser, pytest.mark.slow]

BEGINNING = "It was a dark and stormy night; the rain fell in torrents upon the moor, and"
HOSTILE = '</textarea><script>document.title="run"</script><img src=x onerror=alert(1)> ![x](http://example.org/x)'


class TestWriting:
    def test_a_passage_is_typed_streamed_stopped_retried_taken_back_and_brought_again(
        self, open_desk: Open, paced_prose: Service
    ) -> None:
        sheet = open_desk()
        sheet.type(BEGINNING)
        sheet.area.press("Control+Enter")
        expect(sheet.area).to_have_js_property("readOnly", True)
        assert soon(lambda: len(sheet.text) > len(BEGINNING) + 40, 20)
        sheet.area.press("Escape")
        sheet.written()
        assert paced_prose.idle()
        first = sheet.text
        assert first == BEGINNING + sheet.marked
        sheet.area.press("Control+Shift+Enter")
        expect(sheet.button("Stop")).to_be_visible()
        sheet.button("Stop").click()
        sheet.written()
        second = sheet.text
        assert second != first
        sheet.area.press("Control+z")
        expect(sheet.area).to_have_value(first)
        sheet.button("Undo").click()
        expect(sheet.area).to_have_value(BEGINNING)
        sheet.area.press("Control+y")
        sheet.button("Redo").click()
        expect(sheet.area).to_have_value(second)

    def test_a_click_right_after_typing_takes_what_was_typed_along(self, open_desk: Open) -> None:
        sheet = open_desk()
        sheet.set_length(16)
        sheet.type(BEGINNING)
        sheet.button("Continue").click()
        sheet.written()
        assert sheet.text == BEGINNING + sheet.marked
        sheet.type(" She said")
        sheet.button("Sentence").click()
        expect(sheet.button("Stop")).to_be_hidden(timeout=30_000)
        assert " She said" in sheet.text
        assert " She said" not in sheet.marked

    def test_what_is_edited_within_a_passage_is_the_writers(self, open_desk: Open) -> None:
        sheet = open_desk()
        sheet.set_length(24)
        sheet.type(BEGINNING)
        sheet.button("Continue").click()
        sheet.written()
        marked = sheet.marked
        sheet.area.press("Control+End")
        for _ in range(10):
            sheet.area.press("ArrowLeft")
        sheet.area.press_sequentially("QUITE")
        expect(sheet.page.get_by_text("QUITE")).to_have_class("writer")
        model, writer = sheet.page.locator(".marks .model").first, sheet.page.locator(".marks .writer").first
        expect(model).to_have_css("text-decoration-line", "underline")
        expect(model).to_have_css("text-decoration-style", "dotted")
        expect(writer).to_have_css("text-decoration-line", "none")
        sheet.area.blur()
        expect(sheet.button("Retry")).to_be_disabled()
        assert sheet.marked == marked
        assert sheet.text == BEGINNING + marked[:-10] + "QUITE" + marked[-10:]

    def test_of_three_passages_one_is_taken(self, open_desk: Open, shoot: Shoot) -> None:
        sheet = open_desk()
        sheet.set_length(32)
        sheet.type(BEGINNING)
        sheet.button("Three ways").click()
        expect(sheet.button("Take 2")).to_be_enabled()
        expect(sheet.button("Stop")).to_be_hidden()
        expect(sheet.page.locator(".way").nth(1)).not_to_contain_text("▍")
        shoot(sheet.page, "desk-three-ways")
        way = sheet.page.locator(".way").nth(1).inner_text()
        sheet.button("Take 2").click()
        sheet.written()
        assert sheet.marked.strip() == way.strip()

    def test_a_word_is_chosen_from_while_it_streams_and_after_with_mouse_and_keys(
        self, open_desk: Open, shoot: Shoot
    ) -> None:
        sheet = open_desk()
        sheet.set_length(400)
        sheet.type(BEGINNING)
        sheet.page.get_by_text("Token view").click()
        sheet.area.press("Control+Enter")
        assert soon(lambda: len(sheet.text) > len(BEGINNING) + 60, 20)
        sheet.page.mouse.click(*sheet.middle(sheet.page.locator(".marks .token[data-index='2']")))
        choices = sheet.page.locator(".choices")
        expect(choices).to_be_visible()
        shoot(sheet.page, "desk-token")
        # In a token as narrow as a comma, the caret may come to stand behind it, and before the next.
        index = int(sheet.page.locator(".marks .open").get_attribute("data-index") or 0)
        before = "".join(sheet.page.locator(".marks span").all_text_contents()[: index + 1])
        opened = sheet.page.locator(f".marks [data-index='{index}']")
        word = choices.locator("q").nth(1).inner_text()
        choices.get_by_role("button").nth(1).click()
        expect(opened).to_have_text(word.replace("↵", "\n"))
        assert soon(lambda: len(sheet.text) > len(before) + 30, 20)
        sheet.area.press("Escape")
        sheet.written()
        assert sheet.text.startswith(before + word.replace("↵", "\n"))
        sheet.area.focus()
        sheet.area.evaluate("(area, at) => area.setSelectionRange(at, at)", len(before) + 1)
        sheet.area.press("Control+.")
        expect(choices.get_by_role("button").first).to_be_focused()
        sheet.page.keyboard.press("Escape")
        expect(sheet.area).to_be_focused()
        expect(choices).to_be_hidden()

    def test_a_text_of_markup_and_every_script_is_text(self, open_desk: Open) -> None:
        sheet = open_desk()
        text = HOSTILE + " שלום עולם 👨‍👩‍👧 é"
        sheet.area.focus()
        sheet.page.evaluate(
            """(text) => {
                const data = new DataTransfer();
                data.setData("text/html", text);
                data.setData("text/plain", text);
                document.activeElement.dispatchEvent(new ClipboardEvent("paste", {clipboardData: data}));
                document.execCommand("insertText", false, text);
            }""",
            text,
        )
        sheet.set_length(8)
        sheet.button("Continue").click()
        sheet.written()
        assert sheet.text.startswith(text)
        assert sheet.page.title() == "Victorian"
        assert sheet.page.locator(".marks img, .marks script").count() == 0

    def test_settings_and_a_passage_outlive_a_visit_to_another_page(self, open_desk: Open) -> None:
        sheet = open_desk()
        sheet.page.get_by_label("Memory", exact=True).fill("Pip is a boy of the marshes.")
        sheet.set_length(200)
        sheet.type(BEGINNING)
        sheet.button("Continue").click()
        expect(sheet.button("Stop")).to_be_visible()
        sheet.page.get_by_role("link", name="Runs").click()
        expect(sheet.page.get_by_role("heading", name="Training runs")).to_be_visible()
        sheet.page.get_by_role("link", name="Write").click()
        sheet.written()
        expect(sheet.page.get_by_label("Memory", exact=True)).to_have_value("Pip is a boy of the marshes.")
        expect(sheet.account).to_contain_text("It reached its length · 200 tokens")


class TestFiles:
    def test_a_text_is_taken_along_and_opened_again(self, open_desk: Open, tmp_path: Path) -> None:
        sheet = open_desk()
        sheet.page.get_by_label("Title", exact=True).fill("The Moor")
        sheet.type("CHAPTER I.\n\nIt <b>was</b>.")
        sheet.area.blur()
        expect(sheet.account).to_contain_text("4 words")
        files = {}
        for name in ("Save", "Text", "Markdown", "EPUB"):
            with sheet.page.expect_download() as download:
                sheet.button(name).click()
            file = tmp_path / download.value.suggested_filename
            download.value.save_as(file)
            files[file.name] = file.read_bytes()
        assert set(files) == {f"the-moor.{ending}" for ending in ("json", "txt", "md", "epub")}
        assert files["the-moor.txt"].decode() == "The Moor\n\n\nCHAPTER I.\n\nIt <b>was</b>.\n"
        assert "\\<b\\>" in files["the-moor.md"].decode()
        assert zipfile.ZipFile(BytesIO(files["the-moor.epub"])).testzip() is None
        assert loaded(files["the-moor.json"]).manuscript.text == sheet.text

        other = open_desk()
        other.page.locator("input[type=file]").set_input_files(tmp_path / "the-moor.json")
        expect(other.area).to_have_value(sheet.text)
        expect(other.page.get_by_label("Title", exact=True)).to_have_value("The Moor")
        (tmp_path / "bad.json").write_text('{"format": "<img src=x onerror=alert(1)>"}')
        other.page.locator("input[type=file]").set_input_files(tmp_path / "bad.json")
        expect(other.page.get_by_text("is no saved session of the desk")).to_be_visible()
        expect(other.area).to_have_value(sheet.text)

    def test_a_novel_of_a_hundred_thousand_words_opens_and_goes_on(
        self, open_desk: Open, tmp_path: Path, shoot: Shoot
    ) -> None:
        empty = Manuscript()
        novel = empty.after(empty.splice(0, 0, (Piece(("word " * 99 + "end.\n\n") * 1000, "writer"),)))
        file = tmp_path / "novel.json"
        file.write_text(saved(Session.of(novel)))
        sheet = open_desk()
        sheet.page.locator("input[type=file]").set_input_files(file)
        expect(sheet.account).to_contain_text("100,000 words")
        sheet.set_length(32)
        sheet.type("The end was near,")
        sheet.button("Continue").click()
        sheet.written()
        assert "The end was near," in sheet.text
        assert len(sheet.text) < 20_000
        expect(sheet.account).to_contain_text("characters, about, are out of its sight")
        shoot(sheet.page, "desk-novel")
        sheet.page.get_by_role("button", name=re.compile("Page 1$|^1$")).first.click()
        expect(sheet.area).not_to_have_value(re.compile("near"))
        sheet.area.press("Control+Home")
        sheet.area.press_sequentially("Once ")
        sheet.area.blur()
        expect(sheet.account).to_contain_text(re.compile(r"100,0[0-9]{2} words"))
        assert sheet.text.startswith("Once word")


class TestTrouble:
    def test_a_lost_service_is_said_and_mended_and_a_lost_desk_brings_the_text_back(
        self, open_desk: Open, start: Start, free_port: Callable[[], int], shoot: Shoot
    ) -> None:
        at, desk_at = free_port(), free_port()
        with ExitStack() as desk, ExitStack() as service:
            paced = service.enter_context(start(at, PacedEngine, PRETRAINED))
            sheet = open_desk(desk.enter_context(desk_process(paced.url, desk_at)))
            sheet.set_length(1000)
            sheet.type(BEGINNING)
            sheet.button("Continue").click()
            assert soon(lambda: len(sheet.text) > len(BEGINNING) + 20, 20)
            paced.server.force_exit = True
            service.close()
            expect(sheet.page.get_by_text("Continue goes on from there")).to_be_visible()
            kept = sheet.text
            assert len(kept) > len(BEGINNING)
            sheet.button("Continue").click()
            expect(sheet.page.get_by_text("The text is safe here")).to_be_visible()
            shoot(sheet.page, "desk-service-down")
            service.enter_context(start(at, PacedEngine, PRETRAINED))
            expect(sheet.page.get_by_text("The service is there again")).to_be_visible()
            sheet.set_length(16)
            sheet.button("Continue").click()
            sheet.written()
            assert sheet.text.startswith(kept)
            kept = sheet.text
            desk.close()
            desk.enter_context(desk_process(paced.url, desk_at))
            expect(sheet.button("Undo")).to_be_enabled(timeout=60_000)
            expect(sheet.area).to_have_value(kept)
            sheet.page.reload()
            expect(sheet.area).to_have_value(kept)

    def test_two_tabs_are_two_desks_and_the_last_text_is_offered_to_a_new_one(self, open_desk: Open) -> None:
        one = open_desk()
        one.type("Mine")
        one.area.blur()
        expect(one.button("Undo")).to_be_enabled()
        one.settled()
        page = one.page.context.new_page()
        page.goto(one.page.url)
        two = Sheet(page)
        expect(two.area).to_have_value("")
        expect(page.get_by_text("A text is still here from your last visit.")).to_be_visible()
        two.type("Yours")
        two.area.blur()
        expect(two.button("Undo")).to_be_enabled()
        two.settled()
        expect(one.area).to_have_value("Mine")
        page.close()
        three = Sheet(one.page.context.new_page())
        three.page.goto(one.page.url)
        three.button("Take it up").click()
        expect(three.area).to_have_value("Yours")

    def test_a_tab_that_is_closed_ends_its_passage(self, open_desk: Open, paced_prose: Service) -> None:
        sheet = open_desk()
        sheet.set_length(30_000)
        sheet.type(BEGINNING)
        sheet.button("Continue").click()
        assert soon(lambda: paced_prose.engine.active == 1)
        sheet.page.close()
        assert soon(lambda: paced_prose.engine.active == 0, LEFT_SECONDS + 5)
