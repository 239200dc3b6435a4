"""`serve deploy` and `serve status` on a running cluster: models and replicas that change while readers read."""

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
import yaml
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.cluster.conftest import Head
from tests.conftest import ROOT, TOY, train_plainly
from victorian.client import Client
from victorian.config import SamplingParameters
from victorian.errors import ReplicaLostError, ServiceError

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

LONG = {"prompt": "It was", "max_tokens": 12_000, "seed": 3}
PRETRAINED = {"artifact": "pretrained", "name": "pretrained"}
LONG_TOY = SamplingParameters(max_tokens=10_000, min_tokens=10_000, seed=3)
"""Long for the toy."""
SHORT = {"prompt": "It was", "max_tokens": 20, "seed": 3}


@dataclass
class Deployed:
    """The shipped configuration on the cluster, with a few lines changed."""

    head: Head
    url: str
    file: Path
    config: dict[str, Any]

    def deploy(self, models: list[dict[str, str]], **deployment: Any) -> None:
        self.config["applications"][0]["deployments"][0] |= {"user_config": {"models": models}, **deployment}
        self.file.write_text(yaml.safe_dump(self.config))
        done = self.head.run("serve", "deploy", "--address", self.head.dashboard, str(self.file), cwd=self.head.folder)
        assert done.returncode == 0, done.stdout + done.stderr

    def status(self) -> dict[str, Any]:
        """What `serve status` shows, from where it has it: the command takes seconds to begin."""
        token = Path(self.head.environment["RAY_AUTH_TOKEN_PATH"]).read_text()
        headers = {"Authorization": f"Bearer {token}"}
        answer = httpx2.get(f"{self.head.dashboard}/api/serve/applications/", headers=headers, timeout=10)
        found: dict[str, Any] = answer.json()["applications"]["victorian"]
        return found

    def replicas(self, state: str | None = None) -> int:
        deployments = self.status()["deployments"]
        found = [one["state"] for one in deployments.get("Victorian", {"replicas": []})["replicas"]]
        return len(found) if state is None else found.count(state)

    def replica_processes(self) -> list[int]:
        """Of this cluster alone: others may run beside it."""
        found = []
        for process in psutil.Process(self.head.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if any("ServeReplica:victorian:Victorian" in word for word in process.cmdline()):
                    found.append(process.pid)
        return found

    def logged(self, words: str) -> bool:
        """Whether some worker has said so."""
        return any(words in file.read_text() for file in self.head.logs.glob("worker-*.err"))

    def until(self, condition: Callable[[], bool], seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, self.status()
            time.sleep(0.3)

    def running(self) -> bool:
        return bool(self.status()["status"] == "RUNNING")

    def models(self) -> list[str]:
        try:
            answer = httpx2.get(f"{self.url}/v1/models", timeout=5)
        except httpx2.HTTPError:
            return []
        return [card["id"] for card in answer.json()["data"]] if answer.status_code == 200 else []

    def complete(self, **body: Any) -> str:
        answer = httpx2.post(f"{self.url}/v1/completions", json=SHORT | body, timeout=60)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["choices"][0]["text"])


@dataclass
class Reader:
    """Somebody in the middle of a stream."""

    url: str
    text: str = ""
    reason: str | None = None
    done: bool = False
    begun: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        assert self.begun.wait(60)

    def _read(self) -> None:
        with httpx2.stream("POST", f"{self.url}/v1/completions", json=LONG | {"stream": True}, timeout=120) as answer:
            for line in answer.iter_lines():
                data = line.removeprefix("data: ")
                if data == "[DONE]":
                    self.done = True
                elif data:
                    choice = json.loads(data)["choices"][0]
                    self.text += choice["text"]
                    self.reason = choice["finish_reason"]
                    self.begun.set()

    def end(self) -> None:
        self._thread.join(timeout=120)
        assert not self._thread.is_alive()


@pytest.fixture(scope="module")
def other_artifact(toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of other weights than `toy_artifact`."""
    training = TOY.training.model_copy(update={"seed": 7})
    recipe = TOY.model_copy(update={"training": training})
    return train_plainly(recipe, toy_data, tmp_path_factory.mktemp("runs") / "other")


@pytest.fixture(scope="module")
def deployed(head: Head, free_port: Callable[[], int]) -> Iterator[Deployed]:
    config = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    port = free_port()
    config["http_options"]["port"] = port
    yield Deployed(head, f"http://127.0.0.1:{port}", head.folder / "deployed.yaml", config)
    head.run("serve", "shutdown", "--yes", "--address", head.dashboard, cwd=head.folder)


@pytest.fixture
def readers(deployed: Deployed) -> list[Reader]:
    """Two in the same long text of the package's own model, one a little behind the other."""
    if deployed.models() != ["pretrained"]:
        deployed.deploy([PRETRAINED])
        deployed.until(lambda: deployed.running() and deployed.models() == ["pretrained"])
    return [Reader(deployed.url), Reader(deployed.url)]


def end(readers: list[Reader]) -> None:
    """Both had the whole text. Had the weights changed under them, they would have at another place of it."""
    for reader in readers:
        reader.end()
        assert (reader.done, reader.reason) == (True, "length")
    assert readers[0].text == readers[1].text


def test_a_replica_that_is_replaced_lets_its_streams_finish(deployed: Deployed, readers: list[Reader]) -> None:
    deployed.config["applications"][0]["args"]["engine"]["max_running"] = 5  # what a replica cannot change as it runs
    with connect(f"ws{deployed.url.removeprefix('http')}/v1/stream") as idle:
        assert json.loads(idle.recv())["type"] == "connected"
        deployed.deploy([PRETRAINED])
        deployed.until(lambda: deployed.replicas("STOPPING") == 1)
        with pytest.raises(ConnectionClosed):  # Serve would wait for it
            idle.recv(timeout=20)
        assert (idle.close_code, idle.close_reason) == (1001, "this process takes nothing new: connect again")
    assert not any(reader.done for reader in readers), "the streams are too short for this test"
    deployed.until(lambda: bool(deployed.complete()))
    end(readers)
    deployed.until(deployed.running)
    said = deployed.head.run("serve", "status", "--address", deployed.head.dashboard, cwd=deployed.head.folder)
    assert yaml.safe_load(said.stdout)["applications"]["victorian"]["status"] == "RUNNING", said.stderr


def test_models_change_and_no_stream_is_dropped(
    deployed: Deployed, readers: list[Reader], toy_artifact: Path, other_artifact: Path
) -> None:
    deployed.deploy([{"artifact": str(toy_artifact)}, {"artifact": str(other_artifact), "name": "second"}])
    deployed.until(lambda: deployed.models() == ["toy", "second"])
    assert not any(reader.done for reader in readers), "the streams are too short for this test"
    first, second = deployed.complete(), deployed.complete(model="second")
    assert first == deployed.complete(model="toy")
    assert first != second
    answer = httpx2.post(f"{deployed.url}/v1/completions", json=SHORT | {"model": "pretrained"})
    assert answer.status_code == 404
    assert "this service has toy, second" in answer.json()["error"]["message"]
    end(readers)


def test_a_model_that_is_not_there_is_logged_and_changes_nothing(deployed: Deployed, tmp_path: Path) -> None:
    before, text = deployed.models(), deployed.complete()
    deployed.deploy([{"artifact": str(tmp_path)}])
    deployed.until(lambda: deployed.logged(f"no trained model in {tmp_path}"))
    deployed.until(deployed.running)
    assert deployed.models() == before
    assert deployed.complete() == text


def test_replicas_come_with_readers_and_go_to_none(deployed: Deployed, toy_artifact: Path) -> None:
    autoscaling = {
        "min_replicas": 0, "max_replicas": 2, "target_ongoing_requests": 1,
        "upscale_delay_s": 0.5, "downscale_delay_s": 1, "downscale_to_zero_delay_s": 1,
    }  # fmt: skip
    deployed.config["applications"][0]["deployments"][0].pop("num_replicas", None)
    deployed.deploy([{"artifact": str(toy_artifact)}], autoscaling_config=autoscaling)
    deployed.until(lambda: deployed.replicas() == 0)
    assert deployed.complete(max_tokens=5)  # waits for a replica, and is answered
    deployed.until(lambda: deployed.replicas() == 0)


@pytest.fixture
def two_replicas(deployed: Deployed, toy_artifact: Path) -> Deployed:
    deployed.config["applications"][0]["args"]["engine"] |= {"threads": 1, "max_running": 4}
    deployed.config["applications"][0]["deployments"][0].pop("autoscaling_config", None)
    deployed.deploy([{"artifact": str(toy_artifact)}], num_replicas=2, ray_actor_options={"num_cpus": 1})
    deployed.until(lambda: deployed.running() and deployed.replicas("RUNNING") == 2 == deployed.replicas())
    return deployed


def test_a_replica_that_is_killed_takes_its_own_streams_and_nothing_else(two_replicas: Deployed) -> None:
    texts: list[str] = []
    lost: list[ReplicaLostError] = []
    begun = threading.Semaphore(0)

    def read(transport: Any) -> None:
        with Client(two_replicas.url, transport=transport, retries=0) as client:
            stream = client.stream("It was", LONG_TOY)
            pieces = iter(stream)
            next(pieces)
            begun.release()  # and read on: who waits for others is too slow a reader
            try:
                list(pieces)
                texts.append(stream.text)
            except ReplicaLostError as error:
                lost.append(error)

    with ThreadPoolExecutor(6) as readers:
        reading = [readers.submit(read, transport) for transport in ("websocket", "sse") * 3]
        assert all(begun.acquire(timeout=60) for _ in reading)
        first, _ = two_replicas.replica_processes()
        os.kill(first, signal.SIGKILL)
        killed = time.monotonic()
        refused: list[tuple[float, int, str]] = []
        while (since := time.monotonic() - killed) < 5:
            answer = httpx2.post(f"{two_replicas.url}/v1/completions", json=SHORT | {"max_tokens": 1}, timeout=60)
            if answer.status_code != 200:
                refused.append((since, answer.status_code, answer.text))
        for one in reading:
            one.result(timeout=120)
    assert [one for one in refused if one[0] > 1] == []
    assert len(texts) + len(lost) == 6
    assert texts
    assert lost
    assert all(error.code == "replica_lost" and error.text for error in lost)
    (whole,) = set(texts)
    assert all(whole.startswith(error.text) and error.text != whole for error in lost)
    two_replicas.until(lambda: two_replicas.replicas("RUNNING") == 2)


def read_until_refused(url: str, transport: Any) -> tuple[float, ServiceError]:
    """Have one text after the other until no more is given: when the last one ended, and what was said."""
    ended = 0.0
    with Client(url, transport=transport, retries=0) as client:
        while True:
            try:
                client.complete("It was", LONG_TOY.model_copy(update={"max_tokens": 30_000, "min_tokens": 30_000}))
            except ServiceError as error:
                return ended, error
            ended = time.monotonic()


def test_a_drained_service_ends_its_streams_and_takes_nothing_new(two_replicas: Deployed) -> None:
    def refuses() -> bool:
        return httpx2.post(f"{two_replicas.url}/v1/completions", json=SHORT, timeout=60).status_code == 503

    with ThreadPoolExecutor(7) as threads:  # so many readers do not all end at the moment when the service is told
        reading = [threads.submit(read_until_refused, two_replicas.url, way) for way in ("websocket", "sse") * 3]
        draining = threads.submit(two_replicas.head.run, "victorian", "drain", "120", cwd=two_replicas.head.folder)
        two_replicas.until(refuses)
        told = time.monotonic()
        assert all(refuses() for _ in range(8)), "only one of two replicas was told"
        ends, refusals = zip(*(one.result(timeout=120) for one in reading), strict=True)
        assert [one.code for one in refusals] == ["shutting_down"] * 6  # a stream that is cut off is lost
        assert max(ends) > told, "nothing was under way"
        done = draining.result(timeout=120)
    assert (done.returncode, done.stdout) == (0, "nothing is under way any more: the service can be stopped\n")
    assert "INFO" not in done.stderr  # nor a word of Serve's
