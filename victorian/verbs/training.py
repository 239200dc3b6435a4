"""From shards to a model that is judged: `victorian plan`, `train`, `report`, `evaluate`."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

import tyro
from rich.console import Console

from victorian.command_line import RecipeName, Verbs, changed, find_model, say
from victorian.config import (
    ModelConfig,
    OptimizerConfig,
    Recipe,
    ScheduleConfig,
    TokensConfig,
    TrainingConfig,
)
from victorian.errors import ConfigError
from victorian.storage import open_storage

if TYPE_CHECKING:
    from victorian.cluster.evaluate import Evaluation


def training_verbs(recipe: Recipe) -> Verbs:
    """The verbs, with the flags of a recipe at that recipe's values."""

    def plan(
        recipe_name: RecipeName = recipe.name,
        model: ModelConfig = recipe.model,
        tokens: TokensConfig = recipe.tokens,
        optimizer: OptimizerConfig = recipe.optimizer,
        schedule: ScheduleConfig = recipe.schedule,
        training: TrainingConfig = recipe.training,
        hardware: str | None = None,
        machines: int = 1,
        price_per_hour: float | None = None,
        measure: bool = False,
    ) -> None:
        """Tell what a run would need before it costs anything: memory, FLOPs, hours, money.

        Args:
            hardware: One kind of machine, such as p4d.24xlarge; by default all that are known.
            machines: How many of them work together.
            price_per_hour: What one of them costs an hour.
            measure: Take a few steps here, and compare.
        """
        chosen = changed(recipe, model=model, tokens=tokens, optimizer=optimizer, schedule=schedule, training=training)
        if machines < 1:
            raise ConfigError(f"expected at least one machine, got {machines}")
        _check_price(price_per_hour)
        from victorian.device import pick_device, training_dtype
        from victorian.reports.plan_text import describe_plan, describe_trial
        from victorian.training.plan import HARDWARE, find_hardware
        from victorian.training.trial import run_trial

        kinds = [find_hardware(hardware)] if hardware else list(HARDWARE.values())
        for line in describe_plan(chosen, kinds, machines, price_per_hour):
            say(line)
        if measure:
            device = pick_device()
            size = training_dtype(chosen.training, device).itemsize
            for line in describe_trial(chosen, run_trial(chosen), size, on_cpu=device.type == "cpu"):
                say(line)

    def train(
        data: str,
        run: str,
        recipe_name: RecipeName = recipe.name,
        model: ModelConfig = recipe.model,
        tokens: TokensConfig = recipe.tokens,
        optimizer: OptimizerConfig = recipe.optimizer,
        schedule: ScheduleConfig = recipe.schedule,
        training: TrainingConfig = recipe.training,
        workers: int = 1,
        least_workers: int | None = None,
        gpu: bool = False,
        cpus_per_worker: int = 1,
        init_from: str | None = None,
        max_failures: int = 3,
        cloudwatch: bool = False,
        price_per_hour: float | None = None,
    ) -> None:
        """Train a recipe on shards with Ray Train; the same run again goes on where it was interrupted.

        SIGTERM ends it with a checkpoint, and exit code 143.

        Args:
            data: Folder of shards, here or under s3://, from `victorian prepare`.
            run: Folder of the run, here or under s3://: metrics, checkpoints, artifact, charts.
            workers: Processes that train together, each with its own share of every step.
            least_workers: Go on with as few when machines are lost, and with more when they return.
            gpu: Give every worker a GPU.
            cpus_per_worker: CPUs that Ray sets aside for each worker, which decides how many share a machine.
            init_from: Begin with the weights of this artifact, or of the newest in a folder of runs.
            max_failures: Times that the run is taken up again by itself after a worker failed.
            cloudwatch: Send metrics to Amazon CloudWatch, in the region and with the keys that boto3 finds.
            price_per_hour: What all machines of the run cost an hour, to show what is left to pay.
        """
        chosen = changed(recipe, model=model, tokens=tokens, optimizer=optimizer, schedule=schedule, training=training)
        _check_price(price_per_hour)
        from victorian.cluster.session import prepare_environment, session

        prepare_environment()  # Ray reads it when it is imported
        from victorian.cluster.train import Options, train_run
        from victorian.reports.progress import clock, live_line, watch_training
        from victorian.reports.run_report import write_charts
        from victorian.tokens.manifest import read_manifest

        options = Options(
            workers=workers,
            least_workers=least_workers,
            use_gpu=gpu,
            cpus_per_worker=cpus_per_worker,
            max_failures=max_failures,
            init_from=find_model(init_from, without=run) if init_from else None,
            cloudwatch=cloudwatch,
        )
        read_manifest(open_storage(data))  # before a cluster is started for nothing
        with session(), stop_on_sigterm() as stop, live_line(Console(), "training") as show:
            watch = watch_training(show, price_per_hour)
            result = train_run(chosen, data, run, options, watch=watch, stop=stop)
        name = run.rstrip("/").rpartition("/")[2]
        write_charts(run, f"{chosen.name}, {name}")
        record = result.record
        judged = f", validation {record.validation_loss:.4f}" if record.validation_loss is not None else ""
        say(f"{record.step} steps, {record.tokens:,} tokens, {clock(record.seconds)}: loss {record.loss:.4f}{judged}")
        say(f"{result.artifact} " + ("was there and whole: reused" if result.reused else "is ready"))

    def report(runs: tyro.conf.Positional[tuple[str, ...]] = (), output: str | None = None) -> None:
        """Put the curves of training runs side by side on one page.

        Args:
            runs: Folders of runs, here or under s3://.
            output: File of the page; by default report.html in the run's folder, or here for several runs.
        """
        from victorian.reports.run_report import REPORT, render_run_report

        if not runs:
            raise ConfigError("report wants a run folder, or several (see `victorian report --help`)")
        if output is not None and output.endswith("/"):
            raise ConfigError(f"expected the name of a file in --output, got the folder {output!r}")
        page = render_run_report(runs).encode()
        folder, _, name = (output or (f"{runs[0]}/{REPORT}" if len(runs) == 1 else REPORT)).rpartition("/")
        open_storage(folder or ".").write(name, page)
        say(f"{folder or '.'}/{name} is ready")

    def evaluate(
        artifact: tyro.conf.Positional[str],
        data: str,
        split: Literal["train", "validation", "test"] = "test",
        workers: int = 1,
        stride: int | None = None,
        json: bool = False,
    ) -> None:
        """Measure how well a model predicts books it has not seen: loss, bits per byte, perplexity per word.

        Args:
            artifact: A model directory, or a folder of runs, whose newest artifact is taken.
            data: Folder of shards, from `victorian prepare`.
            split: Which books.
            workers: Processes that share the work.
            stride: Tokens from one window to the next, which share the rest of the context; by default half of it.
            json: Print one JSON object.
        """
        from victorian.cluster.session import session
        from victorian.tokens.manifest import read_manifest

        found = find_model(artifact)
        read_manifest(open_storage(data))  # before a cluster is started for nothing
        with session():
            from victorian.cluster.evaluate import evaluate

            result = evaluate(found, data, split, workers, stride)
        if json:
            say(result.model_dump_json())
        else:
            tell(result)

    return {"plan": plan, "train": train, "report": report, "evaluate": evaluate}


def _check_price(price_per_hour: float | None) -> None:
    if price_per_hour is not None and not 0 <= price_per_hour < float("inf"):
        raise ConfigError(f"expected a price per hour of 0 or more, got {price_per_hour:g}")


def tell(result: "Evaluation") -> None:
    """How well a model predicts a split, for people."""
    perplexity = "over 1e308" if result.word_perplexity is None else f"{result.word_perplexity:,.2f}"
    say(f"{result.split}: {result.books} books, {result.tokens:,} tokens, loss {result.loss:.4f} nats a token")
    say(f"{result.bits_per_byte:.4f} bits per byte, perplexity {perplexity} per word")
    say(f"each token once, in windows of {result.context} tokens that overlap by {result.overlap}")
    if not result.as_published:
        say("books were cleaned or left out: prepare all with --cleaning.no-held-out to compare with others")


@contextmanager
def stop_on_sigterm() -> Iterator[threading.Event]:
    """An event that SIGTERM sets, as the notice that a spot machine gets, instead of ending this process at once."""
    stop = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: stop.set())
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)
