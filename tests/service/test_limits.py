"""The doors: how much goes through, and from whose pages."""

import asyncio
import socket
from contextlib import ExitStack
from urllib.parse import urlsplit

import httpx2
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin

from tests.running_service import Service, soon
from tests.service.conftest import BODY, FEW, Keys, Start, bearer, generate, open_socket, receive, turned_away
from tests.service.scraping import scrape
from victorian.client import Client
from victorian.config import AccessConfig
from victorian.errors import OverloadedError
from victorian.service.callers import Quota, Spent


class TestLimits:
    def test_a_minute_has_so_many_requests_for_each_key(self, start: Start, keys: Keys) -> None:
        with start(keys_file=str(keys.file), requests_per_minute=3) as service:
            url = f"{service.url}/v1/completions"
            answers = [httpx2.post(url, json=BODY, headers=bearer(keys.reader)) for _ in range(4)]
            assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
            assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers] == ["2", "1", "0", "0"]
            assert {answer.headers["x-ratelimit-limit-requests"] for answer in answers} == {"3"}
            assert 30 < int(answers[3].headers["retry-after"]) <= 60
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
            assert ends[2]["code"] == "rate_limited"
            assert httpx2.get(f"{service.url}/v1/models", headers=bearer(keys.reader)).status_code == 429

    def test_a_minute_has_so_many_tokens_for_each_key(self, start: Start, keys: Keys) -> None:
        with start(keys_file=str(keys.file), tokens_per_minute=40) as service:

            def post(key: str, **body: object) -> httpx2.Response:
                url = f"{service.url}/v1/completions"
                return httpx2.post(url, json={"prompt": [40, 41], "max_tokens": 9, **body}, headers=bearer(key))

            def told(answer: httpx2.Response, name: str) -> str:
                return answer.headers[f"x-ratelimit-{name}-tokens"]

            first = post(keys.reader, n=2)  # the prompt once, and two texts
            assert (first.status_code, told(first, "limit"), told(first, "remaining")) == (200, "40", "20")
            assert post(keys.reader, max_tokens=17, stream=True).status_code == 200
            refused = post(keys.reader)
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
            assert told(refused, "remaining") == "1"
            assert 1 <= int(refused.headers["retry-after"]) <= 120
            assert post(keys.other).status_code == 200
            assert httpx2.get(f"{service.url}/v1/models", headers=bearer(keys.reader)).status_code == 200
            never = post(keys.other, max_tokens=39)  # waiting is of no use
            assert (never.status_code, never.json()["error"]["param"]) == (400, "max_tokens")
            with Client(service.url, key=keys.reader) as client, pytest.raises(OverloadedError, match="40 tokens"):
                list(client.stream("It", FEW))

    def test_tokens_of_sockets_are_those_of_the_same_minute(self, start: Start, keys: Keys) -> None:
        with (
            start(keys_file=str(keys.file), tokens_per_minute=12) as service,
            open_socket(service, keys.reader) as socket,
        ):
            assert receive(socket)["type"] == "connected"
            ends = [generate(socket, name) for name in "abcd"]  # two tokens of a prompt each, and two more
            assert [end["type"] for end in ends] == ["complete", "complete", "complete", "error"]
            assert ends[3]["code"] == "rate_limited"
            assert 1 <= ends[3]["retry_after_seconds"] <= 120
            body = {"prompt": [40], "max_tokens": 2}
            answer = httpx2.post(f"{service.url}/v1/completions", json=body, headers=bearer(keys.reader))
            assert answer.status_code == 429

    def test_tokens_that_are_refused_are_let_in_when_it_was_said(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of a clock that the library reads as well; whatever part of a minute has gone."""
        now = 1_800_000_000.0
        monkeypatch.setattr("time.time", lambda: now)

        async def spend(quota: Quota, count: int) -> Spent:
            spent = await quota.spend_tokens("a", count)
            assert spent is not None
            return spent

        async def check() -> None:
            nonlocal now
            for gone, first, later in ((0, 100, 30), (59, 80, 60), (20, 100, 100), (45, 60, 41)):
                quota = Quota(AccessConfig(tokens_per_minute=100))
                now = 1_800_000_000.0 + gone
                assert (await spend(quota, first)).allowed
                refused = await spend(quota, later)
                assert not refused.allowed
                said = now + refused.seconds
                now = said - 1.5  # a token fades in about a second
                again = await spend(quota, later)
                assert not again.allowed
                assert now + again.seconds == pytest.approx(said)
                now = said + 0.01
                assert (await spend(quota, later)).allowed

        asyncio.run(check())

    def test_whoever_is_not_let_in_is_counted(self, start: Start, keys: Keys) -> None:
        with start(keys_file=str(keys.file), requests_per_minute=1) as service:
            url = f"{service.url}/v1/models"
            foreign = {"Origin": "https://elsewhere.example"}
            asking = [bearer("vk-wrong"), bearer(keys.reader) | foreign, bearer(keys.reader), bearer(keys.reader)]
            assert [httpx2.get(url, headers=one).status_code for one in asking] == [401, 403, 200, 429]
            with open_socket(service) as socket:
                assert turned_away(socket) == ("unauthorized", 1008)
            with pytest.raises(InvalidStatus):  # of a path that is none, which is not counted
                connect(service.socket_url + "%0A", additional_headers=bearer(keys.reader))
            with pytest.raises(InvalidStatus):
                connect(service.socket_url, origin=Origin("https://elsewhere.example"))
            told = scrape(service.url, bearer(keys.admin))
            counts = {
                reason: told.value("admission_rejections_total", model_name="", reason=reason)
                for reason in ("unauthorized", "rate_limited")
            }
            assert counts == {"unauthorized": 4, "rate_limited": 1}

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
