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
        self._made: dict[Metric, Counter | Gauge | Histogram] = {one: _make(one) for one in METRICS}
        self._shown: set[str] = set()

    def count(self, metric: Metric, model: str, amount: int = 1, value: str | None = None) -> None:
        labels = {MODEL: model}
        if metric.label and value is not None:
            labels[metric.label] = value
        self._made[metric].inc(amount, labels)

    def measure(self, metric: Metric, model: str, seconds: Sequence[float]) -> None:
        for one in seconds:
            self._made[metric].observe(one, {MODEL: model})

    def show(self, loads: Mapping[str, Load]) -> None:
        for model in self._shown - loads.keys():
            self._set(model, Load(0, 0, 0, 0))
        for model, load in loads.items():
            self._set(model, load)
        self._shown = set(loads)

    def _set(self, model: str, load: Load) -> None:
        for metric, number in gauges(load):
            self._made[metric].set(number, {MODEL: model})


def _make(metric: Metric) -> Counter | Gauge | Histogram:
    name = f"{NAMESPACE}_{metric.name}"
    keys = (MODEL, metric.label) if metric.label else (MODEL,)
    match metric.kind:
        case "counter":
            return Counter(name, metric.help, keys)
        case "gauge":
            return Gauge(name, metric.help, keys)
        case "histogram":
            return Histogram(name, metric.help, list(SECONDS), keys)
