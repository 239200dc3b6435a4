"""The service's numbers through Ray's metrics, where those of every replica add up.

Ray writes them on each node's metrics port, with `ray_victorian_` before the name. It keeps a histogram's buckets and
only estimates its sum: take means from a replica's own `/metrics`.
"""

from collections.abc import Mapping, Sequence

from ray.util.metrics import Counter, Gauge, Histogram

from victorian.engine.request import Load
from victorian.service.metrics import METRICS, MODEL, NAMESPACE, SECONDS, Metric, gauges


class RayMeter:
    """Hands numbers on to Ray; made inside a Ray worker."""

    def __init__(self) -> None:
        self._counters: dict[Metric, Counter] = {}
        self._gauges: dict[Metric, Gauge] = {}
        self._histograms: dict[Metric, Histogram] = {}
        self._shown: set[str] = set()
        for metric in METRICS:
            name = f"{NAMESPACE}_{metric.name}"  # Ray takes no colon
            match metric.kind:
                case "counter":
                    keys = (MODEL, metric.label) if metric.label else (MODEL,)
                    self._counters[metric] = Counter(name, metric.help, keys)
                case "gauge":
                    self._gauges[metric] = Gauge(name, metric.help, (MODEL,))
                case "histogram":
                    self._histograms[metric] = Histogram(name, metric.help, list(SECONDS), (MODEL,))

    def count(self, metric: Metric, model: str, amount: int = 1, value: str | None = None) -> None:
        labels = {MODEL: model}
        if metric.label and value is not None:
            labels[metric.label] = value
        self._counters[metric].inc(amount, labels)

    def measure(self, metric: Metric, model: str, seconds: Sequence[float]) -> None:
        for one in seconds:
            self._histograms[metric].observe(one, {MODEL: model})

    def show(self, loads: Mapping[str, Load]) -> None:
        gone = {model: Load(0, 0, 0, 0) for model in self._shown - loads.keys()}
        for model, load in {**gone, **loads}.items():
            for metric, number in gauges(load):
                self._gauges[metric].set(number, {MODEL: model})
        self._shown = set(loads)
