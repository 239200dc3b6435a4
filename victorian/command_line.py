"""From words on a command line to a call: tyro derives the flags, and its complaints become one line."""

import contextlib
import functools
import io
import re
import sys
from collections.abc import Callable, Collection
from typing import Annotated, Any

import tyro

from victorian.config import Recipe, Section
from victorian.errors import ConfigError
from victorian.recipes import RECIPES, SMALL_TUNE, find_recipe

Verbs = dict[str, Callable[..., None]]
RecipeName = Annotated[str, tyro.conf.arg(name="recipe", help=f"Recipe to begin with: {', '.join(RECIPES)}.")]


def resolve_recipe(arguments: list[str]) -> Recipe:
    """The recipe named on the command line, whose values the flags then start from.

    A budget given by a flag replaces the recipe's other kind of budget. A demo begins with trained weights unless it
    is told not to.
    """
    tunes = arguments[:1] == ["demo"] and "--from-scratch" not in arguments
    name = SMALL_TUNE.name if tunes else next(iter(RECIPES))
    for place, argument in enumerate(arguments):
        if argument == "--recipe" and place + 1 < len(arguments):
            name = arguments[place + 1]
        elif argument.startswith("--recipe="):
            name = argument.partition("=")[2]
    if arguments[:1] == ["recipe"] and len(arguments) > 1 and not arguments[1].startswith("-"):
        name = arguments[1]
    recipe = find_recipe(name)
    flags = {argument.partition("=")[0] for argument in arguments}
    for given, other in (("steps", "seconds"), ("seconds", "steps")):
        if f"--training.{given}" in flags and f"--training.{other}" not in flags:
            training = recipe.training.model_copy(update={other: None, given: 1})
            recipe = recipe.model_copy(update={"training": training})
    return recipe


def parse(verbs: Verbs, arguments: list[str], description: str) -> Callable[[], None]:
    """The call that a command line asks for, not made yet.

    Raises:
        ConfigError: if the command line cannot be understood.
    """

    def postponed(function: Callable[..., None]) -> Callable[..., Callable[[], None]]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Callable[[], None]:
            return lambda: function(*args, **kwargs)

        return wrapper

    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            chosen: Callable[[], None] = tyro.extras.subcommand_cli_from_dict(
                {name: postponed(function) for name, function in verbs.items()},
                prog="victorian",
                description=description,
                args=arguments or ["--help"],
            )
    except SystemExit as stop:
        if stop.code:
            raise ConfigError(_one_line(complaint.getvalue(), arguments, verbs)) from stop
        raise
    return chosen


def refuse_relative_paths(arguments: list[str]) -> None:
    """ConfigError for an output or input that a job would look for in Ray's copy of the working directory."""
    for flag, value in zip(arguments, [*arguments[1:], ""], strict=True):
        name, _, inline = flag.partition("=")
        path = inline or value
        if name in ("--data", "--run", "--output") and not (path.startswith("/") or "://" in path):
            raise ConfigError(
                f"{name} {path}: a job runs in a copy of the working directory that Ray deletes; give an absolute path"
            )


def _one_line(box: str, arguments: list[str], known: Collection[str]) -> str:
    """What tyro drew in a box, as one line."""
    lines = [re.sub(r"[│╭╮╰╯─]", "", line).strip() for line in box.splitlines()]
    text = " ".join(line for line in lines if line)
    text = re.sub(r"\s+", " ", text).partition(" For full helptext")[0]
    # pydantic's complaint about a value, in the words that `first_problem` would use
    if problem := re.search(r"validation errors? for \w+ (\S+) (.+?) \[type=\w+, input_value=(.+?), input_type", text):
        text = f"{_flag_of(problem[1], arguments)}: {problem[2]}, got {problem[3]}"
    text = re.sub(r"^(Unrecognized options|Required options|Parsing error|Value error) (?=\w)", "", text)
    verb = f"victorian {arguments[0]}" if arguments[0] in known else "victorian"
    return f"{text[:400]} (see `{verb} --help`)"


def _flag_of(field: str, arguments: list[str]) -> str:
    """The flag that gave a field its value, with its section as it was typed; pydantic names the field alone."""
    name = field.replace("_", "-")
    given = [argument.partition("=")[0].replace("_", "-") for argument in arguments]
    return next((flag for flag in given if flag == f"--{name}" or flag.endswith(f".{name}")), f"--{name}")


def changed(recipe: Recipe, **sections: Section) -> Recipe:
    """The recipe with other sections, checked as a whole."""
    return Recipe.model_validate(dict(recipe) | sections)


def find_model(artifact: str, without: str | None = None) -> str:
    """As `find_artifact`, and says so if that is the package's own model and was not asked for."""
    from victorian.artifact import PRETRAINED, RUNS, find_artifact

    found = find_artifact(artifact, without)
    if artifact == RUNS and found == find_artifact(PRETRAINED):
        what = "nothing" if without is None else "no other run"
        print(f"victorian: {what} was trained in {artifact} yet: this is the package's own model", file=sys.stderr)
    return found


def say(text: str) -> None:
    print(text, flush=True)
