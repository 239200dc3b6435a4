"""The doors: which are open, and what opens the others."""

import logging
import subprocess
import sys
from pathlib import Path

import httpx2
import openai
import pytest
from fastapi.routing import APIWebSocketRoute, iter_route_contexts
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from tests.running_service import Service, soon
from tests.service.conftest import BODY, FEW, Keys, Start, bearer, generate, open_socket, receive, turned_away
from victorian.client import Client
from victorian.config import ServiceConfig
from victorian.errors import AuthenticationError
from victorian.service.ingress import create_app
from victorian.service.models import Models


def open_paths(service: Service) -> set[str]:
    """Paths of the application that answer somebody without a key."""
    found = set()
    for route in iter_route_contexts(create_app(Models(), ServiceConfig()).routes):
        assert route.path is not None, f"a kind of route that this test cannot ask: {route}"
        path = route.path.replace("{name:path}", "toy")
        assert "{" not in path, f"a parameter that this test has no value for: {path}"
        if isinstance(route.original_route, APIWebSocketRoute):
            with connect("ws" + service.url.removeprefix("http") + path) as socket:
                closed = turned_away(socket) == ("unauthorized", 1008)
        else:
            methods = getattr(route, "methods", None) or {"GET"}
            answers = [httpx2.request(method, service.url + path) for method in methods]
            closed = all(answer.status_code == 401 for answer in answers)
        if not closed:
            found.add(path)
    return found


class TestWithKeys:
    def test_every_route_is_closed_but_those_that_were_meant(self, guarded: Service) -> None:
        assert open_paths(guarded) == {"/", "/health", "/ready"}

    def test_without_keys_the_same_test_finds_the_doors_open(self, service: Service) -> None:
        """So that it can fail."""
        url, body = f"{service.url}/v1/completions", {"prompt": "It", "max_tokens": 1}
        assert httpx2.post(url, json=body).status_code == 200
        assert httpx2.get(f"{service.url}/openapi.json").status_code == 200

    def test_no_spelling_of_a_public_path_opens_another(self, guarded: Service) -> None:
        for path in (
            "/health/../v1/models",
            "/ready/%2e%2e/v1/models",
            "//v1/models",
            "/health/v1",
            "/v1/models?/health",
        ):
            assert httpx2.get(guarded.url + path).status_code == 401, path

    def test_a_refusal_is_openais_error_and_says_how_to_ask(self, guarded: Service) -> None:
        for headers in ({}, bearer("vk-wrong"), {"Authorization": "Basic dTpw"}, {"Authorization": "Bearer"}):
            answer = httpx2.post(f"{guarded.url}/v1/completions", json=BODY, headers=headers)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
            assert answer.json()["error"]["code"] == "invalid_api_key"
            assert "Authorization: Bearer" in answer.json()["error"]["message"]

    def test_each_scope_opens_its_own(self, guarded: Service, keys: Keys) -> None:
        def status(path: str, key: str) -> int:
            return httpx2.get(guarded.url + path, headers=bearer(key)).status_code

        assert status("/v1/models", keys.reader) == 200
        assert status("/v1/models", keys.admin) == 403
        assert status("/metrics%0A", keys.reader) == 404  # the route's pattern would take it for /metrics
        for path in ("/metrics", "/metrics/", "/admin", "/admin/models"):
            assert status(path, keys.reader) == 403
            assert status(path, keys.admin) not in (401, 403)
        refused = httpx2.get(f"{guarded.url}/metrics", headers=bearer(keys.reader)).json()["error"]
        assert (refused["code"], "'admin'" in refused["message"]) == ("missing_scope", True)

    def test_openais_client_understands(self, guarded: Service, keys: Keys) -> None:
        def ask(key: str) -> str:
            with openai.OpenAI(base_url=f"{guarded.url}/v1", api_key=key, max_retries=0) as client:
                chunks = client.completions.create(model="toy", prompt="It was", max_tokens=5, stream=True)
                return "".join(chunk.choices[0].text for chunk in chunks)

        assert ask(keys.reader)
        with pytest.raises(openai.AuthenticationError, match="wants a key"):
            ask("vk-wrong")
        with pytest.raises(openai.PermissionDeniedError, match="scope 'generate'"):
            ask(keys.admin)

    def test_the_websocket_takes_a_key_in_a_header(self, guarded: Service, keys: Keys) -> None:
        with open_socket(guarded, keys.reader) as socket:
            assert receive(socket)["type"] == "connected"
            assert generate(socket, "a")["type"] == "complete"
        for wrong in (None, "vk-wrong", keys.admin):
            with open_socket(guarded, wrong) as socket:
                assert turned_away(socket) == ("unauthorized", 1008)

    def test_and_as_a_subprotocol_which_is_all_that_a_page_can_send(self, guarded: Service, keys: Keys) -> None:
        def offer(*offered: str) -> ClientConnection:
            return open_socket(guarded, subprotocols=[Subprotocol(one) for one in offered])

        with offer("victorian", f"bearer.{keys.reader}") as socket:
            assert socket.subprotocol == "victorian"
            assert receive(socket)["type"] == "connected"
        with offer("victorian", "bearer.vk-wrong") as socket:
            assert socket.subprotocol == "victorian"
            assert turned_away(socket) == ("unauthorized", 1008)

    def test_but_never_in_the_address(self, guarded: Service, keys: Keys) -> None:
        query = f"?key={keys.reader}&api_key={keys.reader}&authorization=Bearer%20{keys.reader}"
        assert httpx2.get(f"{guarded.url}/v1/models{query}").status_code == 401
        with connect(guarded.socket_url + query) as socket:
            assert turned_away(socket) == ("unauthorized", 1008)

    def test_the_python_client_sends_its_key_both_ways(
        self, guarded: Service, keys: Keys, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for key, in_environment in ((keys.reader, ""), (None, keys.reader)):
            monkeypatch.setenv("VICTORIAN_API_KEY", in_environment)
            with Client(guarded.url, key=key) as client:
                assert client.models() == ["toy"]
                assert "".join(client.stream("It was", FEW))
        for key in (None, "vk-wrong", keys.admin):
            monkeypatch.setenv("VICTORIAN_API_KEY", "")
            with Client(guarded.url, key=key) as client:
                assert client.ready()
                with pytest.raises(AuthenticationError):
                    client.models()
                with pytest.raises(AuthenticationError):
                    client.stream("It was", FEW)
        with pytest.raises(AuthenticationError, match="is it whole"):
            Client(guarded.url, key="vk-two\nlines")

    def test_ask_takes_the_key_from_the_environment(
        self, guarded: Service, keys: Keys, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        command = [str(Path(sys.executable).parent / "victorian"), "ask", "It was", "--url", guarded.url]
        monkeypatch.setenv("VICTORIAN_API_KEY", keys.reader)
        assert subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.strip()
        monkeypatch.delenv("VICTORIAN_API_KEY")
        refused = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
        assert refused.stderr.startswith("victorian: this service wants a key")

    def test_a_key_that_is_taken_back_opens_nothing_any_more(self, start: Start, tmp_path: Path) -> None:
        own = Keys(tmp_path / "keys")
        with start(keys_file=str(own.file)) as service, open_socket(service, own.reader) as socket:
            models = f"{service.url}/v1/models"
            assert receive(socket)["type"] == "connected"
            assert generate(socket, "before")["type"] == "complete"
            own.take_back_the_readers()
            assert soon(lambda: httpx2.get(models, headers=bearer(own.reader)).status_code == 401)
            assert generate(socket, "after")["code"] == "unauthorized"
            assert httpx2.get(models, headers=bearer(own.other)).status_code == 200


def test_no_key_and_no_hash_is_ever_logged(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    own = Keys(tmp_path / "keys")
    wrong = "vk-nearly-a-key-that-somebody-mistyped"
    caplog.set_level(logging.INFO)
    caplog.set_level(logging.DEBUG, "victorian")
    logger = logging.getLogger("uvicorn.access")
    with start(keys_file=str(own.file), requests_per_minute=5) as service:
        logger.setLevel(logging.INFO)
        logger.addHandler(caplog.handler)
        for key in (own.reader, wrong, own.admin):
            httpx2.post(f"{service.url}/v1/completions", json=BODY, headers=bearer(key))
            with open_socket(service, key) as socket:
                receive(socket)
            with open_socket(service, subprotocols=[Subprotocol("victorian"), Subprotocol(f"bearer.{key}")]) as socket:
                receive(socket)
        own.write([f"reader generate {own.hashes[0]}"])  # not a line of the file, and nearly one
        assert soon(lambda: ask_until_complained(service, own.reader, caplog))
        logger.removeHandler(caplog.handler)
    logged = caplog.text + "".join(capfd.readouterr())
    assert '"POST /v1/completions HTTP/1.1" 401' in logged
    assert "the keys are those that were read before" in logged
    for secret in (own.reader, own.admin, wrong, *own.hashes):
        assert secret not in logged


def ask_until_complained(service: Service, key: str, caplog: pytest.LogCaptureFixture) -> bool:
    httpx2.get(f"{service.url}/v1/models", headers=bearer(key))
    return "the keys are those that were read before" in caplog.text
