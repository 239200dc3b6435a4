"""The training loop, in plain PyTorch: batches in, a trained model out.

It knows nothing of Ray: a `Worker` says who it is among how many and keeps its checkpoints. The batch of a step and
its dropout depend on (seed, step, rank) alone, so a run by steps that was interrupted goes on exactly.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

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
from victorian.training.checkpoint import Position, Trainee, load_checkpoint, take_snapshot
from victorian.training.divergence import Trouble
from victorian.training.evaluation import score_windows
from victorian.training.monitors import Monitor, StepRecord
from victorian.training.optimizer import Optimizer
from victorian.training.plan import check_memory, flops_per_token, too_large
from victorian.training.precision import Precision
from victorian.training.schedule import rate_factor
from victorian.training.worker import Worker

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
            a checkpoint cannot be stored, or the loss diverges.
    """
    check_split(recipe, worker.world_size)
    extras = extras or Extras()
    trouble = extras.trouble or Trouble()
    config = recipe.training
    trainee, position = _begin(recipe, worker, extras)
    wrapped = worker.wrap(trainee.model)
    batches = Batches(training, recipe.model.context, recipe.sequences_per_step, config.seed)
    judge = Batches(validation, recipe.model.context, 1, config.seed) if validation else None
    monitors = extras.monitors if worker.rank == 0 else ()
    for monitor in monitors:
        monitor.begin(position.step)

    def share(step: int) -> Batch:
        # Runs in the prefetcher's thread: what a device wants of a batch before it is copied belongs here.
        return batches.batch(trouble.batch_index(step), worker.rank, worker.world_size)

    peak = peak_flops(worker.device, training_dtype(config, worker.device)) if monitors else None
    began = time.perf_counter()
    inside = asked_at = waited = 0.0
    notice = "none"
    trainee.model.train()
    with Prefetcher(share, position.step, extras.batches_ahead) as ready:
        while (spent := _spent(config, position)) < 1.0 and notice != "stop":
            step = position.step
            rate = trainee.optimizer.scale_rates(rate_factor(recipe.schedule, step, spent))
            asked = time.perf_counter()
            batch = ready.next()
            start = time.perf_counter()
            # Dropout is a function of (seed, step, rank), which is what makes resuming exact.
            torch.manual_seed(((config.seed * 1_000_003 + step) * 1_009 + worker.rank) % 2**63)
            try:
                loss_here, norm = _step(wrapped, trainee, batch)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                available = memory_of_device(worker.device)
                raise too_large(recipe, available, *_computing(recipe, worker.device)) from error
            seconds = time.perf_counter() - start
            inside += seconds

            loss, total_seconds = (v / worker.world_size for v in worker.total([loss_here, position.seconds + seconds]))
            if trouble.diverged(loss, position.loss, config):
                trouble.keep(step, batch, worker, loss, config)
            smooth = loss if position.loss is None else 0.9 * position.loss + 0.1 * loss
            overflowed = trainee.precision.scales and not math.isfinite(norm)
            position = position.model_copy(
                update={
                    "step": step + 1,
                    "seconds": total_seconds,
                    "loss": smooth,
                    "overflows": position.overflows + overflowed,
                }
            )
            last = _spent(config, position) >= 1.0
            measured = judge is not None and (position.step % config.validation_every_steps == 0 or last)
            if measured and judge:
                with trainee.precision.autocast():
                    judged = _validate(trainee.model, judge, config, worker)
                best = min(judged, position.best_validation_loss or math.inf)
                position = position.model_copy(
                    update={"validation_loss": judged, "validated_step": position.step, "best_validation_loss": best}
                )
            if position.seconds - asked_at >= NOTICE_SECONDS:  # the same on every worker, as the seconds are
                asked_at = position.seconds
                notice = worker.notice()
            if monitors:
                sample = extras.sampler(trainee.model) if measured and extras.sampler else None
                memory, most = memory_in_use(worker.device)
                speed = config.tokens_per_step / seconds
                record = StepRecord(
                    step=position.step,
                    tokens=position.step * config.tokens_per_step,
                    workers=worker.world_size,
                    loss=loss,
                    validation_loss=position.validation_loss if measured else None,
                    learning_rate=rate,
                    gradient_norm=norm if math.isfinite(norm) else None,
                    loss_scale=trainee.precision.loss_scale,
                    overflows=position.overflows,
                    seconds=round(position.seconds, 4),
                    tokens_per_second=round(speed, 1),
                    mfu=round(flops_per_token(recipe.model) * speed / worker.world_size / peak, 5) if peak else None,
                    memory=memory,
                    memory_peak=most,
                    data_wait=round(start - asked, 6),
                    checkpoint_wait=round(waited, 6),
                    outside=round(1 - inside / (time.perf_counter() - began), 5),
                    spent=min(1.0, _spent(config, position)),
                    sample=sample,
                )
                for monitor in monitors:
                    monitor.step(record)
            waited = time.perf_counter()  # after the record: whoever goes on from the checkpoint finds it
            if position.step % config.checkpoint_every_steps == 0 or last or notice != "none":
                worker.save(position.step, partial(take_snapshot, trainee, position))
            waited = time.perf_counter() - waited
    worker.settle()
    for monitor in monitors:
        monitor.close()
    trainee.model.eval()
    return Trained(trainee.model, position, stopped=_spent(config, position) < 1.0)


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
        for block in model.blocks:
            block.compile()  # alike, so the first one's code serves all
    precision = Precision(training_dtype(recipe.training, worker.device), worker.device)
    trainee = Trainee(recipe, model, Optimizer(model, recipe.optimizer), precision)
    stored = worker.restored()
    return trainee, load_checkpoint(stored, trainee) if stored else Position()


def _computing(recipe: Recipe, device: torch.device) -> tuple[int, bool]:
    """Bytes of a number in products, and whether attention keeps no (time, time) matrix: on CPUs, without dropout."""
    return training_dtype(recipe.training, device).itemsize, device.type == "cuda" or not recipe.model.dropout


def _spent(config: TrainingConfig, position: Position) -> float:
    """Share of the budget that is spent. Seconds are the workers' mean, so that all of them stop together."""
    if config.steps is not None:
        return position.step / config.steps
    assert config.seconds is not None
    return position.seconds / config.seconds


def _step(wrapped: nn.Module, trainee: Trainee, batch: Batch) -> tuple[float, float]:
    """One optimizer step over this worker's share of a batch: the mean loss and the gradient's norm."""
    device = trainee.model.token_embedding.weight.device
    config = trainee.recipe
    pieces = list(_microbatches(batch, config.training.sequences_per_microbatch))
    share = len(batch[0])
    trainee.optimizer.zero_grad()
    total = torch.zeros((), device=device)
    for index, (inputs, targets) in enumerate(pieces):
        last = index == len(pieces) - 1
        with _without_averaging(wrapped, last), trainee.precision.autocast():
            loss = wrapped(inputs.to(device), targets.to(device)) * (len(inputs) / share)
            trainee.precision.backward(loss)
        total += loss.detach()
    norm = trainee.precision.step(trainee.optimizer, trainee.model.parameters(), config.optimizer.clip)
    return float(total), norm


def _microbatches(batch: Batch, size: int) -> Iterator[Batch]:
    inputs, targets = batch
    for start in range(0, len(inputs), size):
        yield inputs[start : start + size], targets[start : start + size]


def _without_averaging(wrapped: nn.Module, last: bool) -> AbstractContextManager[None]:
    """Gradients are averaged over workers once a step, with the last microbatch."""
    no_sync = getattr(wrapped, "no_sync", None)
    context: AbstractContextManager[None] = no_sync() if no_sync and not last else nullcontext()
    return context


def _validate(model: GPT, judge: Batches, config: TrainingConfig, worker: Worker) -> float:
    """The loss on the first tokens of the validation split, shared by the workers."""
    context = model.config.context
    windows = min(judge.windows, max(1, config.validation_tokens // context))
    first = windows * worker.rank // worker.world_size
    last = windows * (worker.rank + 1) // worker.world_size
    score = score_windows(model, judge, first, last - first)
    nats, tokens = worker.total([score.nats, float(score.tokens)])
    return nats / tokens
