"""`ray job submit` and `serve run` on a running cluster, as an operator types them."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest

from tests.cluster.conftest import BIN, Head
from tests.conftest import ROOT, TOY
from tests.running_service import soon
from tests.tokens.test_shards import contents

pytestmark = pytest.mark.cluster

FLAGS = [
    "--model.layers=2", "--model.channels=32", "--model.heads=2", "--model.context=64", "--model.vocabulary=576",
    "--tokens.ranks=512", "--tokens.tokens-per-shard=20000", "--training.steps=3", "--training.tokens-per-step=512",
]  # fmt: skip


def submit(head: Head, *command: str) -> subprocess.CompletedProcess[str]:
    return head.run("ray", "job", "submit", "--working-dir", ".", "--", "python", *command, cwd=ROOT)


@pytest.fixture(scope="module")
def run(head: Head, toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder that two jobs have made: prepare, then train."""
    folder = tmp_path_factory.mktemp("jobs")
    data, run = folder / "data", folder / "runs" / "job"
    done = submit(head, "ray_jobs/prepare.py", "sample", "--output", str(data), *FLAGS[5:7])
    assert done.returncode == 0, done.stdout + done.stderr
    assert contents(data) == contents(toy_data)
    done = submit(head, "ray_jobs/train.py", "--data", str(data), "--run", str(run), *FLAGS)
    assert done.returncode == 0, done.stdout + done.stderr
    return run


def test_jobs_prepare_train_and_evaluate(head: Head, run: Path) -> None:
    recipe = json.loads((run / "artifact" / "recipe.json").read_text())
    assert recipe["training"]["steps"] == 3
    assert json.loads((run / "artifact" / "training.json").read_text())["step"] == 3
    assert (run / "loss.png").stat().st_size > 5_000
    data = run.parents[1] / "data"
    done = submit(head, "ray_jobs/evaluate.py", str(run), "--data", str(data), "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith('{"split"')]
    assert 5 < json.loads(line)["loss"] < 7


@pytest.mark.parametrize("job", ["prepare", "train", "evaluate"])
def test_a_job_refuses_paths_that_would_vanish_with_its_copy(job: str) -> None:
    command = [sys.executable, f"ray_jobs/{job}.py", "x", "--output=data/here"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "give an absolute path" in done.stderr


def test_without_the_token_no_job_is_taken(head: Head, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("0" * 64)
    stranger = replace(head, environment=head.environment | {"RAY_AUTH_TOKEN_PATH": str(token)})
    done = stranger.run("ray", "job", "submit", "--", "python", "-c", "print('in')", cwd=tmp_path)
    assert done.returncode != 0
    assert "InvalidAuthToken" in done.stderr or "nvalid authentication token" in done.stderr, done.stderr[-2000:]


def test_serve_run_serves_the_newest_artifact(
    head: Head, run: Path, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    port = free_port()
    config = head.folder / "serve_config.yaml"
    config.write_text((ROOT / "serve_config.yaml").read_text().replace("port: 8000", f"port: {port}"))
    (head.folder / "runs").symlink_to(run.parent)  # the file's own relative path
    log = (tmp_path / "log").open("w+")
    process = subprocess.Popen(
        [str(BIN / "serve"), "run", str(config)], cwd=head.folder, env=head.environment, stdout=log, stderr=log
    )
    try:
        answer = ask_when_ready(f"http://127.0.0.1:{port}", process, log)
        assert answer["model"] == "tiny"
        assert answer["usage"]["completion_tokens"] == 5
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)


@pytest.mark.slow
def test_serve_run_lets_no_other_machine_in_without_keys(
    head: Head, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    config = head.folder / "open.yaml"
    text = (ROOT / "serve_config.yaml").read_text().replace("port: 8000", f"port: {free_port()}")
    config.write_text(text.replace("host: 127.0.0.1", "host: 0.0.0.0"))
    log = tmp_path / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [str(BIN / "serve"), "run", str(config)],
            cwd=head.folder,
            env=head.environment,
            stdout=output,
            stderr=output,
        )
        try:
            refusal = "at 0.0.0.0 other machines reach this service and nothing asks them for a key"
            assert soon(lambda: refusal in log.read_text(), 90), log.read_text()
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=60)


def ask_when_ready(url: str, process: subprocess.Popen[bytes], log) -> dict:  # type: ignore[no-untyped-def,type-arg]
    end = time.monotonic() + 120
    while time.monotonic() < end:
        assert process.poll() is None, Path(log.name).read_text()
        try:
            if httpx2.get(f"{url}/ready", timeout=5).status_code == 200:
                body = {"prompt": "It was", "max_tokens": 5}
                return httpx2.post(f"{url}/v1/completions", json=body, timeout=30).json()
        except httpx2.HTTPError:
            pass
        time.sleep(0.5)
    raise AssertionError(Path(log.name).read_text())


def test_the_toy_flags_are_the_toy_recipes() -> None:
    """So that the shards of the job can be compared with those of one process."""
    assert f"--tokens.ranks={TOY.tokens.ranks}" in FLAGS
    assert f"--tokens.tokens-per-shard={TOY.tokens.tokens_per_shard}" in FLAGS
