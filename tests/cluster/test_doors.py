"""The doors under Ray Serve: no address beyond this machine without keys, and keys that work through its proxy."""

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from victorian.client import Client
from victorian.cluster.doors import require_closed_doors
from victorian.cluster.serve import build_app, start
from victorian.config import AccessConfig, EngineConfig, ModelsConfig, ModelSource, SamplingParameters, ServiceConfig
from victorian.errors import AuthenticationError, ConfigError
from victorian.service.keys import make_key

REFUSAL = "other machines reach this service and nothing asks them for a key"


@pytest.fixture
def keys_file(tmp_path: Path) -> tuple[Path, str]:
    secret, line = make_key("reader", ["generate"])
    file = tmp_path / "keys"
    file.touch(mode=0o600)
    file.write_text(line)
    return file, secret


class TestWhichDoors:
    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.5", "2001:db8::1", "example.org", "*"])
    def test_an_address_that_others_reach_is_refused(self, host: str) -> None:
        with pytest.raises(ConfigError, match=f"at .* {REFUSAL}: listen on 127.0.0.1"):
            require_closed_doors(ServiceConfig(), host)

    @pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost", None])
    def test_loopback_is_open_without_keys(self, host: str | None) -> None:
        require_closed_doors(ServiceConfig(), host)

    def test_keys_or_a_word_open_the_others(self, keys_file: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
        require_closed_doors(ServiceConfig(access=AccessConfig(open_to_anyone=True)), "0.0.0.0")
        require_closed_doors(ServiceConfig(access=AccessConfig(keys_file=str(keys_file[0]))), "0.0.0.0")
        monkeypatch.setenv("VICTORIAN_KEYS", keys_file[0].read_text())
        require_closed_doors(ServiceConfig(), "0.0.0.0")

    def test_keys_that_cannot_be_read_open_nothing(self, tmp_path: Path) -> None:
        config = ServiceConfig(access=AccessConfig(keys_file=str(tmp_path / "none")))
        with pytest.raises(ConfigError, match="cannot be read"):
            require_closed_doors(config, "0.0.0.0")


@pytest.fixture
def proxy(ray_session: None, free_port: Callable[[], int]) -> Iterator[Callable[[str], int]]:
    """Starts Serve's proxy at an address; its port."""
    from ray import serve
    from ray.serve.config import HTTPOptions

    def begin(host: str) -> int:
        port = free_port()
        serve.start(http_options=HTTPOptions(host=host, port=port))
        return port

    yield begin
    serve.shutdown()


@pytest.mark.cluster
@pytest.mark.usefixtures("ray_session")
class TestUnderServe:
    def test_an_application_behind_an_open_proxy_is_not_built(self, proxy: Callable[[str], int]) -> None:
        proxy("0.0.0.0")
        with pytest.raises(ConfigError, match=f"at 0.0.0.0 {REFUSAL}"):
            build_app(ServiceConfig())

    @pytest.mark.slow
    def test_no_replica_starts_behind_an_open_proxy(self, proxy: Callable[[str], int], toy_artifact: Path) -> None:
        from ray import serve

        from victorian.cluster.serve import Deployment

        proxy("0.0.0.0")
        user_config = ModelsConfig(models=(ModelSource(artifact=str(toy_artifact)),)).model_dump()
        deployment = Deployment.options(user_config=user_config)  # type: ignore[attr-defined]
        with pytest.raises(RuntimeError):
            serve.run(deployment.bind(ServiceConfig().model_dump()), name="open")
        (told,) = serve.status().applications["open"].deployments.values()
        assert f"at 0.0.0.0 {REFUSAL}" in told.message

    def test_keys_go_through_serves_proxy(
        self, proxy: Callable[[str], int], toy_artifact: Path, keys_file: tuple[Path, str]
    ) -> None:
        port = proxy("127.0.0.1")
        file, key = keys_file
        access = AccessConfig(keys_file=str(file), requests_per_minute=20)
        config = ServiceConfig(engine=EngineConfig(max_running=2), access=access)
        start(config, ModelsConfig(models=(ModelSource(artifact=str(toy_artifact)),)), "127.0.0.1", port)
        url = f"http://127.0.0.1:{port}"
        with Client(url, key=key) as client:
            assert client.models() == ["toy"]
            assert "".join(client.stream("It was", SamplingParameters(max_tokens=5)))
        with Client(url) as client:
            assert client.ready()
            with pytest.raises(AuthenticationError):
                client.models()
            with pytest.raises(AuthenticationError):
                client.stream("It was")
        offered = [Subprotocol("victorian"), Subprotocol(f"bearer.{key}")]
        with connect(f"ws://127.0.0.1:{port}/v1/stream", subprotocols=offered) as page:
            assert page.subprotocol == "victorian"
            assert json.loads(page.recv())["type"] == "connected"
        bearer = {"Authorization": f"Bearer {key}"}
        assert "x-ratelimit-remaining-requests" in httpx2.get(f"{url}/v1/models", headers=bearer).headers
        assert httpx2.get(f"{url}/v1/models", headers=bearer | {"X-Padding": "x" * 17_000}).status_code == 431
        assert answer_to_an_endless_body(url, key).startswith("HTTP/1.1 413 ")


def answer_to_an_endless_body(url: str, key: str) -> str:
    """What a body in chunks, of more than its limit and without an end, is answered."""
    address = urlsplit(url)
    with socket.create_connection((str(address.hostname), address.port or 80), timeout=20) as connection:
        head = f"POST /v1/completions HTTP/1.1\r\nHost: {address.netloc}\r\nAuthorization: Bearer {key}\r\n"
        kind = "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.sendall((head + kind).encode())
        for _ in range(17):
            connection.sendall(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
        return connection.recv(4096).decode()
