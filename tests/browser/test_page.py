"""The page at `/`, as a writer uses it."""

import json
import threading
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
import uvicorn
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, WebSocketRoute, expect
from starlette.types import Receive, Scope, Send

from tests.browser.conftest import PacedEngine, Shoot, Start, Visit
from tests.running_service import Service, soon
from tests.service.conftest import Keys
from victorian.client import Client
from victorian.config import AccessConfig, EngineConfig, SamplingParameters, ServiceConfig
from victorian.service.ingress import create_app
from victorian.service.page import CONTROLS

pytestmark = pytest.mark.browser

BEGINNING = "It was a dark and stormy night"
PHONE = {"viewport": {"width": 375, "height": 700}, "is_mobile": True, "has_touch": True, "device_scale_factor": 2}
REFUSED = r"WebSocket connection to .* failed"
FIRST_PAINT = """new Promise((tell) => {
    const seen = (list) => list.getEntriesByName("first-contentful-paint").forEach((one) => tell(one.startTime));
    new PerformanceObserver(seen).observe({type: "paint", buffered: true});
})"""
"""Milliseconds from asking for the page."""
LONG = SamplingParameters(max_tokens=30_000)


def text(page: Page) -> str:
    return page.get_by_label("Manuscript").input_value()


def written(page: Page) -> list[str]:
    """What is marked as the model's."""
    return page.locator("#mirror span").all_inner_texts()


def button(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def write(page: Page, beginning: str | None = None, length: int = 12) -> None:
    """Have the model begin."""
    if beginning is not None:
        page.get_by_label("Manuscript").fill(beginning)
    page.get_by_label("Length").evaluate("(input, value) => (input.value = value)", length)
    page.locator("#write").click()


def ended(page: Page, words: str = "Written") -> None:
    """Wait for the end of a generation, and read how it ended."""
    expect(page.locator("#stop")).to_have_attribute("aria-disabled", "true")
    expect(page.get_by_role("status")).to_contain_text(words)


def streaming(page: Page, least: int = 20) -> None:
    """Wait until the model has written some letters."""
    assert soon(lambda: sum(map(len, written(page))) >= least, 15)


def connected(page: Page) -> None:
    expect(page.locator("#connection")).to_have_attribute("data-state", "open")


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


class TestTrouble:
    def test_a_lost_connection_loses_no_text_and_is_mended(
        self, start: Start, free_port: Callable[[], int], visit: Visit
    ) -> None:
        port = free_port()
        with start(port, PacedEngine) as service:
            page = visit(service.url, allowed=REFUSED)
            write(page, BEGINNING, 30_000)
            streaming(page)
        ended(page, "The connection broke off. What has come is kept")
        kept = text(page)
        assert kept == BEGINNING + written(page)[0]
        page.get_by_label("Manuscript").press("Control+End")
        page.keyboard.type(" And more.")
        write(page)
        expect(page.get_by_role("status")).to_contain_text("as soon as the service answers")
        with start(port, PacedEngine):
            ended(page)
            assert text(page).startswith(f"{kept} And more.")
            assert len(written(page)) == 2

    def test_a_busy_service_is_asked_again(self, start: Start, visit: Visit) -> None:
        full = EngineConfig(max_running=1, max_waiting=0)
        with start(engine_type=PacedEngine, engine=full) as service, Client(service.url) as client:
            page = visit(service.url)
            connected(page)
            stream = client.stream("It", LONG)
            write(page, BEGINNING)
            expect(page.get_by_role("status")).to_contain_text("The service is busy. It is asked again")
            stream.close()
            ended(page)
            assert text(page) == BEGINNING + written(page)[0]

    def test_a_retry_that_is_not_served_gives_the_passage_back(self, start: Start, visit: Visit) -> None:
        full = EngineConfig(max_running=1, max_waiting=0)
        with start(engine_type=PacedEngine, engine=full) as service, Client(service.url) as client:
            page = visit(service.url)
            write(page, BEGINNING)
            ended(page)
            before = text(page), written(page)
            stream = client.stream("It", LONG)
            button(page, "Retry")
            expect(page.get_by_role("status")).to_contain_text("The service is busy")
            button(page, "Stop")
            ended(page, "Stopped before it began")
            stream.close()
            assert (text(page), written(page)) == before

    def test_a_key_that_has_had_its_share_is_told_when_to_come_back(self, start: Start, visit: Visit) -> None:
        with start(access=AccessConfig(requests_per_minute=1)) as service:
            page = visit(service.url)
            write(page, BEGINNING)
            ended(page)
            write(page)
            ended(page, "This key has had its share for now. Try again in")
            assert text(page) == BEGINNING + written(page)[0]

    def test_another_protocol_is_told_of(self, service: Service, visit: Visit) -> None:
        def newer(route: WebSocketRoute) -> None:
            route.send(json.dumps({"type": "connected", "protocol": 99, "session": "", "models": [], "limits": {}}))

        page = visit(service.url, before=lambda page: page.route_web_socket("**/v1/stream", newer))
        expect(page.get_by_role("status")).to_contain_text("Reload it; your text stays")
        expect(page.locator("#write")).to_have_attribute("aria-disabled", "true")

    def test_idle_sockets_are_let_go_and_nobody_notices(self, start: Start, visit: Visit) -> None:
        with start(socket={"idle_seconds": 0.2}) as service:
            page = visit(service.url)
            expect(page.locator("#connection")).to_have_attribute("data-state", "asleep")
            write(page, BEGINNING)
            ended(page)

    def test_models_can_be_chosen_where_there_are_several(self, service: Service, visit: Visit) -> None:
        def two(route: WebSocketRoute) -> None:
            server = route.connect_to_server()

            def offer(message: str | bytes) -> None:
                said = json.loads(message)
                if said["type"] == "connected":
                    said["models"].append({**said["models"][0], "id": "other"})
                route.send(json.dumps(said))

            server.on_message(offer)

        page = visit(service.url, before=lambda page: page.route_web_socket("**/v1/stream", two))
        write(page, BEGINNING)
        ended(page)
        page.get_by_label("Model", exact=True).select_option("other")
        button(page, "Continue")
        ended(page, "no model is called 'other'")


class TestKeys:
    def test_a_service_that_wants_a_key_is_given_one(self, start: Start, visit: Visit, tmp_path: Path) -> None:
        keys = Keys(tmp_path / "keys")
        with start(access=AccessConfig(keys_file=str(keys.file))) as service:
            page = visit(service.url)
            asked: list[str] = []
            page.on("request", lambda request: asked.append(request.url))
            page.on("websocket", lambda socket: asked.append(socket.url))
            expect(page.get_by_label("Key", exact=True)).to_be_focused()
            for wrong in ("vk-wrong", "no key, no token of HTTP’s"):
                page.get_by_label("Key", exact=True).fill(wrong)
                page.keyboard.press("Enter")
                expect(page.get_by_role("status")).to_contain_text("key")
                expect(page.locator("#door")).to_be_visible()
            page.get_by_label("Key", exact=True).fill(keys.reader)
            button(page, "Use this key")
            connected(page)
            expect(page.locator("#door")).to_be_hidden()
            write(page, BEGINNING * 20)
            ended(page)
            page.reload()
            connected(page)
            assert not [url for url in asked if keys.reader in url]
            assert keys.reader not in page.content()
            button(page, "Forget the key")
            expect(page.get_by_label("Key", exact=True)).to_be_visible()
            assert keys.reader not in page.evaluate("JSON.stringify([{...sessionStorage}, {...localStorage}])")

    def test_a_key_that_was_taken_back_is_told_of(self, start: Start, visit: Visit, tmp_path: Path) -> None:
        keys = Keys(tmp_path / "keys")
        with start(access=AccessConfig(keys_file=str(keys.file))) as service:
            page = visit(service.url)
            page.get_by_label("Key", exact=True).fill(keys.reader)
            page.keyboard.press("Enter")
            connected(page)
            write(page, BEGINNING)
            ended(page)
            keys.take_back_the_readers()
            headers = {"Authorization": f"Bearer {keys.reader}"}
            models = f"{service.url}/v1/models"
            assert soon(lambda: httpx2.get(models, headers=headers).status_code == 401)
            button(page, "Continue")
            ended(page, "does not take this key any more")
            expect(page.get_by_label("Key", exact=True)).to_be_visible()
            assert text(page).startswith(BEGINNING)


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


def findings(page: Page) -> list[str]:
    """What axe finds that is serious or critical."""
    found = Axe().run(page).response["violations"]
    return [
        f"{one['id']}: {[node['target'] for node in one['nodes']]}"
        for one in found
        if one["impact"] in ("serious", "critical")
    ]


def test_below_a_prefix(start: Start, free_port: Callable[[], int], visit: Visit) -> None:
    """As Serve's `route_prefix` has it: the path stays whole, and the application is told where it stands."""
    with start() as service:
        app = create_app(service.models, ServiceConfig())

        async def below(scope: Scope, receive: Receive, send: Send) -> None:
            await app({**scope, "root_path": "/books"}, receive, send)

        server = uvicorn.Server(uvicorn.Config(below, port=free_port(), log_level="warning", lifespan="off"))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        assert soon(lambda: server.started)
        for address in ("/books/", "/books"):
            page = visit(f"http://127.0.0.1:{server.config.port}{address}")
            write(page, BEGINNING * 20)
            ended(page)
            assert text(page) == BEGINNING * 20 + written(page)[0]
        server.should_exit = True
        thread.join(timeout=10)
