"""A model is replaced between the moment that a request is meant for it and the moment that it gets it."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.sync.client import connect

from tests.running_service import Service, running
from tests.service.conftest import generate, receive
from victorian.config import AccessConfig, EngineConfig, ModelsConfig, ModelSource, ServiceConfig
from victorian.engine.engine import Engine
from victorian.engine.request import Request

ENGINE = EngineConfig(max_running=4, kernels="torch")
TOKENS_PER_MINUTE = 1000


class WaitingEngine(Engine):
    """Encodes a client's prompt when it is told to."""

    def __init__(self, *arguments: Any) -> None:
        self.asked, self.goes_on = threading.Event(), threading.Event()
        super().__init__(*arguments)

    def request(self, prompt: str | list[int], *arguments: Any, **options: Any) -> Request:
        if prompt == "It":
            self.asked.set()
            assert self.goes_on.wait(10)
        return super().request(prompt, *arguments, **options)


Replace = Callable[[str], None]


@pytest.fixture
def waiting(toy_artifact: Path, free_port: Callable[[], int]) -> Iterator[Service]:
    config = ServiceConfig(engine=ENGINE, access=AccessConfig(tokens_per_minute=TOKENS_PER_MINUTE))
    with running(toy_artifact, free_port(), config, engine_type=WaitingEngine) as made:
        yield made
        made.models.close()


@pytest.fixture
def replace(waiting: Service, toy_artifact: Path) -> Replace:
    """Gives the model's place to another of this name, once a prompt is being encoded for it; then lets that end."""

    def act(name: str) -> None:
        assert isinstance(waiting.engine, WaitingEngine)
        assert waiting.engine.asked.wait(10)
        waiting.models.load(ModelsConfig(models=(ModelSource(artifact=str(toy_artifact), name=name),)), ENGINE)
        assert not waiting.engine.healthy
        waiting.engine.goes_on.set()

    return act


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_is_answered_by_the_new_one_and_paid_for_once(
    waiting: Service, replace: Replace, stream: bool
) -> None:
    body = {"prompt": "It", "n": 2, "max_tokens": 3, "stream": stream}
    with ThreadPoolExecutor(1) as clients:
        asking = clients.submit(httpx2.post, f"{waiting.url}/v1/completions", json=body, timeout=30)
        replace("newer")
        answer = asking.result()
    assert answer.status_code == 200
    assert '"model":"newer"' in answer.text
    prompt = len(waiting.engine.encoding.encode("It"))
    assert answer.headers["x-ratelimit-remaining-tokens"] == str(TOKENS_PER_MINUTE - prompt - 2 * 3)
    assert waiting.idle()


def test_a_generation_on_a_socket_is_the_new_ones(waiting: Service, replace: Replace) -> None:
    with connect(waiting.socket_url) as socket, ThreadPoolExecutor(1) as clients:
        assert receive(socket)["type"] == "connected"
        asking = clients.submit(generate, socket, "a")
        replace("toy")
        assert asking.result()["type"] == "complete"
    assert waiting.idle()


def test_one_whose_model_has_gone_is_told_so(waiting: Service, replace: Replace) -> None:
    body = {"model": "toy", "prompt": "It", "max_tokens": 3}
    with ThreadPoolExecutor(1) as clients:
        asking = clients.submit(httpx2.post, f"{waiting.url}/v1/completions", json=body, timeout=30)
        replace("newer")
        answer = asking.result()
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    assert waiting.idle()
