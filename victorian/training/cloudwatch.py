"""Metrics of a run in Amazon CloudWatch, sent in batches by a thread. What fails there is told once, and dropped."""

import logging
import queue
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import boto3
from botocore.client import Config
from botocore.exceptions import BotoCoreError, ClientError

from victorian.training.monitors import StepRecord

if TYPE_CHECKING:
    from mypy_boto3_cloudwatch.type_defs import DimensionTypeDef, MetricDatumTypeDef

NAMESPACE = "Victorian/Training"
BATCH = 500
"""Values of one request; CloudWatch takes 1,000."""
SECONDS = 10.0
"""The longest that a value waits to be sent."""
LAST_SECONDS = 15.0
"""What the end of a run waits for the last values to be sent."""
MOST_WAITING = 10_000
"""Values that wait at most; newer ones are dropped while CloudWatch does not answer."""

METRICS = {
    "Loss": ("loss", "None"),
    "ValidationLoss": ("validation_loss", "None"),
    "LearningRate": ("learning_rate", "None"),
    "GradientNorm": ("gradient_norm", "None"),
    "TokensPerSecond": ("tokens_per_second", "Count/Second"),
    "ModelFlopsUtilization": ("mfu", "None"),
    "DataWait": ("data_wait", "Seconds"),
    "MemoryPeak": ("memory_peak", "Bytes"),
}
"""Names in CloudWatch, the fields of a record that they show, and their units."""

log = logging.getLogger(__name__)


class CloudWatch:
    """Sends every step's metrics, with the run's name and the rank as dimensions.

    Args:
        run: the run's name.
        rank: of this worker.
    """

    def __init__(self, run: str, rank: int = 0) -> None:
        self._dimensions: list[DimensionTypeDef] = [
            {"Name": "run", "Value": run[:255] or "run"},
            {"Name": "rank", "Value": str(rank)},
        ]
        self._waiting: queue.Queue[MetricDatumTypeDef] = queue.Queue(MOST_WAITING)
        self._closing = threading.Event()
        self._told = False
        self._thread = threading.Thread(target=self._send_until_closed, name="cloudwatch", daemon=True)

    def begin(self, step: int) -> None:
        self._thread.start()

    def step(self, record: StepRecord) -> None:
        values = record.model_dump()
        now = datetime.now(UTC)
        for name, (field, unit) in METRICS.items():
            if values[field] is None:
                continue
            datum: MetricDatumTypeDef = {
                "MetricName": name,
                "Dimensions": self._dimensions,
                "Timestamp": now,
                "Value": float(values[field]),
                "Unit": unit,  # type: ignore[typeddict-item]  # a literal, out of a dictionary
            }
            try:
                self._waiting.put_nowait(datum)
            except queue.Full:
                self._tell("it does not keep up")
                return

    def close(self) -> None:
        """Send what waits, but wait for no one."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(timeout=LAST_SECONDS)

    def _send_until_closed(self) -> None:
        settings = Config(connect_timeout=3, read_timeout=5, retries={"mode": "standard", "total_max_attempts": 2})
        try:
            client = boto3.client("cloudwatch", config=settings)
        except (BotoCoreError, ValueError) as error:  # no region, for one
            self._tell(str(error))
            return
        while not (self._closing.is_set() and self._waiting.empty()):
            self._closing.wait(SECONDS)
            while batch := self._take():
                try:
                    client.put_metric_data(Namespace=NAMESPACE, MetricData=batch)
                except (BotoCoreError, ClientError) as error:
                    self._tell(str(error))

    def _take(self) -> "list[MetricDatumTypeDef]":
        batch: list[MetricDatumTypeDef] = []
        while len(batch) < BATCH:
            try:
                batch.append(self._waiting.get_nowait())
            except queue.Empty:
                break
        return batch

    def _tell(self, reason: str) -> None:
        if not self._told:
            self._told = True
            log.warning("metrics do not reach CloudWatch, and training goes on without: %s", reason)
