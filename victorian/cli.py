"""The `victorian` command.

A user's mistake ends with one line and exit code 2, Ctrl-C with 130, a run that was told to stop with 143. Anything
else is a bug and shows its traceback.
"""

import errno
import io
import re
import signal
import sys

import tyro
from pydantic import ValidationError

from victorian.command_line import RecipeName, Verbs, changed, parse, refuse_relative_paths, resolve_recipe, say
from victorian.config import (
    CleaningConfig,
    ModelConfig,
    OptimizerConfig,
    Recipe,
    ScheduleConfig,
    SelectionConfig,
    TokensConfig,
    TrainingConfig,
    first_problem,
)
from victorian.errors import ConfigError, StoppedError, VictorianError
from victorian.verbs.corpus import corpus_verbs
from victorian.verbs.serving import serving_verbs
from victorian.verbs.training import training_verbs

DESCRIPTION = "Train a language model of your own on old books with Ray, and put it in front of readers."


def verbs(recipe: Recipe) -> Verbs:
    """All verbs, with the flags of a recipe at that recipe's values."""

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
            name: The recipe to begin with.
        """
        if name != recipe.name:
            raise ConfigError(f"name the recipe before its flags: victorian recipe {name} ...")
        chosen = changed(
            recipe,
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
        from_scratch: bool = False,
        once: bool = False,
        port: int = 8000,
        app_port: int = 8501,
    ) -> None:
        """Everything in one command: books, tokens, training, service, prose. Ctrl-C ends all it started.

        Training begins with the model that comes with this package, and goes on with the corpus for a minute.

        Args:
            corpus: A folder in PG19's layout or of .txt files, or `sample` for the books in this package.
            output: Folder under which data/ and runs/ are kept.
            from_scratch: Train a model from nothing, by default `tiny`.
            once: End after the first passage.
            port: Port of the service on this machine.
            app_port: Port of the Streamlit page on this machine.
        """
        from victorian.artifact import PRETRAINED
        from victorian.demo import demo

        chosen = changed(recipe, training=training)
        demo(corpus, chosen, output, None if from_scratch else PRETRAINED, once, port, app_port)

    return {
        "demo": run_demo,
        **corpus_verbs(recipe),
        **training_verbs(recipe),
        **serving_verbs(),
        "recipe": show_recipe,
    }


def main(job: str | None = None) -> None:
    """Entry point of the `victorian` command, and with a verb of the script in ray_jobs/ that is named after it."""
    arguments = sys.argv[1:]
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that lacks a character shows the rest of the text
    try:
        if job:
            refuse_relative_paths(arguments)
            arguments = [job, *arguments]
        parse(verbs(resolve_recipe(arguments)), arguments, DESCRIPTION)()
    except ValidationError as error:
        sys.exit(_fail(first_problem(error)))
    except StoppedError as error:
        say(str(error))
        sys.exit(128 + signal.SIGTERM)
    except VictorianError as error:
        sys.exit(_fail(str(error)))
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(0)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        sys.exit(_fail(f"cannot write {error.filename or 'the output'}: {error.strerror}"))


def _fail(message: str) -> int:
    print("victorian: " + re.sub(r"\s+", " ", message), file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
