"""The training loop, in plain PyTorch: batches in, a trained model out.

It knows nothing of Ray: a `Worker` says who it is among how many and keeps its checkpoints. The batch of a step and
its dropout depend on (seed, step, rank) alone, so a run by steps that was interrupted goes on exactly.
"""

import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

from victorian.config import Recipe, TrainingConfig
from victorian.device import training_dtype
from victorian.errors import TrainingError
from victorian.model.gpt2 import GPT
from victorian.tokens.batches import Batch, Batches
from victorian.tokens.prefetch import BATCHES_AHEAD, Prefetcher
from victorian.tokens.stream import TokenStream
from victorian.training.checkpoint import Position, Trainee, load_checkpoint, save_checkpoint
from victorian.training.evaluation import score_windows
from victorian.training.monitors import JsonLines, StepRecord
from victorian.training.optimizer import Optimizer
from victorian.training.precision import Precision
from victorian.training.schedule import rate_factor
from victorian.training.worker import Worker


@dataclass(frozen=True)
class Trained:
    """What a run ends with."""

    model: GPT
    position: Position


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
    metrics: Path,
    batches_ahead: int = BATCHES_AHEAD,
) -> Trained:
    """Train from the latest checkpoint, or from nothing, until the budget is spent.

    Args:
        recipe: the whole run.
        training: tokens to learn from.
        validation: tokens to measure the loss on, if there are any.
        worker: this process among those of the run.
        metrics: file that rank 0 appends a line a step to.
        batches_ahead: batches that a background thread keeps ready; with 0 each is built when it is asked for.
            The run is the same.

    Raises:
        TrainingError: if the step cannot be shared by the workers, the checkpoint is of another recipe or damaged,
            or the loss stops being a number.
    """
    check_split(recipe, worker.world_size)
    config = recipe.training
    model = GPT(recipe.model)
    model.initialize(config.seed)
    model.to(worker.device)
    precision = Precision(training_dtype(config, worker.device), worker.device)
    trainee = Trainee(recipe, model, Optimizer(model, recipe.optimizer), precision)
    with worker.restored() as folder:
        position = load_checkpoint(folder, trainee) if folder else Position()
    wrapped = worker.wrap(model)
    batches = Batches(training, recipe.model.context, recipe.sequences_per_step, config.seed)
    judge = Batches(validation, recipe.model.context, 1, config.seed) if validation else None

    def share(step: int) -> Batch:
        # Runs in the prefetcher's thread: what a device wants of a batch before it is copied belongs here.
        return batches.batch(step, worker.rank, worker.world_size)

    log = JsonLines(metrics, position.step) if worker.rank == 0 else None
    began = time.perf_counter()
    inside = 0.0
    model.train()
    with Prefetcher(share, position.step, batches_ahead) as ready:
        while (spent := _spent(config, position)) < 1.0:
            step = position.step
            rate = trainee.optimizer.scale_rates(rate_factor(recipe.schedule, step, spent))
            asked = time.perf_counter()
            batch = ready.next()
            start = time.perf_counter()
            # Dropout is a function of (seed, step, rank), which is what makes resuming exact.
            torch.manual_seed(((config.seed * 1_000_003 + step) * 1_009 + worker.rank) % 2**63)
            loss, norm = _step(wrapped, trainee, batch)
            seconds = time.perf_counter() - start
            inside += seconds

            loss, total_seconds = (v / worker.world_size for v in worker.total([loss, position.seconds + seconds]))
            if not math.isfinite(loss):
                raise TrainingError(
                    f"the loss became {loss} at step {step + 1}; lower the learning rate or use bf16 or fp32"
                )
            smooth = loss if position.loss is None else 0.9 * position.loss + 0.1 * loss
            position = Position(
                step=step + 1, seconds=total_seconds, loss=smooth, validation_loss=position.validation_loss
            )
            now_spent = _spent(config, position)
            measured = judge is not None and (position.step % config.validation_every_steps == 0 or now_spent >= 1.0)
            if measured and judge:
                with precision.autocast():
                    validation_loss = _validate(model, judge, config, worker)
                position = position.model_copy(update={"validation_loss": validation_loss})
            if log:
                log.write(
                    StepRecord(
                        step=position.step,
                        tokens=position.step * config.tokens_per_step,
                        loss=loss,
                        validation_loss=position.validation_loss if measured else None,
                        learning_rate=rate,
                        gradient_norm=norm if math.isfinite(norm) else None,
                        seconds=round(position.seconds, 4),
                        tokens_per_second=round(config.tokens_per_step / seconds, 1),
                        data_wait=round(start - asked, 6),
                        outside=round(1 - inside / (time.perf_counter() - began), 5),
                        spent=min(1.0, now_spent),
                    )
                )
            if position.step % config.checkpoint_every_steps == 0 or now_spent >= 1.0:
                worker.save(position.step, partial(save_checkpoint, trainee=trainee, position=position))
    if log:
        log.close()
    model.eval()
    return Trained(model, position)


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
