"""The doors: which are open, what opens the others, and how much goes through."""

import json
import logging
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import openai
import pytest
from fastapi.routing import APIWebSocketRoute, iter_route_contexts
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin, Subprotocol

from tests.running_service import Service, running, soon
from victorian.client import Client
from victorian.config import AccessConfig, EngineConfig, SamplingParameters, ServiceConfig
from victorian.errors import AuthenticationError, OverloadedError
from victorian.service.ingress import create_app
from victorian.service.keys import make_key
from victorian.service.models import Models

FEW = SamplingParameters(max_tokens=3)
BODY = {"prompt": "It", "max_tokens": 3}

Start = Callable[..., AbstractContextManager[Service]]


class Keys:
    """A file of three keys, and the keys."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.reader, self._reader_line = make_key("reader", ["generate"])
        self.other, other = make_key("other", ["generate"])
        self.admin, admin = make_key("operator", ["admin"])
        self._rest = [other, admin]
        self.hashes = [line.split()[2].removeprefix("sha256:") for line in (self._reader_line, *self._rest)]
        file.touch(mode=0o600)
        self.write([self._reader_line, *self._rest])

    def write(self, lines: Iterable[str]) -> None:
        self.file.write_text("\n".join(lines))

    def take_back_the_readers(self) -> None:
        self.write(self._rest)


@pytest.fixture(scope="module")
def start(toy_artifact: Path, free_port: Callable[[], int]) -> Start:
    """Begins a service of its own: `start(requests_per_minute=5)`."""

    def begin(**access: Any) -> AbstractContextManager[Service]:
        engine = EngineConfig(max_running=4, max_waiting=4)
        return running(toy_artifact, free_port(), ServiceConfig(engine=engine, access=AccessConfig(**access)))

    return begin


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys(tmp_path_factory.mktemp("keys") / "keys")


@pytest.fixture(scope="module")
def guarded(start: Start, keys: Keys) -> Iterator[Service]:
    with start(keys_file=str(keys.file)) as made:
        yield made


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def open_socket(service: Service, key: str | None = None, **options: Any) -> ClientConnection:
    return connect(service.socket_url, additional_headers=bearer(key) if key else None, **options)


def receive(socket: ClientConnection) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(socket.recv(timeout=10))
    return message


def generate(socket: ClientConnection, name: str) -> dict[str, Any]:
    """The message that ends a small generation."""
    socket.send(json.dumps({"type": "generate", "id": name, "prompt": "It", "parameters": {"max_tokens": 2}}))
    while (message := receive(socket))["type"] == "token":
        pass
    assert message["id"] == name
    return message


def turned_away(socket: ClientConnection) -> tuple[str, int]:
    """The code of the error that a socket begins with, and that of the close which follows."""
    message = receive(socket)
    assert message["type"] == "error"
    with pytest.raises(ConnectionClosed) as caught:
        socket.recv(timeout=10)
    assert caught.value.rcvd is not None
    return message["code"], caught.value.rcvd.code


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
        assert open_paths(guarded) - {"/"} == {"/health", "/ready"}

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


class TestLimits:
    def test_a_minute_has_so_many_requests_for_each_key(self, start: Start, keys: Keys) -> None:
        with start(keys_file=str(keys.file), requests_per_minute=3) as service:
            url = f"{service.url}/v1/completions"
            answers = [httpx2.post(url, json=BODY, headers=bearer(keys.reader)) for _ in range(4)]
            assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
            assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers] == ["2", "1", "0", "0"]
            assert {answer.headers["x-ratelimit-limit-requests"] for answer in answers} == {"3"}
            assert 50 < int(answers[3].headers["retry-after"]) <= 60
            assert answers[3].json()["error"]["code"] == "rate_limit_exceeded"
            assert httpx2.post(url, json=BODY, headers=bearer(keys.other)).status_code == 200
            assert httpx2.get(f"{service.url}/health").status_code == 200
            with Client(service.url, key=keys.reader) as client:
                with pytest.raises(OverloadedError, match="3 requests of a minute"):
                    client.models()
                with pytest.raises(OverloadedError, match="3 requests of a minute"):
                    list(client.stream("It", FEW))

    def test_wrong_keys_cost_nobody_his_minute(self, start: Start, keys: Keys) -> None:
        with start(keys_file=str(keys.file), requests_per_minute=1) as service:
            for _ in range(3):
                assert httpx2.get(f"{service.url}/v1/models", headers=bearer("vk-wrong")).status_code == 401
            assert httpx2.get(f"{service.url}/v1/models", headers=bearer(keys.reader)).status_code == 200

    def test_each_generation_on_a_socket_is_one(self, start: Start, keys: Keys) -> None:
        with (
            start(keys_file=str(keys.file), requests_per_minute=2) as service,
            open_socket(service, keys.reader) as socket,
        ):
            assert receive(socket)["type"] == "connected"
            ends = [generate(socket, name) for name in "abc"]
            assert [end["type"] for end in ends] == ["complete", "complete", "error"]
            assert ends[2]["code"] == "rate_limit"
            assert httpx2.get(f"{service.url}/v1/models", headers=bearer(keys.reader)).status_code == 429

    def test_without_keys_everybody_shares_one_minute(self, start: Start) -> None:
        with start(requests_per_minute=1) as service:
            assert [httpx2.get(f"{service.url}/v1/models").status_code for _ in range(2)] == [200, 429]

    def test_one_socket_too_many_is_told_so_and_closed(self, start: Start, keys: Keys) -> None:
        with start(keys_file=str(keys.file), max_sockets=3, max_sockets_per_key=2) as service, ExitStack() as stack:
            held = [stack.enter_context(open_socket(service, key)) for key in (keys.reader, keys.reader)]
            assert [receive(one)["type"] for one in held] == ["connected", "connected"]
            with open_socket(service, keys.reader) as third_of_the_reader:
                assert turned_away(third_of_the_reader) == ("overloaded", 1013)
            assert receive(stack.enter_context(open_socket(service, keys.other)))["type"] == "connected"
            with open_socket(service, keys.other) as fourth_of_all:
                assert turned_away(fourth_of_all) == ("overloaded", 1013)
            held[0].close()

            def room() -> bool:
                with open_socket(service, keys.reader) as again:
                    return bool(receive(again)["type"] == "connected")

            assert soon(room)

    def test_headers_have_a_limit(self, guarded: Service, service: Service, keys: Keys) -> None:
        for one, headers in ((service, {}), (guarded, bearer(keys.reader))):
            for path in ("/v1/models", "/health"):
                padding = {"X-Padding": "x" * 17_000}
                answer = httpx2.get(one.url + path, headers=headers | padding)
                assert (answer.status_code, answer.json()["error"]["code"]) == (431, "headers_too_large")
                assert httpx2.get(one.url + path, headers=headers | {"X-Padding": "x" * 15_000}).status_code == 200
            lines = {f"X-Padding-{number}": "x" * 6000 for number in range(3)}
            with pytest.raises(InvalidStatus):
                connect(one.socket_url, additional_headers=headers | lines)

    def test_a_body_without_a_stated_length_has_a_limit_too(self, service: Service) -> None:
        """And is refused when it passes the limit, not when it ends."""
        address = urlsplit(service.url)
        with socket.create_connection((str(address.hostname), address.port or 80), timeout=10) as connection:
            head = f"POST /v1/completions HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: application/json\r\n"
            connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
            for _ in range(17):
                connection.sendall(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
            answer = connection.recv(4096).decode()
        assert answer.startswith("HTTP/1.1 413 ")
        assert '{"error":{' in answer


class TestOrigins:
    def test_an_allowed_page_may_call_both_ways_and_read_refusals(self, start: Start, keys: Keys) -> None:
        page = "https://page.example"
        with start(keys_file=str(keys.file), origins=(page,)) as service:
            asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
            preflight = httpx2.options(f"{service.url}/v1/completions", headers={"Origin": page} | asks)
            assert preflight.status_code == 200
            assert preflight.headers["access-control-allow-headers"] == "authorization"
            for key, status in ((keys.reader, 200), ("vk-wrong", 401)):
                answer = httpx2.get(f"{service.url}/v1/models", headers={"Origin": page} | bearer(key))
                assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (status, page)
            with open_socket(service, keys.reader, origin=Origin(page)) as socket:
                assert receive(socket)["type"] == "connected"
            self.assert_kept_out(service, "https://elsewhere.example", keys.reader)

    def assert_kept_out(self, service: Service, origin: str, key: str) -> None:
        answer = httpx2.post(f"{service.url}/v1/completions", json=BODY, headers={"Origin": origin} | bearer(key))
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "origin_not_allowed")
        assert "access-control-allow-origin" not in answer.headers
        with pytest.raises(InvalidStatus) as caught:
            open_socket(service, key, origin=Origin(origin))
        assert caught.value.response.status_code == 403

    def test_without_a_list_only_the_services_own_pages_may(self, guarded: Service, keys: Keys) -> None:
        own = {"Origin": guarded.url}
        assert httpx2.get(f"{guarded.url}/v1/models", headers=own | bearer(keys.reader)).status_code == 200
        for origin in ("https://elsewhere.example", "null", "http://[x", guarded.url + "0"):
            self.assert_kept_out(guarded, origin, keys.reader)

    def test_a_star_is_any_page(self, start: Start) -> None:
        with start(origins=("*",)) as service:
            answer = httpx2.get(f"{service.url}/v1/models", headers={"Origin": "https://any.example"})
            assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "*")
            with open_socket(service, origin=Origin("https://any.example")) as socket:
                assert receive(socket)["type"] == "connected"

    @pytest.mark.parametrize("origin", ["page.example", "https://page.example/", "ftp://page.example", "https://a b"])
    def test_what_no_browser_sends_is_no_origin(self, origin: str) -> None:
        with pytest.raises(ValueError, match="origins"):
            AccessConfig(origins=(origin,))


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
