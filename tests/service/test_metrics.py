"""`/metrics`: every count is what the clients were told, on every way in and whatever end a request takes."""

import json
import random
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx2
import openai
import prometheus_client
import pytest
import yaml
from websockets.sync.client import connect

from tests.running_service import Service, running, soon
from tests.service.scraping import scrape
from victorian.config import EngineConfig, ServiceConfig
from victorian.engine.request import Load
from victorian.service import metrics

DEPLOY = Path(__file__).parents[2] / "deploy"
ENDLESS = {"max_tokens": 30_000, "min_tokens": 30_000}
LONG = {"prompt": "It", "stream": True, **ENDLESS}


@pytest.fixture(scope="module")
def small(toy_artifact: Path, free_port: Callable[[], int]) -> Iterator[Service]:
    """A service with room for two, one more in the queue, and a cache that holds one long text."""
    engine = EngineConfig(max_running=2, max_waiting=1, cache_tokens=64)
    with running(toy_artifact, free_port(), ServiceConfig(engine=engine)) as made:
        yield made


@pytest.fixture
def client(small: Service) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{small.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def test_tokens_are_those_that_clients_were_told_of(small: Service, client: openai.OpenAI) -> None:
    before = scrape(small.url)
    told = []
    for tokens in (1, 12):
        told.append(
            client.completions.create(
                model="toy", prompt="It was", max_tokens=tokens, extra_body={"min_tokens": tokens}
            ).usage
        )
    streamed = client.completions.create(
        model="toy",
        prompt="A dark night",
        max_tokens=20,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"min_tokens": 20},
    )
    told.append(list(streamed)[-1].usage)
    counts = [(usage.prompt_tokens, usage.completion_tokens) for usage in told if usage]
    with connect(small.socket_url) as socket:
        socket.send(
            json.dumps(
                {"type": "generate", "id": "short", "prompt": "It", "parameters": {"max_tokens": 7, "min_tokens": 7}}
            )
        )
        socket.send(json.dumps({"type": "generate", "id": "cut", "parameters": ENDLESS}))
        ended: dict[str, dict[str, dict[str, int]]] = {}
        while len(ended) < 2:
            message = json.loads(socket.recv(timeout=10))
            if message["type"] == "token" and message["id"] == "cut" and message["index"] == 30:
                socket.send(json.dumps({"type": "cancel", "id": "cut"}))
            if message["type"] == "complete":
                ended[message["id"]] = message
    counts += [(one["usage"]["prompt_tokens"], one["usage"]["completion_tokens"]) for one in ended.values()]

    added = scrape(small.url).since(before)
    assert added.value("prompt_tokens_total") == sum(prompt for prompt, _ in counts)
    assert added.value("prefix_cache_queries_total") == sum(prompt for prompt, _ in counts)
    assert added.value("generation_tokens_total") == sum(generated for _, generated in counts) > 70
    assert added.value("request_success_total", finished_reason="length") == 4
    assert added.value("request_success_total", finished_reason="cancelled") == 1
    assert added.value("time_to_first_token_seconds_count") == 5
    assert added.value("inter_token_latency_seconds_count") == sum(generated - 1 for _, generated in counts)
    assert added.value("e2e_request_latency_seconds_count") == 5
    assert added.value("request_queue_time_seconds_count") == 5
    assert 0 < added.value("time_to_first_token_seconds_sum") < added.value("e2e_request_latency_seconds_sum")


def test_one_who_leaves_is_counted_to_the_end(small: Service) -> None:
    before = scrape(small.url)
    with httpx2.stream("POST", f"{small.url}/v1/completions", json=LONG) as answer:
        lines = answer.iter_lines()
        received = [line for line, _ in zip(lines, range(40), strict=False) if line.startswith("data: ")]
    assert small.idle()
    cancelled = "request_success_total"
    assert soon(lambda: scrape(small.url).since(before).value(cancelled, finished_reason="cancelled") == 1)
    added = scrape(small.url).since(before)
    assert added.value("generation_tokens_total") >= len(received) == 20
    assert added.value("inter_token_latency_seconds_count") == added.value("generation_tokens_total") - 1


def test_a_full_house_shows_and_so_does_whom_it_turns_away(small: Service) -> None:
    before = scrape(small.url)
    with httpx2.Client(base_url=small.url, timeout=20) as client, ExitStack() as streams:
        for _ in range(2):
            streams.enter_context(client.stream("POST", "/v1/completions", json=LONG))
        with connect(small.socket_url) as socket:
            socket.recv()
            socket.send(json.dumps({"type": "generate", "id": "waits", "parameters": ENDLESS}))
            assert soon(lambda: small.engine.active == 3)
            full = scrape(small.url)
            assert full.value("num_requests_running") + full.value("num_requests_waiting") == 3
            assert full.value("num_requests_waiting") >= 1
            assert 0 < full.value("kv_cache_usage_perc") <= 1
            assert client.post("/v1/completions", json=LONG).status_code == 429
            socket.send(json.dumps({"type": "generate", "id": "late"}))
            while json.loads(socket.recv(timeout=10)).get("id") != "late":
                pass
    assert small.idle()
    after = scrape(small.url)
    assert after.since(before).value("admission_rejections_total", reason="overloaded") == 2
    assert after.value("num_requests_running") == after.value("num_requests_waiting") == 0
    assert after.value("kv_cache_usage_perc") == 0


def test_what_the_cache_held_already_is_counted(small: Service, client: openai.OpenAI) -> None:
    before = scrape(small.url)
    for _ in range(2):
        client.completions.create(model="toy", prompt=list(range(40)), max_tokens=1)
    added = scrape(small.url).since(before)
    assert added.value("prefix_cache_queries_total") == 80
    assert added.value("prefix_cache_hits_total") == 32


def test_one_who_gives_way_is_counted(small: Service) -> None:
    before = scrape(small.url)
    with connect(small.socket_url) as socket:
        for name in "ab":
            socket.send(
                json.dumps({"type": "generate", "id": name, "parameters": {"max_tokens": 60, "min_tokens": 60}})
            )
        ended = 0
        while ended < 2:
            ended += json.loads(socket.recv(timeout=10))["type"] == "complete"
    assert scrape(small.url).since(before).value("num_preemptions_total") > 0


def test_failures_are_counted_by_their_code(small: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("injected")

    before = scrape(small.url)
    with monkeypatch.context() as patched:
        patched.setattr(small.engine._forward.runner, "run", fail)
        assert httpx2.post(f"{small.url}/v1/completions", json={"prompt": "It"}).status_code == 500
    added = scrape(small.url).since(before)
    assert added.value("request_failure_total", code="internal_error") == 1
    assert added.value("request_failure_total", code="slow_reader") == 0
    assert added.value("e2e_request_latency_seconds_count") == 1
    assert small.engine.healthy


def test_names_keep_their_colon_whatever_format_is_asked_for(small: Service) -> None:
    assert all(name.startswith("victorian:") for name in scrape(small.url).names)


def test_buckets_are_those_of_the_clients_own_histogram() -> None:
    registry = prometheus_client.CollectorRegistry()
    theirs = prometheus_client.Histogram("reference", "", registry=registry, buckets=metrics.SECONDS)
    ours = metrics.PrometheusMeter()
    draw = random.Random(0)
    for _ in range(20):
        values = [draw.choice(metrics.SECONDS) if draw.random() < 0.3 else draw.expovariate(1) for _ in range(50)]
        ours.measure(metrics.LATENCY, "toy", [*values, 601.0])
        for value in (*values, 601.0):
            theirs.observe(value)
    expected = {
        (sample.name.removeprefix("reference"), sample.labels.get("le")): pytest.approx(sample.value)
        for family in registry.collect()
        for sample in family.samples
        if not sample.name.endswith("_created")
    }
    name = "victorian:e2e_request_latency_seconds"
    got = {
        (sample.name.removeprefix(name), sample.labels.get("le")): sample.value
        for family in ours.collect()
        for sample in family.samples
        if family.name == name
    }
    assert got == expected


def test_a_model_that_is_gone_shows_no_load_and_keeps_its_counts() -> None:
    meter = metrics.PrometheusMeter()
    meter.show({"old": Load(1, 0, 0.5, 0.0)})
    meter.count(metrics.GENERATION_TOKENS, "old", 5)
    meter.show({"new": Load(0, 0, 0.0, 0.0)})
    samples = {(s.name, s.labels["model_name"]): s.value for family in meter.collect() for s in family.samples}
    assert ("victorian:num_requests_running", "old") not in samples
    assert samples["victorian:num_requests_running", "new"] == 0
    assert samples["victorian:generation_tokens_total", "old"] == 5


class TestDeployment:
    """The files that people take to their own Prometheus and Grafana."""

    def test_every_metric_of_the_dashboard_is_in_a_scrape(self, small: Service, client: openai.OpenAI) -> None:
        client.completions.create(model="toy", prompt="It was", max_tokens=3)
        dashboard = json.loads((DEPLOY / "grafana.json").read_text())
        queries = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
        used = {name for query in queries for name in re.findall(r"victorian:\w+", query)}
        assert used <= scrape(small.url).names
        shown = " ".join(queries)
        for metric in metrics.METRICS:
            assert metric.name in shown

    def test_panels_have_a_place_and_the_datasource_that_is_chosen(self) -> None:
        dashboard = json.loads((DEPLOY / "grafana.json").read_text())
        places = [tuple(panel["gridPos"].values()) for panel in dashboard["panels"]]
        assert len(set(places)) == len(places)
        assert {panel["datasource"]["uid"] for panel in dashboard["panels"]} == {"${datasource}"}
        assert [one["name"] for one in dashboard["templating"]["list"]] == ["datasource", "model_name"]

    def test_prometheus_is_sent_to_where_metrics_are(self, small: Service) -> None:
        jobs = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["scrape_configs"]
        ours = next(job for job in jobs if job["job_name"] == "victorian")
        assert ours["static_configs"] == [{"targets": ["127.0.0.1:8000"]}]
        assert httpx2.get(small.url + ours["metrics_path"]).status_code == 200
