"""Ray Train: a TorchTrainer around `training/loop.py`.

A run is a folder, here or in an object store: `recipe.json`, `metrics.jsonl` and `tensorboard/` while it runs, `best/`
with the model of the lowest validation loss up to the last checkpoint, `artifact/` when it is done, and `ray/`, where
its checkpoints are.
Running again with the same folder goes on from the last of them.
"""

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray.train
import ray.train.torch
import torch

from victorian.artifact import (
    RECIPE,
    RECORD,
    TrainingRecord,
    artifact_uri,
    check_beginning,
    is_whole,
    new_record,
    read_artifact,
    read_record,
    write_artifact,
)
from victorian.cluster.fit import LOOK_SECONDS, fit
from victorian.cluster.session import own_errors
from victorian.cluster.worker import CHECKPOINTS, RayWorker, new_switchboard
from victorian.config import EngineConfig, Recipe, SamplingParameters
from victorian.cores import cores
from victorian.device import use_threads
from victorian.engine.engine import Engine
from victorian.engine.request import TokenEvent
from victorian.errors import (
    ConfigError,
    DivergedError,
    StoppedError,
    StorageError,
    TrainingError,
    UnstoredError,
)
from victorian.model.gpt2 import GPT
from victorian.storage import Storage, open_storage, sha256
from victorian.tokens.bpe import Encoding, get_encoding
from victorian.tokens.manifest import MANIFEST, read_manifest
from victorian.tokens.stream import open_split
from victorian.training.best import keep_best
from victorian.training.checkpoint import Position
from victorian.training.cloudwatch import CloudWatch
from victorian.training.divergence import Trouble
from victorian.training.identity import Identity, check_data, taken
from victorian.training.loop import Extras, check_split, train
from victorian.training.monitors import Journal, Monitor, StepRecord, latest_records, read_records
from victorian.training.tensorboard import TensorBoard

LOOK_SECONDS_AFAR = 5.0
"""How often the driver looks at a run in an object store."""
SAMPLE = SamplingParameters(temperature=0.8, max_tokens=40, seed=1837)


@dataclass(frozen=True)
class TrainResult:
    """A finished run, and whether it was finished before."""

    artifact: str
    record: TrainingRecord
    metrics: list[StepRecord]
    reused: bool


@dataclass(frozen=True)
class Options:
    """What a run can have beside its recipe; nothing of it changes what is learnt, but `init_from`."""

    workers: int = 1
    least_workers: int | None = None
    """Workers that are enough when machines are lost; None if none may be missing."""
    use_gpu: bool = False
    cpus_per_worker: int = 1
    """CPUs that Ray sets aside for each worker, which decides how many share a machine."""
    max_failures: int = 3
    """Times that a run is taken up again by itself after a worker failed."""
    init_from: str | None = None
    """Artifact whose weights the run begins with."""
    cloudwatch: bool = False

    def __post_init__(self) -> None:
        if self.least_workers is not None and not 1 <= self.least_workers <= self.workers:
            raise ConfigError(f"expected --least-workers from 1 to --workers, {self.workers}, got {self.least_workers}")
        if self.cpus_per_worker < 1:
            raise ConfigError(f"expected --cpus-per-worker of 1 or more, got {self.cpus_per_worker}")
        if self.max_failures < 0:
            raise ConfigError(f"expected --max-failures of 0 or more, got {self.max_failures}")


def _work(arguments: dict[str, Any]) -> None:
    """What each worker does: open the data, train, and write the artifact where rank 0 is."""
    recipe = Recipe.model_validate_json(arguments["recipe"])
    data, run = open_storage(arguments["data"]), open_storage(arguments["run"])
    use_threads(max(1, cores() // ray.train.get_context().get_local_world_size()))
    manifest = read_manifest(data)
    training = open_split(data, manifest, "train")
    validation = open_split(data, manifest, "validation") if "validation" in manifest.splits else None
    digest = sha256(data.read(MANIFEST))

    def record(at: Position) -> TrainingRecord:
        return new_record(recipe, at.step, at.seconds, at.loss, at.validation_loss, digest)

    journal = Journal(run)
    # A run that goes on from a checkpoint finds the records of all steps before it.
    worker = RayWorker(run.uri, arguments["switchboard"], journal.flush, partial(keep_best, run, record))
    monitors: list[Monitor] = [journal, TensorBoard(run)]
    if arguments["cloudwatch"]:
        monitors.append(CloudWatch(run.uri.rstrip("/").rpartition("/")[2]))
    origin = arguments["init_from"]
    extras = Extras(
        initial=read_artifact(origin).model.state_dict() if origin else None,
        monitors=monitors,
        sampler=partial(_write_sample, get_encoding(recipe.tokens.ranks)),
        trouble=Trouble(run),
    )
    try:
        trained = train(recipe, training, validation, worker, extras)
    except TrainingError as error:
        if isinstance(error, DivergedError) and error.may_go_on:
            raise  # the next attempt leaves the batch out
        if worker.world_size > 1 and not isinstance(error, DivergedError | UnstoredError):
            raise  # the others, who may not have met it, would wait for this worker
        if worker.rank == 0:
            ray.get(arguments["switchboard"].fail.remote(error))
        return
    if worker.rank == 0 and not trained.stopped:
        write_artifact(artifact_uri(run.uri), trained.model, recipe, record(trained.position))


def _write_sample(encoding: Encoding, model: GPT) -> str:
    """A few words of the model as it is, begun from nothing."""
    config = EngineConfig(max_running=1, threads=torch.get_num_threads())
    with Engine(model, encoding, config) as engine:
        events = engine.stream(engine.request("", SAMPLE))
        return "".join(event.text for event in events if isinstance(event, TokenEvent))


def train_run(
    recipe: Recipe,
    data: str,
    run: str,
    options: Options | None = None,
    watch: Callable[[StepRecord], None] = lambda _: None,
    stop: threading.Event | None = None,
) -> TrainResult:
    """Train a recipe on a data set into a run folder, go on with it, or find that it is done. Needs a Ray session.

    Args:
        watch: called with the latest step, about twice a second.
        stop: set by somebody else when the run is to end with a checkpoint.

    Raises:
        DataError: if the data set is missing or damaged.
        ArtifactError: if the artifact to begin from is.
        TrainingError: if the data are of another encoding, the folder holds a run of another recipe or other data,
            this machine has not the workers' CPUs or GPUs, or the run cannot go on; StoppedError if it was told to.
    """
    options = options or Options()
    storage = open_storage(run)
    source = open_storage(data)
    manifest = read_manifest(source)
    check_data(recipe, source, manifest)
    recipe = recipe.model_copy(update=dict(manifest.data))  # the books were cleaned as their manifest says
    for workers in range(options.least_workers or options.workers, options.workers + 1):
        check_split(recipe, workers)
    identity = Identity(recipe, sha256(source.read(MANIFEST)), _beginning(recipe, options.init_from))
    identity.check(storage, run)
    target = artifact_uri(storage.uri)
    if is_whole(target):
        return TrainResult(target, read_record(target), read_records(storage), reused=True)
    _check_room(options)
    with taken(storage, run):
        identity.write(storage)
        return _train(recipe, source, run, options, watch, stop)


def _train(
    recipe: Recipe,
    source: Storage,
    run: str,
    options: Options,
    watch: Callable[[StepRecord], None],
    stop: threading.Event | None,
) -> TrainResult:
    """Train in a folder that is this process's own."""
    storage = open_storage(run)
    target = artifact_uri(storage.uri)
    switchboard = new_switchboard()

    def new_trainer() -> ray.train.torch.TorchTrainer:
        return ray.train.torch.TorchTrainer(
            _work,
            train_loop_config={
                "recipe": recipe.model_dump_json(),
                "data": source.uri,
                "run": storage.uri,
                "init_from": options.init_from,
                "cloudwatch": options.cloudwatch,
                "switchboard": switchboard,
            },
            scaling_config=ray.train.ScalingConfig(
                num_workers=(options.least_workers, options.workers) if options.least_workers else options.workers,  # type: ignore[arg-type]
                use_gpu=options.use_gpu,
                resources_per_worker={"CPU": options.cpus_per_worker},
            ),
            run_config=ray.train.RunConfig(
                name=CHECKPOINTS,
                storage_path=storage.uri,
                failure_config=ray.train.FailureConfig(max_failures=options.max_failures),
                checkpoint_config=ray.train.CheckpointConfig(num_to_keep=recipe.training.checkpoints_kept),
            ),
        )

    told = threading.Event()
    pause = LOOK_SECONDS if storage.local_path(RECIPE) else LOOK_SECONDS_AFAR
    looked = 0.0

    def meanwhile() -> None:
        nonlocal looked
        if stop and stop.is_set() and not told.is_set():
            told.set()
            switchboard.stop.remote()
        if time.monotonic() - looked >= pause:
            _tell(storage, watch)
            looked = time.monotonic()

    try:
        with own_errors():
            fit(new_trainer, storage, switchboard, options.max_failures, meanwhile)
    except Exception:
        _raise_failure(switchboard)  # it says more than what came of it
        raise
    if not is_whole(target):
        _raise_failure(switchboard)
    _tell(storage, watch)
    records = read_records(storage)
    if told.is_set() and not is_whole(target):
        step = records[-1].step if records else 0
        raise StoppedError(f"stopped after step {step} with a checkpoint in {run}: the same command goes on")
    return TrainResult(target, read_record(target), records, reused=False)


def _raise_failure(switchboard: Any) -> None:
    """Raise what the worker of rank 0 told about the end of the run, if it told anything."""
    failure: TrainingError | None = ray.get(switchboard.failure.remote())
    if failure:
        raise failure


def _beginning(recipe: Recipe, origin: str | None) -> str:
    """What identifies the weights that a run begins with; TrainingError if they do not fit its recipe."""
    if origin is None:
        return "nothing"
    check_beginning(recipe, origin)
    return sha256(open_storage(origin).read(RECORD))


def _check_room(options: Options) -> None:
    """Ray waits for ever for what a cluster of this machine will never have."""
    if os.environ.get("RAY_ADDRESS"):
        return  # a cluster that was joined may grow
    workers = options.least_workers or options.workers
    wanted = {"CPU": options.cpus_per_worker} | ({"GPU": 1} if options.use_gpu else {})
    for kind, each in wanted.items():
        there = int(ray.cluster_resources().get(kind, 0))  # type: ignore[no-untyped-call]  # Ray's function is
        if workers * each > there:
            want = f"a {kind}" if each == 1 else f"{each} {kind}s"
            raise TrainingError(f"{workers} workers want {want} each and this machine has {there}: use fewer workers")


def _tell(run: Storage, watch: Callable[[StepRecord], None]) -> None:
    """Tell `watch` of the latest step: the workers write it to a file, since Ray's reports are too slow for it."""
    records: list[StepRecord] = []
    with suppress(StorageError):  # the workers have more patience, and say what is wrong
        records = latest_records(run)
    if records:
        judged = [record.validation_loss for record in records if record.validation_loss is not None]
        watch(records[-1].model_copy(update={"validation_loss": judged[-1] if judged else None}))
