"""The training loop, in plain PyTorch: batches in, a trained model out.

It knows nothing of Ray: a `Worker` says who it is among how many and keeps its checkpoints. The batch of a step and
its dropout depend on (seed, step, rank) alone, so a run by steps that was interrupted goes on exactly.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch

from victorian.config import Recipe, TrainingConfig
from victorian.device import (
    compiles,
    is_out_of_memory,
    keep_freed_memory,
    memory_in_use,
    memory_of_device,
    peak_flops,
    training_dtype,
    use_fast_products,
)
from victorian.errors import TrainingError
from victorian.model.gpt2 import GPT
from victorian.tokens.batches import Batch, Batches
from victorian.tokens.prefetch import BATCHES_AHEAD, Prefetcher
from victorian.tokens.stream import TokenStream
from victorian.training.checkpoint import Best, Position, Trainee, load_checkpoint, take_best, take_snapshot
from victorian.training.divergence import Trouble
from victorian.training.evaluation import score_windows
from victorian.training.monitors import Monitor, StepRecord
from victorian.training.optimizer import Optimizer
from victorian.training.plan import check_memory, flops_per_token, too_large
from victorian.training.precision import Precision
from victorian.training.schedule import rate_factor
from victorian.training.step import take_step
from victorian.training.worker import Notice, Worker

T = TypeVar("T")

NOTICE_SECONDS = 1.0
"""How often, in seconds of training, a run asks what it was told from outside."""


@dataclass(frozen=True)
class Trained:
    """What a run ends with, or stands at where it was told to stop."""

    model: GPT
    position: Position
    stopped: bool = False


@dataclass(frozen=True)
class Extras:
    """What a run may have beside its recipe and its data."""

    initial: Mapping[str, torch.Tensor] | None = None
    """Weights to begin with, by parameter name."""
    monitors: Sequence[Monitor] = ()
    """Told of every step, on rank 0."""
    sampler: Callable[[GPT], str] | None = None
    """Writes a little text after each look at the validation loss, on rank 0."""
    trouble: Trouble | None = None
    """What to leave out, and where to keep what diverges."""
    batches_ahead: int = BATCHES_AHEAD
    """Batches that a background thread keeps ready; with 0 each is built when it is asked for."""


def check_split(recipe: Recipe, world_size: int) -> None:
    """TrainingError, with the numbers that would work, for workers that cannot share a step evenly."""
    sequences = recipe.sequences_per_step
    if world_size < 1 or sequences % world_size:
        fits = ", ".join(str(n) for n in range(1, min(sequences, 64) + 1) if sequences % n == 0)
        raise TrainingError(
            f"{sequences} windows a step cannot be shared evenly by {world_size} workers; use one of {fits}"
        )


def train(
    recipe: Recipe,
    training: TokenStream,
    validation: TokenStream | None,
    worker: Worker,
    extras: Extras | None = None,
) -> Trained:
    """Train from the latest checkpoint, or from nothing, until the budget is spent or the worker is told to stop.

    Args:
        recipe: the whole run.
        training: tokens to learn from.
        validation: tokens to measure the loss on, if there are any.
        worker: this process among those of the run.

    Raises:
        TrainingError: if the step cannot be shared by the workers, the checkpoint is of another recipe or damaged,
            a checkpoint cannot be stored, or a step diverges.
    """
    check_split(recipe, worker.world_size)
    return _Run(recipe, training, validation, worker, extras or Extras()).finish()


class _Run:
    """One process's part of a run."""

    def __init__(
        self, recipe: Recipe, training: TokenStream, validation: TokenStream | None, worker: Worker, extras: Extras
    ) -> None:
        context, seed = recipe.model.context, recipe.training.seed
        self._recipe, self._config = recipe, recipe.training
        self._worker, self._extras = worker, extras
        self._trouble = extras.trouble or Trouble()
        self._trainee, self._position = _begin(recipe, worker, extras)
        self._wrapped = worker.wrap(self._trainee.model)
        self._batches = Batches(training, context, recipe.sequences_per_step, seed)
        self._judge = Batches(validation, context, 1, seed) if validation else None
        self._monitors = extras.monitors if worker.rank == 0 else ()
        self._peak = peak_flops(worker.device, training_dtype(self._config, worker.device)) if self._monitors else None
        self._best: Best | None = None
        self._asked_at = self._inside = 0.0
        self._began = time.perf_counter()

    def finish(self) -> Trained:
        """Take steps until the budget is spent, or the worker is told to stop."""
        for monitor in self._monitors:
            monitor.begin(self._position.step)
        self._trainee.model.train()
        notice, checkpoint_wait = "none", 0.0
        self._began = time.perf_counter()
        with Prefetcher(self._share, self._position.step, self._extras.batches_ahead) as ready:
            while self._spent < 1.0 and notice != "stop":
                factor = rate_factor(self._recipe.schedule, self._position.step, self._spent)
                rate = self._trainee.optimizer.scale_rates(factor)
                batch, data_wait = _timed(ready.next)
                (loss_here, norm), seconds = _timed(partial(self._compute, batch))
                loss = self._advance(batch, loss_here, norm, seconds)
                looked = self._look(batch)
                notice = self._ask()
                if self._monitors:
                    waits = {"data_wait": round(data_wait, 6), "checkpoint_wait": round(checkpoint_wait, 6)}
                    self._tell(looked, norm, seconds, loss=loss, learning_rate=rate, **waits)
                # After the record: whoever goes on from the checkpoint finds it.
                _, checkpoint_wait = _timed(partial(self._save, notice != "none"))
        self._worker.settle()
        for monitor in self._monitors:
            monitor.close()
        self._trainee.model.eval()
        return Trained(self._trainee.model, self._position, stopped=self._spent < 1.0)

    @property
    def _spent(self) -> float:
        """Share of the budget that is spent. Seconds are the workers' mean, so that all of them stop together."""
        if self._config.steps is not None:
            return self._position.step / self._config.steps
        assert self._config.seconds is not None
        return self._position.seconds / self._config.seconds

    def _is_due(self, every: int) -> bool:
        return self._position.step % every == 0 or self._spent >= 1.0

    def _share(self, step: int) -> Batch:
        # Runs in the prefetcher's thread: what a device wants of a batch before it is copied belongs here.
        return self._batches.batch(self._trouble.batch_index(step), self._worker.rank, self._worker.world_size)

    def _compute(self, batch: Batch) -> tuple[float, float]:
        """Forward, backward and optimizer: this worker's loss, and the norm of everybody's gradient."""
        # Dropout is a function of (seed, step, rank), which is what makes resuming exact.
        place = (self._config.seed * 1_000_003 + self._position.step) * 1_009 + self._worker.rank
        torch.manual_seed(place % 2**63)
        try:
            return take_step(self._wrapped, self._trainee, batch)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            device = self._worker.device
            raise too_large(self._recipe, memory_of_device(device), *_computing(self._recipe, device)) from error

    def _advance(self, batch: Batch, loss_here: float, norm: float, seconds: float) -> float:
        """Go on to the next position; the step's loss over all workers."""
        at, workers = self._position, self._worker.world_size
        self._inside += seconds
        # All workers have the same norm but for its rounding; of the sum no two can think differently.
        shares = self._worker.total([loss_here, norm, at.seconds + seconds])
        loss, norm, total_seconds = (share / workers for share in shares)
        overflowed = self._trainee.precision.scales and not math.isfinite(norm)
        if reason := self._trouble.diverged(loss, None if overflowed else norm, at.loss, self._config):
            self._trouble.keep(at.step, batch, self._worker, reason, self._config)
        self._position = at.model_copy(
            update={
                "step": at.step + 1,
                "seconds": total_seconds,
                "loss": loss if at.loss is None else 0.9 * at.loss + 0.1 * loss,
                "overflows": at.overflows + overflowed,
            }
        )
        return loss

    def _look(self, batch: Batch) -> bool:
        """Measure the validation loss after a batch's step if it is time to; whether it was."""
        if self._judge is None or not self._is_due(self._config.validation_every_steps):
            return False
        with self._trainee.precision.autocast():
            judged = _validate(self._trainee.model, self._judge, self._config, self._worker)
        at = self._position
        if not math.isfinite(judged):  # the step that was taken last did it
            reason = f"the validation loss became {judged:.4g}"
            self._trouble.keep(at.step - 1, batch, self._worker, reason, self._config)
        best = min(judged, at.best_validation_loss or math.inf)
        self._position = at.model_copy(
            update={"validation_loss": judged, "validated_step": at.step, "best_validation_loss": best}
        )
        return True

    def _ask(self) -> Notice:
        """What the run was told, asked for now and then."""
        if self._position.seconds - self._asked_at < NOTICE_SECONDS:  # the same on every worker, as the seconds are
            return "none"
        self._asked_at = self._position.seconds
        return self._worker.notice()

    def _tell(self, looked: bool, norm: float, seconds: float, **measured: float) -> None:
        """Tell the monitors of the step that was taken."""
        at, workers, sampler = self._position, self._worker.world_size, self._extras.sampler
        memory, most = memory_in_use(self._worker.device)
        speed = self._config.tokens_per_step / seconds
        flops = flops_per_token(self._recipe.model) * speed / workers
        sample = sampler(self._trainee.model) if looked and sampler else None
        record = StepRecord(
            step=at.step,
            tokens=at.step * self._config.tokens_per_step,
            workers=workers,
            validation_loss=at.validation_loss if looked else None,
            gradient_norm=norm if math.isfinite(norm) else None,
            loss_scale=self._trainee.precision.loss_scale,
            overflows=at.overflows,
            seconds=round(at.seconds, 4),
            tokens_per_second=round(speed, 1),
            mfu=round(flops / self._peak, 5) if self._peak else None,
            memory=memory,
            memory_peak=most,
            outside=round(1 - self._inside / (time.perf_counter() - self._began), 5),
            spent=min(1.0, self._spent),
            sample=sample,
            **measured,
        )
        for monitor in self._monitors:
            monitor.step(record)

    def _save(self, noticed: bool) -> None:
        """Keep a checkpoint if it is time to, or the run was told something; the best model waits for it in memory.

        Stored with it and not before, the best model is the one that a run going on from the checkpoint knows of.
        """
        at = self._position
        if noticed or self._is_due(self._config.checkpoint_every_steps):
            self._worker.save(at.step, partial(take_snapshot, self._trainee, at, self._best))
            self._best = None
        elif at.is_best and self._worker.rank == 0:
            self._best = take_best(self._trainee, at)


def _begin(recipe: Recipe, worker: Worker, extras: Extras) -> tuple[Trainee, Position]:
    """The model and its optimizer on the worker's device, as the latest checkpoint or the initial weights have them."""
    use_fast_products(worker.device)
    keep_freed_memory(worker.device)
    check_memory(recipe, memory_of_device(worker.device), *_computing(recipe, worker.device))
    model = GPT(recipe.model)
    if extras.initial is None:
        model.initialize(recipe.training.seed)
    else:
        model.load_state_dict(dict(extras.initial))
    model.to(worker.device)
    if compiles(recipe.training, worker.device):
        model.compile_blocks()
    precision = Precision(training_dtype(recipe.training, worker.device), worker.device)
    trainee = Trainee(recipe, model, Optimizer(model, recipe.optimizer), precision)
    stored = worker.restored()
    return trainee, load_checkpoint(stored, trainee) if stored else Position()


def _computing(recipe: Recipe, device: torch.device) -> tuple[int, bool]:
    """Bytes of a number in products, and whether a CPU computes them."""
    return training_dtype(recipe.training, device).itemsize, device.type == "cpu"


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    """What it gives, and the seconds that it took."""
    began = time.perf_counter()
    return work(), time.perf_counter() - began


def _validate(model: GPT, judge: Batches, config: TrainingConfig, worker: Worker) -> float:
    """The loss on the first tokens of the validation split, shared by the workers."""
    context = model.config.context
    windows = min(judge.windows, max(1, config.validation_tokens // context))
    first = windows * worker.rank // worker.world_size
    last = windows * (worker.rank + 1) // worker.world_size
    score = score_windows(model, judge, first, last - first)
    nats, tokens = worker.total([score.nats, float(score.tokens)])
    return nats / tokens
