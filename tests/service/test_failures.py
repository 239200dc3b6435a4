"""What clients are told when a request was taken and cannot be served to its end: the application without a server."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from tests.running_service import soon
from victorian.artifact import read_artifact
from victorian.config import AccessConfig, EngineConfig, ServiceConfig
from victorian.engine.engine import Engine
from victorian.engine.succession import Succession
from victorian.service.ingress import create_app
from victorian.service.models import Models, Served

LONG: dict[str, object] = {"prompt": "It", "max_tokens": 30_000, "ignore_eos": True}
Wait = Callable[[], Awaitable[object]]


@pytest.fixture
def engine(toy_artifact: Path, request: pytest.FixtureRequest) -> Iterator[Engine]:
    """Keeps as many tokens for a reader as a test says."""
    artifact = read_artifact(str(toy_artifact))
    with Engine(artifact.model, artifact.encoding, EngineConfig(max_unread=getattr(request, "param", 4096))) as made:
        yield made


@pytest.fixture
def app(engine: Engine) -> FastAPI:
    return create_app(Models([Served("toy", 0, Succession(engine))]), ServiceConfig())


def post(
    app: FastAPI, body: dict[str, object], after_first_part: Wait | None = None
) -> tuple[int, dict[str, str], str]:
    """Status, headers and body of an answer.

    Args:
        after_first_part: what the reader waits for before it reads on.
    """

    async def talk() -> tuple[int, dict[str, str], str]:
        said: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        said.put_nowait({"type": "http.request", "body": json.dumps(body).encode(), "more_body": False})
        told: list[dict[str, Any]] = []

        async def send(message: Any) -> None:
            told.append(message)
            if after_first_part and len(told) == 2:
                await after_first_part()

        scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.4"}, "http_version": "1.1", "method": "POST",
            "scheme": "http", "path": "/v1/completions", "raw_path": b"/v1/completions", "root_path": "",
            "query_string": b"", "headers": [(b"content-type", b"application/json")],
        }  # fmt: skip
        await app(scope, said.get, send)
        headers = {name.decode(): value.decode() for name, value in told[0]["headers"]}
        return told[0]["status"], headers, b"".join(part["body"] for part in told[1:]).decode()

    return asyncio.run(talk())


def error(body: str) -> dict[str, str]:
    found: dict[str, str] = json.loads(body.removeprefix("data: "))["error"]
    return found


@pytest.mark.parametrize("engine", [8], indirect=True)
def test_a_reader_who_is_too_slow_is_told_so(app: FastAPI, engine: Engine) -> None:
    async def given_up() -> None:
        assert await asyncio.to_thread(soon, lambda: engine.active == 0)

    status, _, body = post(app, LONG | {"stream": True, "n": 2}, given_up)
    *chunks, last, nothing = body.split("\n\n")
    assert status == 200
    assert error(last)["code"] == "slow_reader"
    assert nothing == ""
    assert 1 <= len(chunks) <= 2 * 8 + 8
    assert "[DONE]" not in body


def test_an_engine_that_ends_leaves_nobody_waiting(app: FastAPI, engine: Engine) -> None:
    async def closed() -> None:
        await asyncio.to_thread(engine.close)

    _, _, streamed = post(app, LONG | {"stream": True}, closed)
    assert error(streamed.split("\n\n")[-2])["code"] == "shutting_down"
    status, headers, body = post(app, LONG)
    assert (status, headers["retry-after"], error(body)["type"]) == (503, "1", "server_error")


def test_a_plain_answer_of_a_service_that_stops_is_503(app: FastAPI, engine: Engine) -> None:
    async def close() -> None:
        assert await asyncio.to_thread(soon, lambda: engine.active == 2)
        await asyncio.to_thread(engine.close)

    async def both() -> tuple[int, dict[str, str], str]:
        closing = asyncio.create_task(close())
        answer = await asyncio.to_thread(post, app, LONG | {"n": 2})
        await closing
        return answer

    status, headers, body = asyncio.run(both())
    assert (status, headers["retry-after"], error(body)["code"]) == (503, "1", "shutting_down")
    assert engine.active == 0


def test_a_bug_is_an_error_object_too() -> None:
    class Broken(Models):
        def find(self, name: str | None) -> Served:
            raise ZeroDivisionError("a secret")

    async def ask() -> httpx2.Response:
        transport = httpx2.ASGITransport(create_app(Broken(), ServiceConfig()), raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://here") as client:
            return await client.get("/v1/models/toy")

    answer = asyncio.run(ask())
    assert (answer.status_code, answer.json()["error"]["type"]) == (500, "server_error")
    assert "secret" not in answer.text


def test_a_page_of_another_origin_can_read_that_it_met_a_bug() -> None:
    class Broken(Models):
        def find(self, name: str | None) -> Served:
            raise ZeroDivisionError

    async def ask() -> httpx2.Response:
        config = ServiceConfig(access=AccessConfig(origins=("https://example.org",)))
        transport = httpx2.ASGITransport(create_app(Broken(), config), raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://here") as client:
            return await client.get("/v1/models/toy", headers={"Origin": "https://example.org"})

    answer = asyncio.run(ask())
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (500, "https://example.org")
    assert answer.headers["x-request-id"]
