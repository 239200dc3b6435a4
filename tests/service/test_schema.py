"""schemathesis reads the service's own OpenAPI schema and sends what that allows and forbids."""

import httpx2
import hypothesis
import schemathesis
from schemathesis.config import SchemathesisConfig

from tests.running_service import Service
from victorian.config import ServiceConfig
from victorian.service.ingress import create_app
from victorian.service.models import Models

CONFIG = {
    # A schema does not say how long a prompt the model sees, how many tokens it knows, and how many requests have room.
    "checks": {
        "positive_data_acceptance": {"expected-statuses": ["2xx", "400", "404", "429"]},
        "negative_data_rejection": {"expected-statuses": ["4xx"]},
    },
}
DESCRIBED = create_app(Models(), ServiceConfig()).openapi()

schema = schemathesis.openapi.from_dict(DESCRIBED, config=SchemathesisConfig.from_dict(CONFIG))


@schema.parametrize()
@hypothesis.settings(deadline=None, max_examples=40, suppress_health_check=list(hypothesis.HealthCheck))
def test_every_answer_is_as_documented(case: schemathesis.Case, service: Service) -> None:
    if isinstance(case.body, dict) and case.path == "/v1/completions":
        # Short texts are as good, and how quick this machine is does not matter here.
        for name, default, low, instead in (("max_tokens", 256, 8, 8), ("deadline_seconds", 10, 0.1, 10)):
            value = case.body.get(name, default)
            if type(value) in (int, float) and low <= value <= 32_768:
                case.body[name] = instead
    case.call_and_validate(base_url=service.url, timeout=20)


def test_the_service_tells_this_schema(service: Service) -> None:
    assert httpx2.get(f"{service.url}/openapi.json").json() == DESCRIBED
