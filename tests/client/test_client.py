"""The Python client against a real service, and against none."""

import asyncio
import contextlib
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.server import ServerConnection, serve

from tests.running_service import Service, running, soon
from victorian.client import AsyncClient, Client, transports
from victorian.client.failures import Retries
from victorian.client.generation import Generation, ask
from victorian.client.streams import Stream
from victorian.config import SamplingParameters, ServiceConfig, SocketConfig
from victorian.errors import AuthenticationError, OverloadedError, RequestError, ServiceError, VictorianError

SHORT = SamplingParameters(max_tokens=12, seed=4)
LONG = SamplingParameters(max_tokens=30_000, min_tokens=30_000)


def test_a_stream_gives_text_and_then_how_it_ended(service: Service) -> None:
    with Client(service.url) as client:
        stream = client.stream("It was", SHORT)
        text = "".join(stream)
        assert stream.complete is not None
        assert stream.complete.reason == "length"
        assert text == "".join(client.stream("It was", SHORT))
        assert stream.connected is not None
        assert [one.id for one in stream.connected.models] == ["toy"]
    assert service.idle()


def test_cancel_and_leaving_stop_the_generation(service: Service) -> None:
    with Client(service.url) as client:
        stream = client.stream("It", LONG)
        pieces = iter(stream)
        next(pieces)
        stream.cancel()
        list(pieces)
        assert stream.complete is not None
        assert stream.complete.reason == "cancelled"
        assert service.idle()
        for piece in client.stream("It", LONG):
            assert piece
            break
        assert service.idle()


def test_models_and_readiness(service: Service) -> None:
    with Client(service.url + "/") as client:
        assert client.models() == ["toy"]
        assert client.ready()


def test_a_refusal_says_why(service: Service) -> None:
    with Client(service.url) as client, pytest.raises(RequestError, match="the model sees 64"):
        list(client.stream("word " * 200))


def test_no_service_is_said_in_words(free_port: Callable[[], int]) -> None:
    with Client(f"http://127.0.0.1:{free_port()}") as client:
        assert not client.ready()
        with pytest.raises(ServiceError, match="no service answers at"):
            client.stream("It")
        with pytest.raises(ServiceError, match="no service answers at"):
            client.models()


@pytest.mark.parametrize(
    "written",
    [
        "http://somebody:secret@127.0.0.1:8000", "http://127.0.0.1:8000/?key=secret", "http://h:8000/#secret",
        "http://somebody:secret@h:99999", "http://h:80x/?key=secret", "somebody:secret@h:8000",
    ],
)  # fmt: skip
def test_a_password_in_an_address_is_neither_used_nor_shown(written: str) -> None:
    with pytest.raises(ServiceError, match="a key goes into `key`") as caught:
        Client(written)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8000", "http://[x", "http://localhost:abc", "http://localhost:99999", "http://"]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ServiceError, match="expected an address like"):
        Client(url)


@pytest.mark.parametrize("behind", ["/v1", "/v1/", "/under/v1"])
def test_an_address_for_openais_client_is_refused_with_what_to_leave_out(behind: str) -> None:
    with pytest.raises(ServiceError, match="without the /v1 behind it"):
        Client("http://127.0.0.1:8000" + behind)


def test_a_scheme_may_be_in_capitals(service: Service) -> None:
    with Client(service.url.replace("http", "HTTP")) as client:
        assert client.complete("It", SHORT).text


@pytest.mark.parametrize("transport", ["websocket", "sse"])
def test_a_path_with_nothing_behind_it_is_not_taken_for_a_closed_door(service: Service, transport: Any) -> None:
    refused = pytest.raises(RequestError, match=r"is what stands before /v1 right|nothing is at /elsewhere/v1")
    with Client(f"{service.url}/elsewhere", transport=transport) as client, refused as caught:
        client.complete("It", SHORT)
    assert not isinstance(caught.value, AuthenticationError)


def test_closing_the_client_ends_a_stream_that_was_never_read(service: Service) -> None:
    with Client(service.url) as client:
        client.stream("It", LONG)
        assert soon(lambda: service.engine.active == 1)
    assert service.idle()


def test_with_a_tick_a_caller_can_look_up_while_nothing_comes(service: Service) -> None:
    # Four that go on while the fifth waits. A WebSocket with something left to read takes a second to close.
    with Client(service.url) as client, Client(service.url, transport="sse") as others:
        running = [iter(others.stream("It", LONG)) for _ in range(4)]
        assert all(next(pieces) for pieces in running)
        waiting = iter(client.stream("It", SHORT, tick=0.05))
        assert next(waiting) == ""
    assert service.idle()


def test_a_prompt_that_cannot_be_sent_is_refused(service: Service) -> None:
    with Client(service.url) as client, pytest.raises(RequestError, match="at most 200000 characters"):
        client.stream("x" * 200_001)


def test_a_request_larger_than_the_service_reads_is_refused_with_the_limit(
    toy_artifact: Path, free_port: Callable[[], int]
) -> None:
    config = ServiceConfig(socket=SocketConfig(message_bytes=4096))
    refused = pytest.raises(RequestError, match="at most 4096 are read; shorten the prompt")
    with running(toy_artifact, free_port(), config) as narrow, Client(narrow.url) as client, refused:
        client.complete("x" * 5_000)


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "the connection broke before the end"),
        (['{"type": "hello"}'], "not of this protocol"),
        (['{"type": "token", "id": "a", "index": 0, "text": "x"}'], "expected a greeting, got 'token'"),
    ],
)
def test_a_stream_that_breaks_is_never_taken_for_a_finished_one(messages: list[str], reason: str) -> None:
    def misbehave(connection: ServerConnection) -> None:
        for message in messages:
            connection.send(message)

    with serve(misbehave, "127.0.0.1", 0) as server:
        port = server.socket.getsockname()[1]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with Client(f"http://127.0.0.1:{port}", timeout=5) as client, pytest.raises(ServiceError, match=reason):
            list(client.stream("It"))
        server.shutdown()


class Full:
    """A way to a service that has no room."""

    def receive(self, seconds: float) -> None:
        raise OverloadedError("no room")

    def cancel(self) -> bool:
        return True

    def close(self) -> None:
        pass


class Leaving(Retries):
    """Patience during which the caller leaves."""

    leave: Callable[[], None]

    def pause(self, error: VictorianError) -> float:
        self.leave()
        return 0.0


@pytest.mark.parametrize("leave", [Stream.cancel, Stream.close])
def test_a_stream_that_is_left_while_it_waits_to_ask_again_does_not(leave: Callable[[Stream], None]) -> None:
    asked: list[Generation] = []

    def open(generation: Generation) -> Full:
        asked.append(generation)
        return Full()

    patience = Leaving(2)
    stream = Stream(open, Generation(ask("x", None, None, None, None), 1.0), patience, None)
    patience.leave = lambda: leave(stream)
    with contextlib.ExitStack() as expected:
        if leave is Stream.close:
            expected.enter_context(pytest.raises(OverloadedError))
        assert list(stream) == []
    assert len(asked) == 1


@pytest.mark.parametrize(
    "complete", [lambda url: Client(url).complete("x"), lambda url: asyncio.run(AsyncClient(url).complete("x"))]
)
def test_a_service_that_does_not_greet_is_not_waited_for_long(monkeypatch: Any, complete: Any) -> None:
    monkeypatch.setattr(transports, "OPEN_SECONDS", 0.2)
    silent = threading.Event()
    with serve(lambda _: silent.wait(10) and None, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(ServiceError, match=r"no greeting for 0\.2 seconds"):
            complete(f"http://127.0.0.1:{server.socket.getsockname()[1]}")
        silent.set()
        server.shutdown()


def test_importing_the_client_loads_neither_torch_nor_ray() -> None:
    code = "import sys, victorian.client; print(*{'torch', 'ray'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_closing_the_client_closes_what_all_threads_have_begun(service: Service) -> None:
    meeting = threading.Barrier(2)

    class Older:
        """Stands among the client's streams, and has two threads meet where they look it over."""

        @property
        def closed(self) -> bool:
            with contextlib.suppress(threading.BrokenBarrierError):
                meeting.wait(0.3)
            return True

    client, made = Client(service.url), list[Stream]()
    client._streams.append(Older())  # type: ignore[arg-type]
    threads = [threading.Thread(target=lambda: made.append(client.stream("It", LONG))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    client.close()
    assert [stream.closed for stream in made] == [True, True]
    assert service.idle()
