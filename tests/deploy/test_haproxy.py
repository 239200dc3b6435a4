"""The front proxy that ships, with a certificate of our own and shorter times, before a real service."""

import json
import os
import pwd
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest
import trustme
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.running_service import Service, running, soon
from victorian.client import Client
from victorian.config import AccessConfig, EngineConfig, SamplingParameters, ServiceConfig
from victorian.service.keys import make_key

CONFIG = Path(__file__).parents[2] / "deploy" / "haproxy.cfg"
HEADER_SECONDS, STALL_SECONDS, SOCKET_SECONDS, CONNECTIONS, TEXTS = 2, 2, 3, 8, 3
LONG = {"prompt": "It", "max_tokens": 30_000, "stream": True}

HAPROXY = shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
pytestmark = pytest.mark.skipif(HAPROXY is None, reason="no haproxy here: `apt-get install haproxy`")


@dataclass(frozen=True)
class Proxy:
    """A proxy that runs, the service behind it, and a key."""

    url: str
    trust: Path
    """The certificate of who has signed the proxy's."""
    log: Path
    service: Service
    key: str

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}

    def client(self) -> httpx2.Client:
        context = ssl.create_default_context(cafile=str(self.trust))
        return httpx2.Client(base_url=self.url, verify=context, headers=self.headers, timeout=20)

    def connect(self) -> ssl.SSLSocket:
        """A connection that reads little at a time."""
        address = urlsplit(self.url)
        plain = socket.socket()
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        plain.settimeout(20)
        plain.connect(("127.0.0.1", address.port or 443))
        return ssl.create_default_context(cafile=str(self.trust)).wrap_socket(plain, server_hostname="localhost")

    def logged(self, words: str) -> bool:
        return words in self.log.read_text()


@pytest.fixture(scope="module")
def proxy(
    toy_artifact: Path, free_port: Callable[[], int], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxy]:
    folder = tmp_path_factory.mktemp("proxy")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "authority.pem"))
    certificate = folder / "certificate.pem"
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(certificate))
    secret, line = make_key("reader", ["generate", "admin"])
    (folder / "keys").write_text(line)
    (folder / "keys").chmod(0o600)
    config = ServiceConfig(
        engine=EngineConfig(max_running=4, max_waiting=4), access=AccessConfig(keys_file=str(folder / "keys"))
    )
    front = free_port()
    with running(toy_artifact, free_port(), config) as service, (folder / "log").open("w") as log:
        settings = {
            "VICTORIAN_LISTEN": f"127.0.0.1:{front}",
            "VICTORIAN_CERTIFICATE": str(certificate),
            "VICTORIAN_SERVICE": urlsplit(service.url).netloc,
            "VICTORIAN_HEADER_SECONDS": str(HEADER_SECONDS),
            "VICTORIAN_STALL_SECONDS": str(STALL_SECONDS),
            "VICTORIAN_SOCKET_SECONDS": str(SOCKET_SECONDS),
            "VICTORIAN_CONNECTIONS": str(CONNECTIONS),
            "VICTORIAN_TEXTS": str(TEXTS),
        }
        command = [str(HAPROXY), "-db", "-f", str(as_this_user(CONFIG, folder / "haproxy.cfg"))]
        process = subprocess.Popen(command, env=os.environ | settings, stdout=log, stderr=log)
        made = Proxy(f"https://localhost:{front}", folder / "authority.pem", folder / "log", service, secret)
        try:
            assert soon(lambda: process.poll() is None and answers(made), 20), made.log.read_text()
            yield made
        finally:
            process.terminate()
            process.wait(timeout=20)


def as_this_user(config: Path, copy: Path) -> Path:
    """The configuration itself; a copy that stays who it is, where nobody can become HAProxy's user."""
    try:
        pwd.getpwnam("haproxy")
        if os.geteuid() == 0:
            return config
    except KeyError:
        pass
    lines = config.read_text().splitlines(keepends=True)
    copy.write_text("".join(line for line in lines if line.split()[:1] not in (["user"], ["group"])))
    return copy


def answers(proxy: Proxy) -> bool:
    try:
        with proxy.client() as client:
            return client.get("/ready").status_code == 200
    except httpx2.HTTPError:
        return False


def test_a_completion_over_https(proxy: Proxy) -> None:
    with proxy.client() as client:
        answer = client.post("/v1/completions", json={"prompt": "It was", "max_tokens": 5})
        assert answer.status_code == 200
        assert answer.headers["strict-transport-security"]
        assert client.get("/v1/models", headers={"Authorization": "Bearer vk-wrong"}).status_code == 401


def test_events_come_while_the_generation_goes_on(proxy: Proxy) -> None:
    with proxy.client() as client, client.stream("POST", "/v1/completions", json=LONG) as answer:
        lines = answer.iter_lines()
        assert next(lines).startswith("data: ")
        assert proxy.service.engine.active == 1
    assert proxy.service.idle()


def test_the_python_client_generates_over_wss(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(proxy.trust))
    with Client(proxy.url, key=proxy.key) as client:
        assert client.models() == ["toy"]
        assert "".join(client.stream("It was", SamplingParameters(max_tokens=10)))


def test_a_client_that_leaves_before_the_first_token_stops_its_generation(proxy: Proxy) -> None:
    with proxy.connect() as connection:
        send_completion(proxy, connection, LONG | {"stream": False})
        assert soon(lambda: proxy.service.engine.active == 1)
    assert proxy.service.idle()


@pytest.mark.parametrize("sent", ["", "POST /v1/completions HTTP/1.1\r\nHost: local"])
def test_headers_that_do_not_come_are_not_waited_for(proxy: Proxy, sent: str) -> None:
    began = time.monotonic()
    with proxy.connect() as connection:
        connection.sendall(sent.encode())
        answer = read_to_end(connection)
    assert HEADER_SECONDS * 0.9 < time.monotonic() - began < HEADER_SECONDS + 8
    assert answer.startswith("HTTP/1.1 408") or not (sent or answer)


def test_a_handshake_of_tls_that_does_not_come_is_not_waited_for(proxy: Proxy) -> None:
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", urlsplit(proxy.url).port or 443), timeout=20) as connection:
        assert connection.recv(1) == b""
    assert time.monotonic() - began < STALL_SECONDS + 8


def test_a_body_that_does_not_come_never_reaches_the_service(proxy: Proxy) -> None:
    began = time.monotonic()
    with proxy.connect() as connection:
        head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {proxy.key}\r\n"
        connection.sendall(f"{head}Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{{".encode())
        assert read_to_end(connection).startswith("HTTP/1.1 408")
    assert time.monotonic() - began < HEADER_SECONDS + 8


def test_headers_too_large_are_refused(proxy: Proxy) -> None:
    with proxy.client() as client:
        assert client.get("/v1/models", headers={"X-Padding": "x" * 17_000}).status_code in (400, 431)


def test_a_handshake_that_uvicorn_would_leave_unanswered_is_refused(proxy: Proxy) -> None:
    context = ssl.create_default_context(cafile=str(proxy.trust))
    address = "wss" + proxy.url.removeprefix("https") + "/v1/stream"
    with pytest.raises(InvalidStatus) as caught:
        connect(address, ssl=context, additional_headers=proxy.headers | {"X-Padding": "x" * 9_000})
    assert caught.value.response.status_code == 400


def test_a_client_that_offers_compression_gets_none(proxy: Proxy) -> None:
    context = ssl.create_default_context(cafile=str(proxy.trust))
    address = "wss" + proxy.url.removeprefix("https") + "/v1/stream"
    with connect(address, ssl=context, additional_headers=proxy.headers, compression="deflate") as connection:
        assert connection.request is not None
        assert "permessage-deflate" in connection.request.headers["Sec-WebSocket-Extensions"]
        assert connection.response is not None
        assert "Sec-WebSocket-Extensions" not in connection.response.headers
        assert json.loads(connection.recv())["type"] == "connected"
        connection.send(json.dumps({"type": "ping"}))
        assert json.loads(connection.recv()) == {"type": "pong"}


@pytest.mark.parametrize("stream", ["sse", "websocket"])
def test_a_reader_that_stalls_is_cut(proxy: Proxy, stream: str) -> None:
    """Not at its own end, and not because the engine lost patience: that would end the answer in order."""
    with proxy.connect() as connection:
        if stream == "sse":
            send_completion(proxy, connection, LONG)
            assert connection.recv(15) == b"HTTP/1.1 200 OK"
        else:
            send_generations(proxy, connection)
            assert connection.recv(12) == b"HTTP/1.1 101"
        assert soon(lambda: proxy.logged("200 cD") if stream == "sse" else proxy.logged("101 cD"), 30), (
            proxy.log.read_text()
        )
    assert proxy.service.idle()


def test_a_client_that_waits_long_for_a_silent_answer_is_not_cut(proxy: Proxy) -> None:
    with proxy.client() as client:
        for choices in (1, 2, 4, 8, 16, 32):  # how many take long enough, this machine knows
            began = time.monotonic()
            body = {"prompt": "It", "max_tokens": 12_000, "n": choices, "ignore_eos": True}
            assert client.post("/v1/completions", json=body, timeout=60).status_code == 200
            if time.monotonic() - began > STALL_SECONDS + 0.5:
                return
    pytest.fail("this machine is too quick for this test: have it generate more")


def test_one_source_holds_so_many_connections(proxy: Proxy) -> None:
    with ExitStack() as held:
        for _ in range(CONNECTIONS):
            held.enter_context(proxy.connect())
        with pytest.raises(OSError, match=r"reset|EOF|closed"):
            proxy.connect()
    assert soon(lambda: answers(proxy))


def test_one_text_too_many_is_refused_before_the_service(proxy: Proxy) -> None:
    short = {"prompt": "It", "max_tokens": 3}
    with proxy.client() as client, ExitStack() as streams:
        for _ in range(TEXTS):
            streams.enter_context(client.stream("POST", "/v1/completions", json=LONG))
        answer = client.post("/v1/completions", json=short)
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
        assert answer.json()["error"]["code"] == "overloaded"
        assert answer.json()["error"].keys() == {"message", "type", "param", "code"}
        assert client.get("/v1/models").status_code == 200
        assert proxy.service.engine.active == TEXTS  # where there is room for more
        streams.close()
        assert soon(lambda: client.post("/v1/completions", json=short).status_code == 200)
    assert proxy.service.idle()


def test_metrics_and_administration_are_not_to_be_had_from_outside(proxy: Proxy) -> None:
    for path in ("/metrics", "/%6detrics", "/metrics/", "/admin/models", "/%61dmin"):
        with proxy.connect() as connection:
            head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {proxy.key}\r\n"
            connection.sendall(f"{head}Connection: close\r\n\r\n".encode())
            answer = read_to_end(connection)
        assert answer.startswith("HTTP/1.1 404")
        assert "error" not in answer.partition("\r\n\r\n")[2]  # the proxy's page, and not the service's object


def test_a_request_keeps_its_id_or_is_given_one(proxy: Proxy) -> None:
    with proxy.client() as client:
        client.get("/v1/models", headers={"X-Request-Id": "mine-1"})
        client.get("/v1/models", headers={"X-Request-Id": "not fit for a log"})
    assert soon(lambda: proxy.logged("id=mine-1"))
    assert not proxy.logged("not fit")
    assert not proxy.logged(proxy.key)


def send_completion(proxy: Proxy, connection: ssl.SSLSocket, body: dict[str, object]) -> None:
    data = json.dumps(body)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {proxy.key}\r\n"
    length = f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    connection.sendall((head + length + data).encode())


def send_generations(proxy: Proxy, connection: ssl.SSLSocket) -> None:
    """A WebSocket's handshake and some long generations on it, and nothing read of either."""
    head = f"GET /v1/stream HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {proxy.key}\r\n"
    upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    connection.sendall(f"{head}{upgrade}Sec-WebSocket-Key: {'A' * 22}==\r\n\r\n".encode())
    for name in "abcd":
        message = {"type": "generate", "id": name, "prompt": "It", "parameters": {"max_tokens": 30_000}}
        text = json.dumps(message).encode()
        connection.sendall(bytes((0x81, 0x80 | len(text))) + bytes(4) + text)  # a mask of zeros changes nothing


def read_to_end(connection: ssl.SSLSocket) -> str:
    received = b""
    while True:
        try:
            data = connection.recv(65_536)
        except ssl.SSLEOFError:
            data = b""
        if not data:
            return received.decode()
        received += data
