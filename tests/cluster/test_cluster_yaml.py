"""cluster.yaml, as Ray's own launcher reads it. Nothing here reaches AWS."""

import copy
import os
import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray._private.authentication.authentication_token_setup import _get_default_token_path
from ray.autoscaler._private.aws.config import _create_default_inbound_rules
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil

ROOT = Path(__file__).parents[2]
FILE = ROOT / "cluster.yaml"
START_COMMANDS = ("head_start_ray_commands", "worker_start_ray_commands")

FAKE_RAY = """#!/bin/bash
echo "$1 mode=$RAY_AUTH_MODE usage=$RAY_USAGE_STATS_ENABLED threads=${OMP_NUM_THREADS-unset}" >> "$HOME/calls"
"""


@pytest.fixture
def cluster() -> dict[str, Any]:
    """The file with Ray's defaults filled in, as `ray up` sees it."""
    prepared: dict[str, Any] = prepare_config(yaml.safe_load(FILE.read_text()))
    return prepared


def run_on_a_node(commands: list[str], home: Path) -> list[str]:
    """Run commands in a home of their own, with a `ray` that only notes its calls; return the notes."""
    programs = home / "bin"
    programs.mkdir(exist_ok=True)
    (programs / "ray").write_text(FAKE_RAY)
    (programs / "ray").chmod(0o755)
    environment = {
        "HOME": str(home),
        "PATH": f"{programs}:/usr/bin:/bin",
        "OMP_NUM_THREADS": "1",
        "RAY_USAGE_STATS_ENABLED": "1",
        "RAY_HEAD_IP": "192.0.2.1",
    }
    for command in commands:
        subprocess.run(["bash", "-c", command], env=environment, check=True)
    calls = home / "calls"
    return calls.read_text().splitlines() if calls.exists() else []


def test_ray_accepts_the_file(cluster: dict[str, Any]) -> None:
    """Ray's schema and its checks between fields pass."""
    validate_config(cluster)


@pytest.mark.parametrize("place", [[], ["available_node_types", "p4d"], ["provider", "security_group"]])
def test_ray_refuses_an_unknown_key(cluster: dict[str, Any], place: list[str]) -> None:
    """The validation above can fail: a misspelt option isn't dropped in silence."""
    broken = copy.deepcopy(cluster)
    section = broken
    for key in place:
        section = section[key]
    section["max_wrokers"] = 1
    with pytest.raises(jsonschema.ValidationError, match="max_wrokers"):
        validate_config(broken)


def test_p4d_workers_state_what_they_have(cluster: dict[str, Any]) -> None:
    """Ray may have no way to ask AWS, so CPU and GPU are in the file; no p4d runs until there is work."""
    p4d = cluster["available_node_types"]["p4d"]
    assert p4d["node_config"]["InstanceType"] == "p4d.24xlarge"
    assert p4d["resources"] == {"CPU": 96, "GPU": 8}
    assert p4d["min_workers"] == 0
    assert 0 < p4d["max_workers"] <= cluster["max_workers"]


@pytest.mark.parametrize(
    ("shape", "count", "launched"),
    [({"CPU": 1}, 40, {"cpu": 2}), ({"CPU": 1, "GPU": 1}, 9, {"p4d": 2}), ({"GPU": 1}, 1, {"p4d": 1})],
)
def test_work_starts_the_nodes_that_fit(shape: dict[str, float], count: int, launched: dict[str, int]) -> None:
    """Ray's autoscaler starts a p4d for GPU work only, and never counts on the head."""
    config = AutoscalingConfig(yaml.safe_load(FILE.read_text()), skip_content_hash=True)
    demand = ResourceRequestUtil.group_by_count([ResourceRequestUtil.make(shape)] * count)
    reply = ResourceDemandScheduler().schedule(
        SchedulingRequest(
            disable_launch_config_check=True,
            node_type_configs=config.get_node_type_configs(),
            max_num_nodes=config.get_max_num_nodes(),
            resource_requests=demand,
        )
    )
    assert {launch.instance_type: launch.count for launch in reply.to_launch} == launched
    assert not reply.infeasible_resource_requests


def test_every_node_names_its_image_and_profile(cluster: dict[str, Any]) -> None:
    """Ray's own image is Ubuntu 18.04, and Ray gives workers no profile at all."""
    for node_type in cluster["available_node_types"].values():
        assert re.search(r"ubuntu-2[24]\.04", node_type["node_config"]["ImageId"])
        assert node_type["node_config"]["IamInstanceProfile"]["Name"]
        assert node_type["node_config"]["MetadataOptions"] == {"HttpTokens": "required"}


def test_only_ssh_is_open_from_outside(cluster: dict[str, Any]) -> None:
    """Of the rules that Ray would write, its own and ours, only port 22 names addresses outside the group."""
    ours = cluster["provider"]["security_group"]["IpPermissions"]
    rules = _create_default_inbound_rules({"sg-of-the-cluster"}, ours)
    outside = [rule for rule in rules if set(rule) & {"IpRanges", "Ipv6Ranges", "PrefixListIds"}]
    assert {(rule["IpProtocol"], rule["FromPort"], rule["ToPort"]) for rule in outside} == {("tcp", 22, 22)}
    inside = [rule for rule in rules if rule not in outside]
    assert [rule["UserIdGroupPairs"] for rule in inside] == [[{"GroupId": "sg-of-the-cluster"}]]
    assert all(address["CidrIp"] != "0.0.0.0/0" for rule in ours for address in rule["IpRanges"])


@pytest.mark.parametrize("which", START_COMMANDS)
def test_ray_never_starts_without_the_token(cluster: dict[str, Any], which: str, tmp_path: Path) -> None:
    """A node closes its token to other users, stops Ray, and starts it in token mode without telemetry."""
    token = tmp_path / ".ray" / "auth_token"
    token.parent.mkdir()
    token.touch(0o644)
    stop, start = run_on_a_node(cluster[which], tmp_path)
    assert stop.startswith("stop ")
    assert start == "start mode=token usage=0 threads=unset"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    for command in cluster[which]:
        before, found, _ = command.partition("ray start")
        assert not found or "RAY_AUTH_MODE=token" in before


def test_the_head_answers_on_itself_and_workers_find_it(cluster: dict[str, Any], tmp_path: Path) -> None:
    """The dashboard isn't bound to an address that others reach, and the head runs the autoscaler."""
    head, worker = (" ".join(cluster[which]) for which in START_COMMANDS)
    assert "--head" in head
    assert "--dashboard-host=127.0.0.1" in head
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in head
    assert "--port=6379" in head
    assert "--address=$RAY_HEAD_IP:6379" in worker


def test_every_node_gets_the_operators_token(cluster: dict[str, Any]) -> None:
    """The token is mounted where Ray looks for it, from where `ray get-auth-token --generate` puts it."""
    (remote, local), *others = [pair for pair in cluster["file_mounts"].items() if "auth_token" in pair[0]]
    assert not others
    assert Path(remote).expanduser() == Path(local).expanduser() == _get_default_token_path()


def test_nodes_get_the_project_without_its_data(cluster: dict[str, Any]) -> None:
    """What `make install` needs is in the mounted folder; environment, data, runs and history stay behind."""
    project = ROOT / cluster["file_mounts"]["~/victorian"]
    assert {"Makefile", "pyproject.toml", "requirements.lock", "README.md", "victorian"} <= set(os.listdir(project))
    assert {"/.venv", "/data", "/runs", "/.git"} <= set(cluster["rsync_exclude"])


@pytest.mark.parametrize("which", ["head_setup_commands", "worker_setup_commands"])
def test_nodes_install_from_the_lock(cluster: dict[str, Any], which: str) -> None:
    """The Makefile's rule installs everything; nothing comes from pip past the lock."""
    commands = cluster[which]
    assert "make -C ~/victorian install" in commands
    assert not [command for command in commands if re.search(r"\b(pip|conda|uv)\b", command)]
    assert "--require-hashes" in (ROOT / "Makefile").read_text()


def test_setting_up_twice_changes_nothing(cluster: dict[str, Any], tmp_path: Path) -> None:
    """The laptop and the head each prepend the setup commands to a worker's: a worker runs them twice."""
    shell_profile = [command for command in cluster["setup_commands"] if ".bashrc" in command]
    (tmp_path / ".bashrc").write_text("# as the image has it\n")
    run_on_a_node(shell_profile * 2, tmp_path)
    lines = (tmp_path / ".bashrc").read_text().splitlines()
    assert len(lines) == 2
    assert "RAY_AUTH_MODE=token" in lines[1]


@pytest.mark.parametrize(
    "pattern",
    [
        r"s3://",
        r"\b(AKIA|ASIA)[A-Z0-9]{16}\b",
        r"\b[0-9a-f]{32,}\b",
        r"\b\d{12}\b",
        r"BEGIN [A-Z ]*KEY",
        r"(?<![\w~.])/(home|root|Users|work|mnt)/",
    ],
)
def test_the_file_names_no_secret_no_bucket_and_no_home(pattern: str) -> None:
    """Keys, tokens, account numbers, buckets and one person's paths belong elsewhere."""
    assert not re.search(pattern, FILE.read_text())
