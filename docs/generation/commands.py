"""The `victorian` command: every verb with its flags, as its own parser has them."""

import argparse
import re
from collections.abc import Iterable

import tyro

from generation.tables import code, table
from victorian.cli import verbs
from victorian.command_line import resolve_recipe


def command_line() -> str:
    names = verbs(resolve_recipe([]))
    return "\n\n".join(part for name in names for part in _verb(name))


def _verb(name: str) -> Iterable[str]:
    parser = tyro.extras.get_parser(verbs(resolve_recipe([name]))[name], prog=f"victorian {name}")
    yield f"## `victorian {name}`"
    yield parser.description or ""
    required = [_shown(action) for action in parser._actions if action.required or not action.option_strings]
    yield f"    victorian {' '.join([name, *required])} [options]"
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if action.dest != "help"]
        if not actions:
            continue
        rows = table(["Flag", "Value", "Default", "Meaning"], [_row(action) for action in actions])
        if group.description:  # a section of the settings; there are many
            yield f"<details>\n<summary>{group.title}: {group.description}</summary>"
            yield rows
            yield "</details>"
        else:
            yield rows


def _shown(action: argparse.Action) -> str:
    value = _value(action)
    if action.option_strings:
        return f"{action.option_strings[0]} {value}"
    return value if action.required else f"[{value}]"


def _row(action: argparse.Action) -> list[str]:
    said = action.help or ""
    meaning, _, default = said.rpartition(" (default: ")
    if "(required)" in said:
        meaning, default = said.replace("(required)", ""), "required"
    else:
        default = code(default.removesuffix(")"))
    flags = ", ".join(f"`{flag}`" for flag in action.option_strings) or "in this place"
    return [flags, code(_value(action)) if _value(action) else "", default, meaning]


def _value(action: argparse.Action) -> str:
    """What stands behind a flag: `INT`, or `adamw|muon`."""
    if action.nargs == 0:
        return ""
    metavar = str(action.metavar or "").replace("{None}|", "").replace("|{None}", "")
    return re.sub(r"[{}]", "", metavar).replace(",", "|") if "{" in metavar and "[" not in metavar else metavar
