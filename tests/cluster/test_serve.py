"""The application under Ray Serve, with the clients that people have."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import openai
import psutil
import pytest
from websockets.sync.client import connect

from tests.running_service import soon
from victorian.client import Client
from victorian.cluster.serve import APPLICATION, start, stop
from victorian.config import (
    EngineConfig,
    ModelsConfig,
    ModelSource,
    ObservationConfig,
    SamplingParameters,
    ServiceConfig,
)
from victorian.errors import ArtifactError, ConfigError, OverloadedError

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("ray_session")]

LONG = SamplingParameters(max_tokens=30_000, min_tokens=30_000)


@pytest.fixture(scope="module")
def url(ray_session: None, toy_artifact: Path, free_port: Callable[[], int]) -> Iterator[str]:
    port = free_port()
    engine = EngineConfig(max_running=1, max_waiting=0)  # one at a time: a request that is not ended blocks the next
    observe = ObservationConfig(probe_seconds=600)  # and so would a probe
    start(ServiceConfig(engine=engine, observe=observe), models(toy_artifact.parent.parent), "127.0.0.1", port)
    yield f"http://127.0.0.1:{port}"
    from ray import serve

    stop()
    end = time.monotonic() + 60
    while APPLICATION in serve.status().applications and time.monotonic() < end:
        time.sleep(0.2)
    serve.shutdown()


def models(*folders: Path) -> ModelsConfig:
    return ModelsConfig(models=tuple(ModelSource(artifact=str(folder)) for folder in folders))


def free_within(url: str, seconds: float = 3.0) -> bool:
    """Whether the only row becomes free: a request is let in."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        answer = httpx2.post(f"{url}/v1/completions", json={"prompt": "It", "max_tokens": 1})
        if answer.status_code == 200:
            return True
        assert answer.status_code == 429
    return False


def test_the_openai_client_streams_a_completion(url: str) -> None:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        chunks = client.completions.create(model="toy", prompt="It was", max_tokens=20, seed=1, stream=True)
        streamed = "".join(chunk.choices[0].text for chunk in chunks)
        plain = client.completions.create(model="toy", prompt="It was", max_tokens=20, seed=1)
    assert streamed == plain.choices[0].text
    assert len(streamed) > 10


def test_the_websocket_gives_the_same_text(url: str) -> None:
    with Client(url) as client:
        text = "".join(client.stream("It was", SamplingParameters(max_tokens=20, seed=1)))
    body = {"prompt": "It was", "max_tokens": 20, "seed": 1}
    assert text == httpx2.post(f"{url}/v1/completions", json=body).json()["choices"][0]["text"]


def test_a_client_that_leaves_an_sse_stream_stops_its_generation(url: str) -> None:
    body = {"prompt": "It", "max_tokens": 30_000, "min_tokens": 30_000, "stream": True}
    with httpx2.stream("POST", f"{url}/v1/completions", json=body) as answer:
        lines = answer.iter_lines()
        assert next(lines).startswith("data: ")
        assert httpx2.post(f"{url}/v1/completions", json={"prompt": "It"}).status_code == 429
    assert free_within(url)


def test_a_client_that_leaves_a_websocket_stops_its_generation(url: str) -> None:
    with Client(url) as client:
        stream = client.stream("It", LONG)
        pieces = iter(stream)
        assert next(pieces)
        assert httpx2.post(f"{url}/v1/completions", json={"prompt": "It"}).status_code == 429
        stream.close()
    assert free_within(url)


def test_a_full_house_is_told_on_both_ways_in(url: str) -> None:
    with Client(url) as client:
        stream = client.stream("It", LONG)
        pieces = iter(stream)
        assert next(pieces)
        answer = httpx2.post(f"{url}/v1/completions", json={"prompt": "It"})
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
        with pytest.raises(OverloadedError, match="try again in a moment"):
            list(client.stream("It"))
        stream.close()
    assert free_within(url)


def test_a_cluster_whose_service_listens_elsewhere_is_not_taken_for_one_that_moved(
    url: str, toy_artifact: Path, free_port: Callable[[], int]
) -> None:
    with pytest.raises(ConfigError, match=rf"listens at {url.removeprefix('http://')} already"):
        start(ServiceConfig(), models(toy_artifact), "127.0.0.1", free_port())
    with Client(url) as client:
        assert client.models() == ["toy"]


def test_what_a_replica_opens_to_every_interface_asks_for_rays_token(url: str) -> None:
    """Serve has a gRPC server in each replica, on every interface, that unpickles what it is sent."""
    import grpc
    from ray.serve.generated.serve_pb2 import ASGIRequest
    from ray.serve.generated.serve_pb2_grpc import ASGIServiceStub

    family = psutil.Process().children(recursive=True)
    [replica] = [one for one in family if "ServeReplica:victorian" in " ".join(one.cmdline())]
    doors = {
        one.laddr.port
        for one in replica.net_connections("tcp")
        if one.status == psutil.CONN_LISTEN and not one.laddr.ip.endswith("127.0.0.1")
    }
    answers = set()
    for door in doors:
        with grpc.insecure_channel(f"127.0.0.1:{door}") as channel, pytest.raises(grpc.RpcError) as refused:
            ASGIServiceStub(channel).HandleRequest(ASGIRequest(pickled_request_metadata=b"no pickle"), timeout=10)
        answers.add(refused.value.code())
    assert grpc.StatusCode.UNAUTHENTICATED in answers
    assert answers <= {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNIMPLEMENTED}


def test_models_health_and_readiness(url: str) -> None:
    with Client(url) as client:
        assert client.models() == ["toy"]
        assert client.ready()
    assert httpx2.get(f"{url}/health").json() == {"status": "ok"}


def test_rays_metrics_show_ours(url: str) -> None:
    from ray import nodes

    told = httpx2.post(f"{url}/v1/completions", json={"prompt": "It was", "max_tokens": 5}).headers
    assert len(told["x-request-id"]) > 10
    port = nodes()[0]["MetricsExportPort"]
    wanted = {"generation_tokens_total", "num_requests_running", "e2e_request_latency_seconds_bucket"}

    def shown() -> set[str]:
        text = httpx2.get(f"http://127.0.0.1:{port}/metrics").text
        return {line.split("{")[0].removeprefix("ray_victorian_") for line in text.splitlines() if '="toy"' in line}

    assert soon(lambda: wanted <= shown(), seconds=30)  # Ray collects every ten seconds
    own = httpx2.get(f"{url}/metrics").text
    assert 'victorian:request_success_total{finished_reason="length",model_name="toy"}' in own


def test_a_request_id_goes_through_rays_proxy(url: str) -> None:
    headers = {"X-Request-Id": "mine"}
    assert httpx2.get(f"{url}/health", headers=headers).headers.get_list("x-request-id") == ["mine"]
    with connect(f"ws{url.removeprefix('http')}/v1/stream", additional_headers=headers) as socket:
        assert socket.response is not None
        assert socket.response.headers.get_all("x-request-id") == ["mine"]


def test_an_artifact_that_is_not_there_is_told_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no trained model in"):
        start(ServiceConfig(), models(tmp_path), "127.0.0.1", 1)
