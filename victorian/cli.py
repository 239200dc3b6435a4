"""The `victorian` command: one function a verb, its flags derived from types.

A user's mistake ends with one line and exit code 2, Ctrl-C with 130. Anything else is a bug and shows its traceback.
"""

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from pydantic import ValidationError
from rich.console import Console

from victorian.command_line import Verbs, parse, refuse_relative_paths, resolve_recipe
from victorian.config import (
    CleaningConfig,
    DataConfig,
    EngineConfig,
    ModelConfig,
    OptimizerConfig,
    Recipe,
    SamplingParameters,
    ScheduleConfig,
    SelectionConfig,
    ServiceConfig,
    TokensConfig,
    TrainingConfig,
    first_problem,
    service_url,
)
from victorian.errors import ConfigError, RequestError, ServiceError, VictorianError
from victorian.recipes import RECIPES

if TYPE_CHECKING:
    from victorian.tokens.manifest import Manifest

DESCRIPTION = "Train a language model of your own on old books with Ray, and put it in front of readers."
MOST_NAMED = 20
"""Books that are named one by one on the terminal when they are left out."""
RecipeName = Annotated[str, tyro.conf.arg(name="recipe", help=f"Recipe to begin with: {', '.join(RECIPES)}.")]


def verbs(recipe: Recipe) -> Verbs:
    """The verbs, with the flags of a recipe at that recipe's values."""

    def prepare(
        source: tyro.conf.Positional[str] = "",
        output: str = "",
        recipe_name: RecipeName = recipe.name,
        tokens: TokensConfig = recipe.tokens,
        cleaning: CleaningConfig = recipe.cleaning,
        selection: SelectionConfig = recipe.selection,
        overwrite: bool = False,
        verify: str = "",
    ) -> None:
        """Clean, select and tokenize a corpus into shards with Ray Data.

        Args:
            source: A folder in PG19's layout, of .txt or of .parquet files, here or under s3:// or gs://;
                `hf:OWNER/NAME` for a data set of the Hugging Face hub; `sample` for the books in this package.
            output: Folder, here or under s3://, for the shards, their manifest and report.html.
            overwrite: Replace another data set in the output folder.
            verify: Instead of preparing, read this data set back and check every hash and count.
        """
        if verify:
            if source or output:
                raise ConfigError("--verify checks a data set that is there: give it without a source and --output")
            from victorian.tokens.preparation import verify_data

            tell(verify_data(verify))
            say(f"{verify} is whole: every hash and count is what the manifest says")
            return
        if not source or not output:
            raise ConfigError("prepare wants a source and --output (see `victorian prepare --help`)")
        from victorian.cluster.session import prepare_environment

        prepare_environment()  # Ray reads it when it is imported
        from victorian.cluster.prepare import prepare
        from victorian.reports.progress import live_line, watch_preparing

        data = DataConfig(tokens=tokens, cleaning=cleaning, selection=selection)
        with live_line(Console(), "tokens", plain_seconds=None) as show:
            made = prepare(source, output, data, overwrite, watch_preparing(show), recipe.name)
        tell(made.manifest)
        if made.run and made.run.units_reused:
            say(f"{made.run.units_reused} of {made.run.units} units of books had been done by an earlier run")
        say(f"{output} " + ("was there and whole: reused" if made.reused else "is ready; report.html shows it"))

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
        gpu: bool = False,
    ) -> None:
        """Train a recipe on shards with Ray Train; the same run again goes on where it was interrupted.

        Args:
            data: Folder of shards, from `victorian prepare`.
            run: Folder of the run: metrics, checkpoints, artifact, loss chart.
            workers: Processes that train together, each with its own share of every step.
            gpu: Give every worker a GPU.
        """
        chosen = Recipe(
            name=recipe.name,
            model=model,
            tokens=tokens,
            cleaning=recipe.cleaning,
            selection=recipe.selection,
            optimizer=optimizer,
            schedule=schedule,
            training=training,
        )
        from victorian.cluster.session import session

        with session():
            from victorian.cluster.train import train_run
            from victorian.reports.loss_chart import draw_losses
            from victorian.reports.progress import clock, live_line, watch_training

            with live_line(Console(), "training") as show:
                result = train_run(chosen, data, run, workers, gpu, watch=watch_training(show))
        draw_losses(result.metrics, f"{chosen.name}, {Path(run).name}", Path(run) / "loss.png")
        record = result.record
        judged = f", validation {record.validation_loss:.4f}" if record.validation_loss is not None else ""
        say(f"{record.step} steps, {record.tokens:,} tokens, {clock(record.seconds)}: loss {record.loss:.4f}{judged}")
        say(f"{result.artifact} " + ("was there and whole: reused" if result.reused else "is ready"))

    def evaluate(
        artifact: tyro.conf.Positional[str],
        data: str,
        split: Literal["train", "validation", "test"] = "test",
        workers: int = 1,
        json: bool = False,
    ) -> None:
        """Measure how well a model predicts books it has not seen: loss, bits per byte, perplexity per word.

        Args:
            artifact: A model directory, or a folder of runs, whose newest artifact is taken.
            data: Folder of shards, from `victorian prepare`.
            split: Which books.
            workers: Processes that share the work.
            json: Print one JSON object.
        """
        from victorian.artifact import find_artifact
        from victorian.cluster.session import session

        found = find_artifact(artifact)
        with session():
            from victorian.cluster.evaluate import evaluate

            result = evaluate(found, data, split, workers)
        if json:
            say(result.model_dump_json())
            return
        say(f"{result.split}: {result.tokens:,} tokens, loss {result.loss:.4f} nats a token")
        say(f"{result.bits_per_byte:.4f} bits per byte, perplexity {result.word_perplexity:,.1f} per word")

    def generate(
        prompt: tyro.conf.Positional[str] = "",
        artifact: str = "runs",
        sampling: tyro.conf.OmitArgPrefixes[SamplingParameters] = SamplingParameters(),
        engine: EngineConfig = EngineConfig(max_running=1),
    ) -> None:
        """Continue a text with a model on this machine, without a service.

        Args:
            prompt: The beginning; an empty one begins a book.
            artifact: A model directory, or a folder of runs, whose newest artifact is taken.
        """
        from victorian.artifact import find_artifact, read_artifact
        from victorian.engine.engine import Engine
        from victorian.engine.request import Failed, TokenEvent

        loaded = read_artifact(find_artifact(artifact))
        with Engine(loaded.model, loaded.encoding, engine) as running:
            request = running.request(prompt, sampling)
            print(prompt, end="", flush=True)
            for event in running.stream(request):
                if isinstance(event, TokenEvent):
                    print(event.text, end="", flush=True)
                elif isinstance(event, Failed):
                    raise RequestError(event.message)
            print()

    def serve(
        service: tyro.conf.OmitArgPrefixes[ServiceConfig] = ServiceConfig(), host: str = "127.0.0.1", port: int = 8000
    ) -> None:
        """Serve a model with Ray Serve until Ctrl-C: OpenAI's completions API, SSE, and a WebSocket.

        Args:
            host: Address to listen on; 0.0.0.0 lets other machines in, and nothing asks them for a key.
            port: Port to listen on.
        """
        from victorian.artifact import find_artifact
        from victorian.cluster.session import session
        from victorian.demo import require_free_port, terminating_like_interrupt, wait_for_interrupt

        found = service.model_copy(update={"artifact": find_artifact(service.artifact)})
        require_free_port(host, port)
        with terminating_like_interrupt(), session():
            from victorian.cluster.serve import start, stop

            start(found, host, port)
            try:
                say(f"serving {found.artifact} at http://{host}:{port}; Ctrl-C ends it")
                wait_for_interrupt()
            finally:
                stop()

    def app(url: str | None = None, port: int = 8501) -> None:
        """Open the Streamlit page for a service, until Ctrl-C.

        Args:
            url: Address of the service; by default VICTORIAN_URL, else http://127.0.0.1:8000.
            port: Port of the page on this machine.
        """
        from victorian.demo import HOST, require_free_port, streamlit_page, terminating_like_interrupt

        require_free_port(HOST, port)
        with terminating_like_interrupt(), streamlit_page(url or service_url(), port) as page:
            say(f"the writing desk is at http://localhost:{port}; Ctrl-C ends it")
            page.wait()
        raise ServiceError(f"the page ended by itself with code {page.returncode}")

    def ask(
        prompt: tyro.conf.Positional[str] = "",
        url: str | None = None,
        sampling: tyro.conf.OmitArgPrefixes[SamplingParameters] = SamplingParameters(),
    ) -> None:
        """Have a service continue a text, and print it while it comes.

        Args:
            prompt: The beginning; an empty one begins a book.
            url: Address of the service; by default VICTORIAN_URL, else http://127.0.0.1:8000.
        """
        from victorian.client import Client

        with Client(url) as client:
            for piece in client.stream(prompt, sampling):
                print(piece, end="", flush=True)
            print()

    def show_recipe(
        name: tyro.conf.Positional[str] = recipe.name,
        model: ModelConfig = recipe.model,
        tokens: TokensConfig = recipe.tokens,
        cleaning: CleaningConfig = recipe.cleaning,
        selection: SelectionConfig = recipe.selection,
        optimizer: OptimizerConfig = recipe.optimizer,
        schedule: ScheduleConfig = recipe.schedule,
        training: TrainingConfig = recipe.training,
    ) -> None:
        """Print a recipe as it would be run, as JSON.

        Args:
            name: The recipe to begin with: tiny, small or gpt2-124m.
        """
        if name != recipe.name:
            raise ConfigError(f"name the recipe before its flags: victorian recipe {name} ...")
        chosen = Recipe(
            name=recipe.name,
            model=model,
            tokens=tokens,
            cleaning=cleaning,
            selection=selection,
            optimizer=optimizer,
            schedule=schedule,
            training=training,
        )
        say(chosen.model_dump_json(indent=2))

    def run_demo(
        corpus: str = "sample",
        recipe_name: RecipeName = recipe.name,
        training: TrainingConfig = recipe.training,
        output: str = ".",
        once: bool = False,
        port: int = 8000,
        app_port: int = 8501,
    ) -> None:
        """Everything in one command: books, tokens, training, service, prose. Ctrl-C ends all it started.

        Args:
            corpus: A folder in PG19's layout or of .txt files, or `sample` for the books in this package.
            output: Folder under which data/ and runs/ are kept.
            once: End after the first passage.
            port: Port of the service on this machine.
            app_port: Port of the Streamlit page on this machine.
        """
        from victorian.demo import demo

        chosen = Recipe.model_validate(recipe.model_dump() | {"training": training.model_dump()})
        demo(corpus, chosen, output, once, port, app_port)

    return {
        "demo": run_demo,
        "prepare": prepare,
        "train": train,
        "evaluate": evaluate,
        "generate": generate,
        "serve": serve,
        "app": app,
        "ask": ask,
        "recipe": show_recipe,
    }


def say(text: str) -> None:
    print(text, flush=True)


def tell(manifest: "Manifest") -> None:
    """What a data set holds, and how many books were left out for which reason."""
    for split, entry in manifest.splits.items():
        say(f"{split}: {len(entry.books):,} books, {entry.tokens:,} tokens, {len(entry.shards)} shards")
    for book in manifest.dropped[:MOST_NAMED]:
        say(f"left out: {book.id} ({book.reason}{': ' * bool(book.detail)}{book.detail})")
    if len(manifest.dropped) > MOST_NAMED:
        say(f"left out: {len(manifest.dropped) - MOST_NAMED:,} more, named in the report")


def main(job: str | None = None) -> None:
    """Entry point of the `victorian` command, and with a verb of the script in ray_jobs/ that is named after it."""
    arguments = sys.argv[1:]
    try:
        if job:
            refuse_relative_paths(arguments)
            arguments = [job, *arguments]
        parse(verbs(resolve_recipe(arguments)), arguments, DESCRIPTION)()
    except ValidationError as error:
        sys.exit(_fail(first_problem(error)))
    except VictorianError as error:
        sys.exit(_fail(str(error)))
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(0)


def _fail(message: str) -> int:
    print("victorian: " + re.sub(r"\s+", " ", message), file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
