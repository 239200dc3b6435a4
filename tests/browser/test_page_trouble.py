"""The page at `/` when something is in the way: a lost connection, a full service, a key that is wanted."""

import json
import threading
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
import uvicorn
from playwright.sync_api import Route, WebSocketRoute, expect
from starlette.types import Receive, Scope, Send

from tests.browser.conftest import PacedEngine, Start, Visit
from tests.browser.manuscript import BEGINNING, button, connected, ended, streaming, text, write, written
from tests.running_service import Service, soon
from tests.service.conftest import Keys
from victorian.client import Client
from victorian.config import AccessConfig, EngineConfig, SamplingParameters, ServiceConfig
from victorian.service.ingress import create_app

pytestmark = pytest.mark.browser

REFUSED = r"WebSocket connection to .* failed"
LONG = SamplingParameters(max_tokens=30_000, min_tokens=30_000)


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

    @pytest.mark.parametrize("answer", [None, {"type": "error", "code": "overloaded", "message": "It is busy."}])
    def test_what_was_stopped_is_not_asked_for_again(
        self, service: Service, visit: Visit, answer: dict[str, str] | None
    ) -> None:
        """Where the service goes away at a stop, and where it has an error that passes."""
        asked: list[str] = []

        def silent(route: WebSocketRoute) -> None:
            route.connect_to_server()

            def heed(message: str | bytes) -> None:
                said = json.loads(message)
                asked.append(said["type"])
                if said["type"] == "cancel":
                    route.send(json.dumps({**answer, "id": said["id"]})) if answer else route.close(code=1001)

            route.on_message(heed)

        page = visit(service.url, before=lambda page: page.route_web_socket("**/v1/stream", silent))
        connected(page)
        write(page, BEGINNING)
        button(page, "Stop")
        expect(page.locator("#stop")).to_have_attribute("aria-disabled", "true")
        connected(page)
        assert asked == ["generate", "cancel"]
        assert text(page) == BEGINNING

    def test_a_socket_that_is_let_go_while_a_long_text_is_cut_is_opened_again(self, start: Start, visit: Visit) -> None:
        held: list[Route] = []

        def hold(route: Route) -> None:
            if held:
                route.continue_()
            else:
                held.append(route)

        with start(socket={"idle_seconds": 0.5}) as service:
            page = visit(service.url, before=lambda page: page.route("**/v1/tokenize", hold))
            write(page, BEGINNING * 20)
            expect(page.locator("#connection")).to_have_attribute("data-state", "open")
            expect(page.locator("#connection")).to_have_attribute("data-state", "asleep")
            held[0].continue_()
            ended(page)
            assert text(page) == BEGINNING * 20 + written(page)[0]

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
