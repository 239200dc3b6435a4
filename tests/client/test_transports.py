"""Every way to a generation gives one text; alternatives; and callers with an event loop."""

import asyncio
import socket
import time
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.running_service import Service, soon
from victorian.client import AsyncClient, Client
from victorian.client.transports import Connection
from victorian.config import SamplingParameters
from victorian.errors import RequestError
from victorian.service.protocol import TokenMessage

SEEDED = SamplingParameters(max_tokens=60, seed=11)
LONG = SamplingParameters(max_tokens=30_000, min_tokens=30_000)
WAYS: Any = pytest.mark.parametrize("transport", ["websocket", "sse"])


def test_the_text_is_the_same_whichever_way_it_comes(service: Service) -> None:
    body = {"prompt": "It was", "max_tokens": 60, "seed": 11}
    plain = httpx2.post(f"{service.url}/v1/completions", json=body).json()["choices"][0]["text"]
    with Client(service.url) as socket, Client(service.url, transport="sse") as events:
        assert socket.complete("It was", SEEDED).text == plain
        assert events.complete("It was", SEEDED).text == plain
        for alternatives in (0, 5, 20):
            stream = socket.stream("It was", SEEDED, alternatives=alternatives)
            assert "".join(token.text for token in stream.tokens()) == plain == stream.text


def test_alternatives_tell_what_else_might_have_stood_there(service: Service) -> None:
    greedy = SamplingParameters(max_tokens=20, temperature=0, repetition_penalty=1)
    with Client(service.url) as client:
        tokens = list(client.stream("It was", greedy, alternatives=3).tokens())
        plain = list(client.stream("It was", greedy).tokens())
    for token in tokens:
        assert token.alternatives is not None
        likely = [one.probability for one in token.alternatives]
        assert likely == sorted(likely, reverse=True)
        assert len(likely) == 3
        assert 0 < sum(likely) <= 1.0001
        assert token.alternatives[0].token == token.token  # which is what greedy means
        assert token.probability == pytest.approx(likely[0])
    assert all((one.token, one.probability, one.alternatives) == (None, None, None) for one in plain)


def test_with_none_asked_for_a_token_still_tells_its_own_probability(service: Service) -> None:
    with Client(service.url) as client:
        for token in client.stream("It was", SEEDED, alternatives=0).tokens():
            assert token.alternatives == []
            assert token.probability is not None
            assert 0 < token.probability <= 1


def test_the_end_tells_what_it_took_and_how_to_have_it_again(service: Service) -> None:
    prompt = "It was a dark and stormy night. " * 2
    with Client(service.url) as client:
        first = client.complete(prompt, SamplingParameters(max_tokens=40))
        again = client.complete(prompt, SamplingParameters(max_tokens=40, seed=first.complete.seed))
    assert again.text == first.text
    usage, timings = again.complete.usage, again.complete.timings
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.reused_prompt_tokens == 16  # a block of the cache, which the first one has filled
    assert timings.queued_seconds is not None
    assert 0 <= timings.queued_seconds <= timings.first_token_seconds <= timings.seconds
    assert timings.tokens_per_second > 0


def test_events_end_like_the_socket(service: Service) -> None:
    with Client(service.url, transport="sse") as client:
        answer = client.complete("It was", SamplingParameters(max_tokens=40))
        seeded = SamplingParameters(max_tokens=40, seed=answer.complete.seed)
        assert client.complete("It was", seeded).text == answer.text
        assert answer.complete.reason == "length"
        assert answer.complete.usage.completion_tokens == 40
        with pytest.raises(RequestError, match="alternatives come over the WebSocket"):
            client.stream("It", alternatives=1)


@WAYS
def test_cancel_ends_a_stream_with_what_has_come(service: Service, transport: Any) -> None:
    with Client(service.url, transport=transport) as client:
        stream = client.stream("It", LONG)
        pieces = iter(stream)
        first = next(pieces)
        assert stream.reason is None
        stream.cancel()
        rest = "".join(pieces)
        assert stream.reason == "cancelled"
        assert stream.text == first + rest
    assert service.idle()


@WAYS
def test_a_refusal_says_which_field_is_at_fault(service: Service, transport: Any) -> None:
    with Client(service.url, transport=transport) as client:
        for prompt, model, param in (("word " * 200, None, "prompt"), ("It", "gpt-5", "model")):
            with pytest.raises(RequestError) as caught:
                client.complete(prompt, model=model)
            assert caught.value.parameter == param
        with pytest.raises(RequestError) as caught:
            client.stream("It", alternatives=21)
        assert caught.value.parameter == "alternatives"


@WAYS
def test_callers_with_an_event_loop_read_side_by_side(service: Service, transport: Any) -> None:
    with Client(service.url) as client:
        expected = [client.complete(f"It was {n}", SEEDED).text for n in range(4)]

    async def read(client: AsyncClient, prompt: str) -> str:
        return "".join([piece async for piece in await client.stream(prompt, SEEDED)])

    async def ask() -> list[str]:
        async with AsyncClient(service.url, transport=transport) as client:
            assert await client.models() == ["toy"]
            assert await client.ready()
            texts = await asyncio.gather(*(read(client, f"It was {n}") for n in range(4)))
            assert (await client.complete("It was 0", SEEDED)).text == texts[0]
            return list(texts)

    assert asyncio.run(ask()) == expected
    assert service.idle()


@WAYS
def test_an_async_stream_is_cancelled_or_left(service: Service, transport: Any) -> None:
    async def ask() -> None:
        async with AsyncClient(service.url, transport=transport) as client:
            stream = await client.stream("It", LONG)
            tokens: list[TokenMessage] = []
            async for token in stream.tokens():
                tokens.append(token)
                if len(tokens) == 3:
                    await stream.cancel()
            assert stream.reason == "cancelled"
            assert "".join(token.text for token in tokens) == stream.text
            async with await client.stream("It", LONG) as left:
                async for _ in left:
                    break
            assert await asyncio.to_thread(service.idle)
            await client.stream("It", LONG)  # never read: closing the client ends it
            assert await asyncio.to_thread(soon, lambda: service.engine.active == 1)

    asyncio.run(ask())
    assert service.idle()


@WAYS
def test_no_proxy_is_asked_for_a_service_on_this_machine(
    service: Service, transport: Any, monkeypatch: pytest.MonkeyPatch, free_port: Callable[[], int]
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("NO_PROXY", raising=False)

    async def asked_on_a_loop() -> tuple[str, list[str]]:
        async with AsyncClient(service.url, transport=transport, retries=0) as client:
            return (await client.complete("It", SEEDED)).text, await client.models()

    with Client(service.url, transport=transport, retries=0) as client:
        assert (client.complete("It", SEEDED).text, client.models()) == asyncio.run(asked_on_a_loop())


def test_with_a_tick_a_loops_caller_can_look_up_while_nothing_comes(service: Service) -> None:
    with Client(service.url, transport="sse") as client:  # four that go on while the fifth waits
        holders = [iter(client.stream("It", LONG)) for _ in range(4)]
        assert all(next(pieces) for pieces in holders)
        asyncio.run(wait_for_a_tick(service))
    assert service.idle()


async def wait_for_a_tick(service: Service) -> None:
    async with AsyncClient(service.url) as client, await client.stream("It", SEEDED, tick=0.05) as waiting:
        async for piece in waiting:
            assert piece == ""
            return


class Watched(socket.socket):
    """A connection that notes who uses it first."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.uses: list[str] = []

    def recv(self, *arguments: Any) -> bytes:
        self.uses.append("recv")
        return super().recv(*arguments)

    def sendall(self, *arguments: Any) -> None:
        time.sleep(0.3)  # in which a thread that waits for what has come would read it
        self.uses.append("sendall")
        super().sendall(*arguments)


def test_nothing_is_read_before_the_request_is_written_since_tls_bears_one_thread_at_a_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, Watched() as mine:
        mine.connect(server.getsockname())
        theirs, _ = server.accept()
        with theirs:
            theirs.sendall(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
            with (
                pytest.raises(InvalidStatus, match="503"),
                connect("ws://localhost/v1/stream", sock=mine, create_connection=Connection),
            ):
                pass
    assert mine.uses[0] == "sendall"
    assert "recv" in mine.uses
