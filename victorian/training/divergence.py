"""Steps that diverge: what is kept of them, and how a run goes on without their batches.

A run that leaves batches out is a function of its recipe and the list of them, so it can still be resumed exactly.
"""

import json
import math

import safetensors.torch

from victorian.config import TrainingConfig
from victorian.errors import DivergedError, StorageError
from victorian.storage import Storage
from victorian.tokens.batches import Batch
from victorian.training.worker import Worker

LEFT_OUT = "diverged/left_out.json"
MOST_LEFT_OUT = 3
"""Batches that a run may leave out; one that diverges more often has another trouble than its batches."""


class Trouble:
    """What a run has left out so far, and keeps of what diverges, in its folder if it has one."""

    def __init__(self, run: Storage | None = None) -> None:
        self._run = run
        self.left_out: tuple[int, ...] = ()
        if run and run.exists(LEFT_OUT):
            self.left_out = _read_indexes(run)

    def batch_index(self, step: int) -> int:
        """Which batch a step takes, counted from 0 among those that are not left out."""
        for index in self.left_out:
            step += index <= step
        return step

    def diverged(self, loss: float, norm: float | None, mean: float | None, config: TrainingConfig) -> str | None:
        """What tells that a step diverged: a loss or gradient that is no number, or a loss far above its running mean.

        Args:
            norm: of the gradient; None where it overflowed and the step was skipped for that.
        """
        if not math.isfinite(loss) or (mean is not None and loss > mean + config.divergence):
            return f"the loss became {loss:.4g}"
        if norm is not None and not math.isfinite(norm):
            return f"the norm of the gradient became {norm:.4g}"
        return None

    def keep(self, step: int, batch: Batch, worker: Worker, reason: str, config: TrainingConfig) -> None:
        """Store every worker's share of a step's batch and end this attempt.

        Args:
            reason: what tells that the step diverged.

        Raises:
            DivergedError: always; `may_go_on` tells whether the next attempt will leave the batch out.
        """
        index = self.batch_index(step)
        words = f"{reason} at step {step + 1}"
        if not self._run:
            raise DivergedError(f"{words}; lower the learning rate, or use bf16 or fp32")
        key = f"diverged/batch-{index:08d}-worker-{worker.rank}.safetensors"
        inputs, targets = batch
        self._run.write(key, safetensors.torch.save({"inputs": inputs.contiguous(), "targets": targets.contiguous()}))
        goes_on = config.on_divergence == "leave out" and len(self.left_out) < MOST_LEFT_OUT
        if goes_on and worker.rank == 0:
            self._run.write(LEFT_OUT, json.dumps(sorted([*self.left_out, index])).encode())
        worker.total([0.0])  # nobody ends before everybody has stored its share
        kept = f"its batch is in {self._run.uri}/diverged"
        if goes_on:
            raise DivergedError(f"{words}; {kept} and is left out from now on", may_go_on=True)
        advice = "lower the learning rate, use bf16 or fp32, or give --training.on-divergence 'leave out'"
        if self.left_out:
            advice = (
                f"{len(self.left_out)} batches were left out before, so it is not the batch: lower the learning rate"
            )
        raise DivergedError(f"{words}; {kept}; {advice}")


def _read_indexes(run: Storage) -> tuple[int, ...]:
    try:
        found = json.loads(run.read(LEFT_OUT))
        return tuple(sorted(int(index) for index in found))
    except (ValueError, TypeError) as error:
        raise StorageError(f"{run.uri}/{LEFT_OUT} is damaged: expected a list of numbers") from error
