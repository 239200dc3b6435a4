"""Ray Train: a TorchTrainer around `training/loop.py`.

A run is a folder: `recipe.json`, `metrics.jsonl` while it runs, `artifact/` when it is done, and `ray/`, where Ray
keeps its checkpoints. Running again with the same folder goes on from the last of them.
"""

import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch
from torch import nn

from victorian.artifact import TrainingRecord, artifact_uri, is_whole, new_record, read_record, write_artifact
from victorian.cluster.session import own_errors
from victorian.config import Recipe, differences, read_recipe
from victorian.device import cores, use_threads
from victorian.errors import TrainingError
from victorian.storage import Storage, open_storage, sha256
from victorian.tokens.manifest import MANIFEST, Manifest, read_manifest, verify
from victorian.tokens.stream import open_split
from victorian.training.loop import check_split, train
from victorian.training.monitors import METRICS, StepRecord, read_records

RECIPE = "recipe.json"
DATA = "data.sha256"
WATCH_SECONDS = 0.5


@dataclass(frozen=True)
class TrainResult:
    """A finished run, and whether it was finished before."""

    artifact: str
    record: TrainingRecord
    metrics: list[StepRecord]
    reused: bool


class RayWorker:
    """A worker of a TorchTrainer, as the training loop sees it."""

    def __init__(self) -> None:
        context = ray.train.get_context()
        self.rank = context.get_world_rank()
        self.world_size = context.get_world_size()
        self.device = ray.train.torch.get_device()

    def wrap(self, model: nn.Module) -> nn.Module:
        wrapped: nn.Module = ray.train.torch.prepare_model(model)
        return wrapped

    def total(self, values: list[float]) -> list[float]:
        if self.world_size == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(tensor)
        return [float(value) for value in tensor.tolist()]

    def save(self, step: int, write: Callable[[Path], None]) -> None:
        if self.rank != 0:
            ray.train.report({"step": step})
            return
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder))
            checkpoint = ray.train.Checkpoint.from_directory(folder)
            ray.train.report({"step": step}, checkpoint=checkpoint)

    @contextmanager
    def restored(self) -> Iterator[Path | None]:
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            yield None
        else:
            with checkpoint.as_directory() as folder:
                yield Path(folder)


def _work(arguments: dict[str, Any]) -> None:
    """What each worker does: open the data, train, and write the artifact where rank 0 is."""
    recipe = Recipe.model_validate_json(arguments["recipe"])
    data, run = open_storage(arguments["data"]), str(arguments["run"])
    use_threads(max(1, cores() // ray.train.get_context().get_local_world_size()))
    manifest = read_manifest(data)
    training = open_split(data, manifest, "train")
    validation = open_split(data, manifest, "validation") if "validation" in manifest.splits else None
    worker = RayWorker()
    trained = train(recipe, training, validation, worker, Path(run) / METRICS)
    if worker.rank == 0:
        at = trained.position
        digest = sha256(data.read(MANIFEST))
        record = new_record(recipe, at.step, at.seconds, at.loss, at.validation_loss, digest)
        write_artifact(artifact_uri(run), trained.model, recipe, record)


def train_run(
    recipe: Recipe,
    data: str,
    run: str,
    workers: int = 1,
    use_gpu: bool = False,
    max_failures: int = 3,
    watch: Callable[[StepRecord], None] = lambda _: None,
) -> TrainResult:
    """Train a recipe on a data set into a run folder, go on with it, or find that it is done. Needs a Ray session.

    Args:
        watch: called with the latest step, about twice a second.

    Raises:
        DataError: if the data set is missing or damaged.
        TrainingError: if the data are of another encoding, the folder holds a run of another recipe or other data,
            this machine has not the workers' CPUs or GPUs, or the run cannot go on.
    """
    storage = open_storage(run)
    source = open_storage(data)
    manifest = read_manifest(source)
    _check_data(recipe, source, manifest)
    recipe = recipe.model_copy(update=dict(manifest.data))  # the books were cleaned as their manifest says
    check_split(recipe, workers)
    digest = sha256(source.read(MANIFEST))
    _check_run(storage, recipe, digest, run)
    target = artifact_uri(storage.uri)
    metrics = Path(storage.uri) / METRICS
    if is_whole(target):
        return TrainResult(target, read_record(target), read_records(metrics), reused=True)
    _check_room(workers, use_gpu)
    storage.write(RECIPE, recipe.model_dump_json(indent=1).encode())
    storage.write(DATA, digest.encode())
    trainer = ray.train.torch.TorchTrainer(
        _work,
        train_loop_config={
            "recipe": recipe.model_dump_json(),
            "data": source.uri,
            "run": storage.uri,
        },
        scaling_config=ray.train.ScalingConfig(num_workers=workers, use_gpu=use_gpu, resources_per_worker={"CPU": 1}),
        run_config=ray.train.RunConfig(
            name="ray",
            storage_path=storage.uri,
            failure_config=ray.train.FailureConfig(max_failures=max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
        ),
    )
    with own_errors():
        _fit(trainer, lambda: _tell(metrics, watch))
    return TrainResult(target, read_record(target), read_records(metrics), reused=False)


def _check_data(recipe: Recipe, storage: Storage, manifest: Manifest) -> None:
    if manifest.encoding.ranks != recipe.tokens.ranks:
        raise TrainingError(
            f"{storage.uri} holds tokens of the first {manifest.encoding.ranks} ranks, the recipe {recipe.name} wants "
            f"{recipe.tokens.ranks}: prepare the corpus for this recipe, or give --tokens.ranks"
        )
    if storage.local_path(MANIFEST):  # shards of a bucket are verified by each node, when it has fetched them
        verify(storage, manifest)


def _check_room(workers: int, use_gpu: bool) -> None:
    """Ray waits for ever for what a cluster of this machine will never have."""
    if os.environ.get("RAY_ADDRESS"):
        return  # a cluster that was joined may grow
    kind = "GPU" if use_gpu else "CPU"
    there = int(ray.cluster_resources().get(kind, 0))  # type: ignore[no-untyped-call]  # Ray's function is
    if workers > there:
        raise TrainingError(f"{workers} workers want a {kind} each and this machine has {there}: use fewer workers")


def _check_run(storage: Storage, recipe: Recipe, digest: str, run: str) -> None:
    if storage.exists(MANIFEST):
        raise TrainingError(f"{run} holds a token data set: give the run a folder of its own")
    if storage.exists(DATA) and storage.read(DATA).decode() != digest:
        raise TrainingError(f"{run} holds a run on other data: give this one another name")
    if not storage.exists(RECIPE):
        return
    before = read_recipe(storage.read(RECIPE), f"{run}/{RECIPE}")
    if changed := differences(recipe, before):
        raise TrainingError(f"{run} holds a run of another recipe ({'; '.join(changed)}): give this one another name")


def _fit(trainer: ray.train.torch.TorchTrainer, meanwhile: Callable[[], None]) -> None:
    """Run the trainer, and call `meanwhile` now and then.

    `fit` runs in a thread of its own: in the main one it would take Ctrl-C for itself, and never give it back.
    """
    failures: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:  # raised again below, in the caller's thread
            failures.append(error)

    thread = threading.Thread(target=fit, name="fit", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(WATCH_SECONDS)
        meanwhile()
    if failures:
        raise failures[0]


def _tell(metrics: Path, watch: Callable[[StepRecord], None]) -> None:
    """Tell `watch` of the latest step: the workers write it to a file, since Ray's reports are too slow for it."""
    if records := read_records(metrics):
        watch(records[-1])
