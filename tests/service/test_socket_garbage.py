"""Whatever a client sends, it is answered or told goodbye, the log has refusals alone, and the next one is served."""

import json
import logging
import os
import socket as network
import struct
from base64 import b64encode
from collections.abc import Iterator
from contextlib import closing
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from websockets.sync.client import connect

from tests.running_service import Service
from victorian.client import Client
from victorian.config import SamplingParameters
from victorian.service.protocol import ErrorMessage, Pong, client_message, server_message

LAST_WORD = '{"type": "ping"}'
EXAMPLES = settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


class Complaints(logging.Handler):
    """What was logged as an error, by anybody who has a part in serving."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture(scope="module")
def complaints() -> Iterator[Complaints]:
    handler = Complaints()
    loggers = [logging.getLogger(name) for name in ("uvicorn.error", "asyncio", "victorian", "websockets")]
    for logger in loggers:
        logger.addHandler(handler)
    yield handler
    for logger in loggers:
        logger.removeHandler(handler)


@pytest.fixture(scope="module")
def bystander(service: Service) -> Iterator[Client]:
    with Client(service.url, timeout=10) as client:
        yield client


numbers = st.one_of(
    st.integers(), st.floats(), st.sampled_from([10**400, -(10**30), 2**63, 1e308, float("nan"), float("inf"), True])
)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=20)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=12,
)
names = st.sampled_from(["a", "b", "nobody", "", "x" * 101, "\ud800", "\0"])
parameters = st.one_of(
    values,
    st.dictionaries(st.sampled_from([*SamplingParameters.model_fields, "temprature"]), values, max_size=3),
    st.fixed_dictionaries({"max_tokens": st.sampled_from([1, 3, 30_000])}),
)
nearly = st.fixed_dictionaries(
    {"type": st.sampled_from(["generate", "generate", "cancel", "ping", "token", "sing"])},
    optional={
        "id": st.one_of(names, names, values),
        "model": st.one_of(st.just("toy"), values),
        "prompt": st.one_of(st.text(max_size=30), st.lists(st.integers(-2, 600), max_size=80), values),
        "parameters": parameters,
        "alternatives": st.one_of(st.integers(0, 20), values),
        "deadline_seconds": st.one_of(st.just(1), values),
    },
)
begun = st.fixed_dictionaries({"type": st.just("generate"), "id": names, "prompt": st.just("It")})
ended = st.fixed_dictionaries({"type": st.just("cancel"), "id": names})
nested = st.builds(
    lambda deep, pair: pair[0] * deep + pair[1] * deep, st.integers(1, 50_000), st.sampled_from(["[]", ('{"a":', "}")])
)
messages = st.one_of(
    st.one_of(nearly, begun, ended, values).map(json.dumps),
    nested,
    st.text(max_size=50),
    st.binary(max_size=50),
)  # fmt: skip


@EXAMPLES
@given(said=st.lists(messages, max_size=8))
def test_any_messages_in_any_order_are_answered(
    service: Service, bystander: Client, complaints: Complaints, said: list[str | bytes]
) -> None:
    with connect(service.socket_url, close_timeout=2) as socket:
        socket.recv()
        for message in (*said, LAST_WORD):
            socket.send(message)
        complained, pongs = 0, 0
        while pongs < 1 + said.count(LAST_WORD):
            answer = server_message.validate_json(socket.recv(timeout=10))
            complained += isinstance(answer, ErrorMessage) and answer.code == "invalid_message"
            pongs += isinstance(answer, Pong)
    assert complained == sum(not understood(message) for message in said)
    assert_unharmed(service, bystander, complaints)


def understood(message: str | bytes) -> bool:
    try:
        client_message.validate_json(message)
    except ValidationError:
        return False
    return True


@pytest.mark.parametrize(
    "message",
    [
        "[" * 1_000_000,
        '{"type": "generate", "id": ' + "9" * 1_000_000 + "}",
        '{"type": "generate", "id": "a", "prompt": [' + "99999999999999999999," * 40_000 + "1]}",
        json.dumps({"type": "generate", "id": "a", "parameters": {"logit_bias": {f"x{n}": n for n in range(60_000)}}}),
        json.dumps({"type": "generate", "id": "a", "prompt": "a" * 199_999}),
        json.dumps({"type": "generate", "id": "a", "parameters": {"stop": ["x" * 999_000]}}),
    ],
    ids=["deep", "long number", "large numbers", "many problems", "one long word", "long text"],
)
def test_messages_that_are_a_burden_are_refused(
    service: Service, bystander: Client, complaints: Complaints, message: str
) -> None:
    with connect(service.socket_url) as socket:
        socket.recv()
        socket.send(message)
        answer = server_message.validate_json(socket.recv(timeout=10))
    assert isinstance(answer, ErrorMessage)
    assert len(answer.message) < 1000
    assert_unharmed(service, bystander, complaints)


@EXAMPLES
@given(wire=st.one_of(st.binary(max_size=200), st.binary(max_size=20).map(lambda data: b"\x81" + data)))
def test_any_bytes_on_the_wire_harm_nobody(
    service: Service, bystander: Client, complaints: Complaints, wire: bytes
) -> None:
    with closing(handshaken(service)) as connection:
        connection.sendall(wire)
        connection.shutdown(network.SHUT_WR)
        while connection.recv(65536):  # to the end, which must come
            continue
    assert_unharmed(service, bystander, complaints)


def test_text_that_is_no_utf8_is_refused_by_the_server_below(service: Service) -> None:
    with closing(handshaken(service)) as connection:
        connection.sendall(b"\x81\x82" + bytes(4) + b"\xff\xfe")
        received = b""
        while data := connection.recv(65536):
            received += data
    assert struct.pack("!H", 1007) in received


def assert_unharmed(service: Service, bystander: Client, complaints: Complaints) -> None:
    """The next client is served, and nobody complains of more than refusals, and of bad UTF-8 as uvicorn does."""
    assert service.idle()
    answer = bystander.complete("It", SamplingParameters(max_tokens=2, seed=1))
    assert answer.complete.usage.completion_tokens == 2
    told = [record.getMessage() for record in complaints.records]
    assert [line for line in told if line != "message refused" and "Invalid UTF-8" not in line] == []


def handshaken(service: Service) -> network.socket:
    """A WebSocket of which only the bytes are left to us."""
    address = urlsplit(service.url)
    connection = network.create_connection((address.hostname, address.port), timeout=10)
    key = b64encode(os.urandom(16)).decode()
    head = "GET /v1/stream HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    head += "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {}\r\n\r\n"
    connection.sendall(head.format(address.netloc, key).encode())
    assert connection.recv(4096).startswith(b"HTTP/1.1 101 ")
    return connection
