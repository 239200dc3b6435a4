"""Whoever is told of a run's steps: its journal, TensorBoard, CloudWatch; here and in an object store."""

import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto import mock_aws
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.object_store import ObjectStore
from tests.running_service import soon
from victorian.errors import StorageError
from victorian.storage import open_storage
from victorian.training import cloudwatch, monitors
from victorian.training.cloudwatch import BATCH, METRICS, NAMESPACE, CloudWatch
from victorian.training.monitors import Journal, StepRecord, latest_records, read_records
from victorian.training.tensorboard import CURVES, TensorBoard

LINE_ENDS = "The\u2028old\u2029house\x85stood."
"""What ends a line for Unicode and not for JSON."""


def record(step: int, **changes: object) -> StepRecord:
    values = {
        "step": step, "tokens": step * 100, "loss": 5.0 - step / 10, "learning_rate": 1e-3, "gradient_norm": 1.0,
        "seconds": float(step), "tokens_per_second": 100.0, "mfu": 0.5, "memory": 10, "memory_peak": 20,
        "data_wait": 0.001, "outside": 0.01, "spent": step / 10,
    }  # fmt: skip
    return StepRecord.model_validate(values | changes)


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.s3)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A run's folder, on this machine and in an object store."""
    if request.param == "local":
        return str(tmp_path / "run")
    store: ObjectStore = request.getfixturevalue("object_store")
    return f"{store.bucket(f'monitors-{time.time_ns()}')}/run"


def test_the_journal_is_read_while_it_is_written_and_goes_on_after_an_interruption(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitors, "UPLOAD_SECONDS", 0.05)
    run = open_storage(place)
    assert read_records(run) == latest_records(run) == []
    journal = Journal(run)
    journal.begin(0)
    for step in (1, 2, 3):
        journal.step(record(step))
    # A store's first write may take it seconds.
    assert soon(lambda: [r.step for r in read_records(run)] == [1, 2, 3], 30)
    assert latest_records(run)[-1] == record(3)
    journal.close()
    again = Journal(run)
    again.begin(2)  # the checkpoint was of step 2
    again.step(record(3, loss=1.0))
    again.close()
    assert [(r.step, r.loss) for r in read_records(run)] == [(1, 4.9), (2, 4.8), (3, 1.0)]


def test_a_sample_with_line_ends_of_unicode_is_read_back_whole(tmp_path: Path) -> None:
    run = open_storage(tmp_path)
    told = [record(1, sample=LINE_ENDS), record(2, sample=LINE_ENDS)]
    journal = Journal(run)
    journal.begin(0)
    for step in told:
        journal.step(step)
    journal.close()
    assert read_records(run) == latest_records(run) == told
    again = Journal(run)
    again.begin(1)
    again.close()
    assert read_records(run) == told[:1]


def test_records_that_a_full_disk_refused_are_written_when_there_is_room(tmp_path: Path) -> None:
    run = open_storage(tmp_path)
    journal = Journal(run)
    journal.begin(0)
    journal.step(record(1))
    file, aside = tmp_path / "metrics.jsonl", tmp_path / "aside"
    file.rename(aside)
    file.symlink_to("/dev/full")
    journal.step(record(2))
    with pytest.raises(StorageError, match=r"cannot write .*metrics\.jsonl"):
        journal.flush()
    file.unlink()
    aside.rename(file)
    with file.open("a") as half:
        half.write('{"kind": "st')  # as much of a line as there was room for
    journal.step(record(3))
    assert [r.step for r in read_records(run)] == [1, 2, 3]
    journal.close()


def test_the_latest_records_of_a_long_run_are_found_without_reading_it_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitors, "TAIL_BYTES", 2_000)
    run = open_storage(tmp_path)
    journal = Journal(run)
    journal.begin(0)
    for step in range(1, 51):
        journal.step(record(step))
    latest = latest_records(run)
    assert latest[-1].step == 50
    assert 1 < len(latest) < 10
    journal.close()


def test_tensorboard_shows_every_curve_and_what_the_model_wrote(place: str, tmp_path: Path) -> None:
    run = open_storage(place)
    board = TensorBoard(run)
    board.begin(0)
    for step in (1, 2, 3):
        judged = {"validation_loss": 4.5, "sample": "It was a dark night."} if step == 2 else {}
        board.step(record(step, loss_scale=2.0**16, overflows=1, **judged))
    board.close()
    folder = tmp_path / "events"
    folder.mkdir()
    for key in run.names("tensorboard"):
        run.download(key, folder / key.rpartition("/")[2])
    events = EventAccumulator(str(folder))
    events.Reload()
    scalars = set(events.Tags()["scalars"])
    assert scalars == set(CURVES)
    assert len(CURVES) == 12
    assert [(e.step, round(e.value, 3)) for e in events.Scalars("loss/training")] == [(1, 4.9), (2, 4.8), (3, 4.7)]
    assert [(e.step, e.value) for e in events.Scalars("loss/validation")] == [(2, 4.5)]
    (tag,) = [tag for tag in events.Tags()["tensors"] if tag.startswith("sample")]
    assert events.Tensors(tag)[0].tensor_proto.string_val[0] == b"It was a dark night."


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("AWS_ENDPOINT_URL", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (("ACCESS_KEY_ID", "x"), ("SECRET_ACCESS_KEY", "x"), ("DEFAULT_REGION", "eu-west-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setattr(cloudwatch, "SECONDS", 0.05)
    with mock_aws():
        yield


def test_cloudwatch_gets_every_metric_in_batches_with_run_and_rank(aws: None, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []
    honest = CloudWatch._take

    def take(self: CloudWatch):  # type: ignore[no-untyped-def]
        batch = honest(self)
        sent.extend([len(batch)] * bool(batch))
        return batch

    monkeypatch.setattr(CloudWatch, "_take", take)
    watch = CloudWatch("first", rank=0)
    for step in range(1, 101):
        watch.step(record(step, loss=2.0, validation_loss=2.5 if step == 100 else None))
    watch.begin(0)
    watch.close()
    assert sum(sent) == 100 * 7 + 1
    assert max(sent) == BATCH
    client = boto3.client("cloudwatch")
    pages = client.get_paginator("list_metrics").paginate(Namespace=NAMESPACE)
    metrics = [metric for page in pages for metric in page["Metrics"]]
    assert {metric["MetricName"] for metric in metrics} == set(METRICS)
    dimensions = [{"Name": "run", "Value": "first"}, {"Name": "rank", "Value": "0"}]
    assert all(metric["Dimensions"] == dimensions for metric in metrics)
    now = time.time()
    stored = client.get_metric_statistics(
        Namespace=NAMESPACE, MetricName="Loss", Dimensions=dimensions, StartTime=now - 600, EndTime=now + 600,
        Period=3600, Statistics=["SampleCount", "Average"],
    )["Datapoints"]  # fmt: skip
    assert sum(point["SampleCount"] for point in stored) == 100
    assert all(point["Average"] == 2.0 for point in stored)


@pytest.mark.parametrize("trouble", ["no region", "nobody answers"])
def test_cloudwatch_that_fails_is_told_once_and_stops_nothing(
    trouble: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setattr(cloudwatch, "SECONDS", 0.05)
    monkeypatch.setattr(cloudwatch, "MOST_WAITING", 100)
    monkeypatch.setattr(cloudwatch, "LAST_SECONDS", 2)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-mine")
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    monkeypatch.delenv("AWS_REGION", raising=False)
    if trouble == "nobody answers":
        monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    watch = CloudWatch("first")
    with caplog.at_level(logging.WARNING):
        watch.begin(0)
        for step in range(1, 200):
            watch.step(record(step))
        watch.close()
    told = [entry.message for entry in caplog.records if entry.name == "victorian.training.cloudwatch"]
    assert len(told) == 1
    assert "training goes on without" in told[0]
    assert "secret-of-mine" not in caplog.text
    assert not [thread for thread in threading.enumerate() if thread.name == "cloudwatch" and not thread.daemon]
