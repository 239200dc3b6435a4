"""Reads a service's `/metrics` as Prometheus does."""

from collections.abc import Mapping
from dataclasses import dataclass

import httpx2
from prometheus_client.parser import text_string_to_metric_families

ACCEPT = (
    "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
"""What Prometheus 2 asks for."""


@dataclass(frozen=True)
class Scrape:
    """The samples of one moment."""

    samples: dict[tuple[str, frozenset[tuple[str, str]]], float]

    @property
    def names(self) -> set[str]:
        return {name for name, _ in self.samples}

    def value(self, name: str, **labels: str) -> float:
        """Of the model `toy`, without our namespace."""
        return self.samples[f"victorian:{name}", frozenset({"model_name": "toy", **labels}.items())]

    def since(self, before: "Scrape") -> "Scrape":
        """What has been added."""
        return Scrape({key: value - before.samples.get(key, 0) for key, value in self.samples.items()})


def scrape(url: str, headers: Mapping[str, str] | None = None) -> Scrape:
    answer = httpx2.get(f"{url}/metrics", headers={"Accept": ACCEPT, **(headers or {})})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    families = text_string_to_metric_families(answer.text)
    return Scrape(
        {(one.name, frozenset(one.labels.items())): one.value for family in families for one in family.samples}
    )
