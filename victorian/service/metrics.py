"""What is counted and measured of a service, and where the numbers go.

Names and labels are vLLM's, so that what people know of its dashboards holds here; only the namespace is ours.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import numpy as np
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from victorian.engine.request import FailureCode, FinishReason, Load

NAMESPACE = "victorian"
MODEL = "model_name"

SECONDS = (
    0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75,
    1, 1.5, 2, 3, 5, 7.5, 10, 20, 30, 60, 120, 300, 600,
)  # fmt: skip
"""Upper bounds of every histogram's buckets: 1 ms to 10 min."""


Rejection = Literal[
    "overloaded", "rate_limited", "unauthorized", "invalid_message", "invalid_request", "model_not_found", "stopped"
]


@dataclass(frozen=True)
class Metric:
    """Something that is counted, read off, or measured."""

    name: str
    """Without the namespace."""
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    label: str | None = None
    """Beside the model's name; only counters have one."""
    values: tuple[str, ...] = ()
    """Of that label, which count from zero; others begin when they are met."""


RUNNING = Metric("num_requests_running", "gauge", "Requests that have room in the cache.")
WAITING = Metric("num_requests_waiting", "gauge", "Requests in the queue.")
CACHE_USAGE = Metric("kv_cache_usage_perc", "gauge", "Share of the KV cache in use, 0 to 1.")

PROMPT_TOKENS = Metric("prompt_tokens_total", "counter", "Tokens of prompts.")
GENERATION_TOKENS = Metric("generation_tokens_total", "counter", "Tokens generated.")
CACHE_QUERIES = Metric("prefix_cache_queries_total", "counter", "Tokens of prompts that were looked up in the cache.")
CACHE_HITS = Metric("prefix_cache_hits_total", "counter", "Tokens of prompts that the cache held already.")
PREEMPTIONS = Metric("num_preemptions_total", "counter", "Times that a request gave its room in the cache to another.")
SUCCESSES = Metric(
    "request_success_total", "counter", "Requests that did not fail.", "finished_reason", get_args(FinishReason)
)
FAILURES = Metric("request_failure_total", "counter", "Requests that failed.", "code", get_args(FailureCode))
REJECTIONS = Metric(
    "admission_rejections_total",
    "counter",
    "Requests that were not taken; without a model's name where it did not come to that.",
    "reason",
    get_args(Rejection),
)

FIRST_TOKEN = Metric("time_to_first_token_seconds", "histogram", "From submission to the first token.")
BETWEEN_TOKENS = Metric("inter_token_latency_seconds", "histogram", "From a token to the next.")
LATENCY = Metric("e2e_request_latency_seconds", "histogram", "From submission to the end.")
QUEUED = Metric("request_queue_time_seconds", "histogram", "From submission until the cache had room.")

METRICS = (
    RUNNING, WAITING, CACHE_USAGE, PROMPT_TOKENS, GENERATION_TOKENS, CACHE_QUERIES, CACHE_HITS, PREEMPTIONS,
    SUCCESSES, FAILURES, REJECTIONS, FIRST_TOKEN, BETWEEN_TOKENS, LATENCY, QUEUED,
)  # fmt: skip


def gauges(load: Load) -> tuple[tuple[Metric, float], ...]:
    """What they show of a load."""
    return (RUNNING, load.running), (WAITING, load.waiting), (CACHE_USAGE, load.cache_usage)


class Meter(Protocol):
    """Takes numbers, from any thread."""

    def count(self, metric: Metric, model: str, amount: int = 1, value: str | None = None) -> None:
        """Add to a counter; `value` is that of its label, if it has one."""

    def measure(self, metric: Metric, model: str, seconds: Sequence[float]) -> None:
        """Add to a histogram, as many as there are."""

    def show(self, loads: Mapping[str, Load]) -> None:
        """What the gauges say from now on: of these models, and no others."""


class PrometheusMeter(Collector):
    """Keeps the numbers until Prometheus asks; everything is counted from zero for each model that was shown.

    prometheus-client only writes them: its own histograms take one number at a time, each with a lock, which would be
    the better part of what a token costs here.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._adding = threading.Lock()
        self._bounds = np.array(SECONDS)
        self._counts: dict[Metric, dict[tuple[str, ...], int]] = {}
        self._measured: dict[Metric, dict[str, tuple[np.ndarray, float]]] = {}
        """For each model how many fell into which bucket, and their sum."""
        for metric in METRICS:
            if metric.kind == "counter":
                self._counts[metric] = {}
            elif metric.kind == "histogram":
                self._measured[metric] = {}
        self._loads: Mapping[str, Load] = {}
        self._registry.register(self)

    def count(self, metric: Metric, model: str, amount: int = 1, value: str | None = None) -> None:
        labels = (model,) if value is None else (model, value)
        with self._adding:
            counts = self._counts[metric]
            counts[labels] = counts.get(labels, 0) + amount

    def measure(self, metric: Metric, model: str, seconds: Sequence[float]) -> None:
        added = np.bincount(np.searchsorted(self._bounds, seconds), minlength=len(SECONDS) + 1)
        with self._adding:
            buckets, total = self._measured[metric].get(model, (0, 0.0))
            self._measured[metric][model] = buckets + added, total + sum(seconds)

    def show(self, loads: Mapping[str, Load]) -> None:
        self._loads = dict(loads)
        for model in loads:
            for metric in METRICS:
                if metric.kind == "counter":
                    for value in metric.values or (None,):
                        self.count(metric, model, 0, value)
                elif metric.kind == "histogram":
                    self.measure(metric, model, [])

    def exposition(self) -> tuple[bytes, str]:
        """What Prometheus reads, and its content type.

        The plain format whatever the reader would rather have: in OpenMetrics, which Prometheus asks for first,
        prometheus-client 0.26 writes an underscore for the colon in names.
        """
        return generate_latest(self._registry), CONTENT_TYPE_PLAIN_0_0_4

    def collect(self) -> Iterator[Family]:
        """Everything as it is now; prometheus-client calls this."""
        with self._adding:
            counts = {metric: dict(values) for metric, values in self._counts.items()}
            measured = {metric: dict(values) for metric, values in self._measured.items()}
        bounds = [*(str(float(bound)) for bound in SECONDS), "+Inf"]
        for metric in METRICS:
            name = f"{NAMESPACE}:{metric.name}"
            match metric.kind:
                case "gauge":
                    gauge = GaugeMetricFamily(name, metric.help, labels=[MODEL])
                    for model, load in self._loads.items():
                        gauge.add_metric([model], dict(gauges(load))[metric])
                    yield gauge
                case "counter":
                    counter = CounterMetricFamily(name, metric.help, labels=[MODEL, *filter(None, [metric.label])])
                    for labels, count in counts[metric].items():
                        counter.add_metric(labels, count)
                    yield counter
                case "histogram":
                    histogram = HistogramMetricFamily(name, metric.help, labels=[MODEL])
                    for model, (buckets, total) in measured[metric].items():
                        up_to = np.cumsum(buckets).tolist()
                        histogram.add_metric([model], list(zip(bounds, up_to, strict=True)), total)
                    yield histogram
