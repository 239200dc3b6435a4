"""`serve_config.yaml` says what is so, in its comments too. No cluster runs here."""

import re
from typing import Any

import pytest
import yaml
from pydantic import BaseModel
from ray.serve.schema import ServeDeploySchema

from tests.conftest import ROOT
from victorian.cluster.serve import Deployment
from victorian.config import ModelsConfig, ModelSource, ServiceConfig

TEXT = (ROOT / "serve_config.yaml").read_text()
EXAMPLES = {
    "threads", "cache_tokens", "max_sockets_per_key", "keys_file", "requests_per_minute", "tokens_per_minute",
    "origins", "traces_to", "name", "writes_per_second",
}  # fmt: skip
"""Options that are nothing by default, so that a comment can only show what might stand there."""


def switched_on(text: str, but: frozenset[str] | set[str] = frozenset()) -> dict[str, Any]:
    """The file with every option that is commented out, but for some."""

    def uncomment(line: str) -> str:
        option = re.match(r"( *)# (\w+):(?: |$)", line)
        return line.replace("# ", "", 1) if option and option[2] not in but else line

    made: dict[str, Any] = yaml.safe_load("\n".join(map(uncomment, text.splitlines())))
    return made


def application(config: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = config["applications"][0]
    return found


@pytest.fixture
def everything() -> dict[str, Any]:
    return switched_on(TEXT)


def test_the_file_as_it_is_shipped_is_what_the_code_does_by_default() -> None:
    shipped = yaml.safe_load(TEXT)
    ServeDeploySchema.model_validate(shipped)
    assert ServiceConfig.model_validate(application(shipped)["args"]) == ServiceConfig()
    assert ModelsConfig.model_validate(application(shipped)["deployments"][0]["user_config"]) == ModelsConfig()


def test_every_option_can_be_switched_on(everything: dict[str, Any]) -> None:
    deployment = application(everything)["deployments"][0]
    assert {"autoscaling_config", "graceful_shutdown_timeout_s"} <= deployment.keys()
    deployment.pop("num_replicas")  # "in its place"
    ServeDeploySchema.model_validate(everything)
    ServiceConfig.model_validate(application(everything)["args"])
    ModelsConfig.model_validate(deployment["user_config"])


def test_what_is_commented_out_shows_its_default() -> None:
    config = application(switched_on(TEXT, but=EXAMPLES))
    assert ServiceConfig.model_validate(config["args"]) == ServiceConfig()
    (deployment,) = config["deployments"]
    own = Deployment._deployment_config  # type: ignore[attr-defined]
    for option in ("max_ongoing_requests", "graceful_shutdown_timeout_s", "health_check_period_s"):
        assert deployment[option] == getattr(own, option), option
    assert deployment["ray_actor_options"] == Deployment.ray_actor_options  # type: ignore[attr-defined]


def test_no_option_is_missing(everything: dict[str, Any]) -> None:
    args = application(everything)["args"]
    assert options(args) == fields(ServiceConfig())
    (model,) = application(everything)["deployments"][0]["user_config"]["models"]
    assert set(model) == set(ModelSource.model_fields)


def options(section: dict[str, Any], at: str = "") -> set[str]:
    names = set()
    for name, value in section.items():
        names |= options(value, f"{at}{name}.") if isinstance(value, dict) else {f"{at}{name}"}
    return names


def fields(section: BaseModel, at: str = "") -> set[str]:
    names = set()
    for name, value in section:
        names |= fields(value, f"{at}{name}.") if isinstance(value, BaseModel) else {f"{at}{name}"}
    return names
