"""A full house: who is turned away hears it at once, costs next to nothing, and is counted."""

import asyncio
import io
import json
import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest
from websockets.sync.client import connect

from tests.running_service import Service, running, soon
from tests.service.scraping import Scrape, scrape
from victorian.artifact import read_artifact
from victorian.config import EngineConfig, ObservationConfig, ServiceConfig
from victorian.engine.engine import Engine
from victorian.engine.succession import Succession
from victorian.service.ingress import create_app
from victorian.service.logs import REFUSALS_A_SECOND, REFUSED, fields, write_logs
from victorian.service.models import Models, Served

LONG = {"prompt": "It", "max_tokens": 30_000, "min_tokens": 30_000, "stream": True}


@pytest.fixture(scope="module")
def small(toy_artifact: Path, free_port: Callable[[], int]) -> Iterator[Service]:
    """A service with room for two; no probe takes it from a request."""
    engine, observe = EngineConfig(max_running=2, max_waiting=0), ObservationConfig(probe_seconds=600)
    with running(toy_artifact, free_port(), ServiceConfig(engine=engine, observe=observe)) as made:
        yield made


@pytest.fixture
def full(small: Service) -> Iterator[Service]:
    with httpx2.Client(base_url=small.url, timeout=20) as client, ExitStack() as streams:
        for _ in range(2):
            streams.enter_context(client.stream("POST", "/v1/completions", json=LONG))
        yield small
    assert small.idle()


def rejections(before: Scrape, after: Scrape, model: str) -> dict[str, int]:
    """What was turned away in between, by the reason."""
    added = after.since(before).samples
    found = {}
    for (name, labels), count in added.items():
        said = dict(labels)
        if name == "victorian:admission_rejections_total" and said["model_name"] == model and count:
            found[said["reason"]] = int(count)
    return found


def test_a_full_house_answers_before_the_body_has_come(full: Service) -> None:
    before = scrape(full.url)
    address = urlsplit(full.url)
    with socket.create_connection((str(address.hostname), address.port or 80), timeout=10) as connection:
        head = f"POST /v1/completions HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
        answer = connection.recv(4096).decode()
    assert answer.startswith("HTTP/1.1 429 ")
    assert "\r\nretry-after: 1\r\n" in answer.lower()
    assert '"code":"overloaded"' in answer
    assert rejections(before, scrape(full.url), "toy") == {"overloaded": 1}


def test_a_connection_is_good_for_more_after_a_refusal(full: Service) -> None:
    with httpx2.Client(base_url=full.url) as client:
        for _ in range(3):
            assert client.post("/v1/completions", json=LONG | {"prompt": "It " * 20_000}).status_code == 429
        assert client.get("/v1/models").status_code == 200


def test_too_many_choices_are_refused_before_the_texts_are_encoded(small: Service) -> None:
    with (
        httpx2.Client(base_url=small.url, timeout=20) as client,
        client.stream("POST", "/v1/completions", json=LONG),
    ):
        before = scrape(small.url)
        assert client.post("/v1/completions", json={"prompt": ["It", "He"]}).status_code == 429
        answers = [client.post("/v1/completions", json={"prompt": "It", "n": n}) for n in (3, 17)]
        assert [answer.status_code for answer in answers] == [400, 400]
        assert client.post("/v1/completions", json={"prompt": ["It"] * 16, "n": 2}).status_code == 400
        assert client.post("/v1/completions", json={"model": "gpt-5"}).status_code == 404
        found = rejections(before, scrape(small.url), "toy")
    assert small.idle()
    assert found == {"overloaded": 1, "invalid_request": 2, "invalid_message": 1, "model_not_found": 1}


def test_of_several_models_the_body_says_which_is_full(full: Service, toy_artifact: Path) -> None:
    loaded = read_artifact(str(toy_artifact))
    with Engine(loaded.model, loaded.encoding, EngineConfig()) as other:
        models = Models([Served("full", 0, Succession(full.engine)), Served("other", 0, Succession(other))])
        app = create_app(models, ServiceConfig())

        async def ask(**body: object) -> int:
            transport = httpx2.ASGITransport(app)
            async with httpx2.AsyncClient(transport=transport, base_url="http://service") as client:
                return (
                    await client.post("/v1/completions", json={"prompt": "It", "max_tokens": 2, **body})
                ).status_code

        assert asyncio.run(ask()) == asyncio.run(ask(model="full")) == 429
        assert asyncio.run(ask(model="other")) == 200
        assert asyncio.run(ask(model="nobody")) == 404


def test_messages_that_reach_no_model_are_counted_and_told_of(full: Service) -> None:
    stream = io.StringIO()
    handler = write_logs(ObservationConfig(), stream)
    before = scrape(full.url)
    messages = [
        "no JSON",
        json.dumps({"type": "generate", "id": "a", "prompt": "It", "parameters": {"temperature": 9}}),
        json.dumps({"type": "generate", "id": "a", "model": "gpt-5"}),
        json.dumps({"type": "generate", "id": "a", "prompt": "It"}),
    ]
    try:
        with connect(full.socket_url, additional_headers={"X-Request-Id": "mine"}) as client:
            client.recv()
            codes = []
            for message in messages:
                client.send(message)
                codes.append(json.loads(client.recv(timeout=10))["code"])
    finally:
        logger = logging.getLogger("victorian")
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
        logger.propagate = True
    assert codes == ["invalid_message", "invalid_message", "model_not_found", "overloaded"]
    after = scrape(full.url)
    assert rejections(before, after, "") == {"invalid_message": 2, "model_not_found": 1}
    assert rejections(before, after, "toy") == {"overloaded": 1}
    entries = [json.loads(line) for line in stream.getvalue().splitlines()]
    refused = [entry for entry in entries if entry["event"] == "message refused"]
    assert [entry["reason"] for entry in refused] == codes
    assert {entry["request_id"] for entry in refused} == {"mine"}
    assert refused[3]["model"] == "toy"
    assert refused[3]["id"].endswith("/a")


def test_a_flood_of_refusals_does_not_flood_the_log() -> None:
    stream = io.StringIO()
    handler = write_logs(ObservationConfig(), stream)
    logger = logging.getLogger("victorian.service.flooded")
    try:
        for _ in range(1_000):
            logger.warning("request refused", extra=fields(status=REFUSED))

        def told() -> bool:
            """The rest is told of with whatever comes later."""
            logger.info("anything else")
            return "more requests refused" in stream.getvalue().splitlines()[-2]

        assert soon(told)
    finally:
        own = logging.getLogger("victorian")
        own.removeHandler(handler)
        own.setLevel(logging.NOTSET)
        own.propagate = True
    entries = [json.loads(line) for line in stream.getvalue().splitlines()]
    said = sum(entry["event"] == "request refused" for entry in entries)
    left_out = sum(entry.get("left_out", 0) for entry in entries)
    assert said + left_out == 1_000
    assert said <= 5 * REFUSALS_A_SECOND  # a thousand lines take less than five seconds
    assert entries[-1]["event"] == "anything else"
