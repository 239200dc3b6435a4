"""The settings: recipes, service, models, sampling parameters, and what is read from the environment."""

import inspect
from collections.abc import Iterator
from typing import Any

from generation.tables import code, field_table, table
from victorian.config import (
    CacheSettings,
    ModelsConfig,
    Recipe,
    SamplingParameters,
    Section,
    ServiceConfig,
    cache_settings,
    client_key,
    service_keys,
    service_url,
)
from victorian.recipes import RECIPES

LINKS = {"ModelSource": "#models"}


def recipes() -> str:
    """The fields of a recipe, and in which of them the recipes differ."""
    return _sections(Recipe) + "\n\n### Values of the recipes\n\n" + _compared()


def service() -> str:
    return _sections(ServiceConfig)


def models() -> str:
    source = field_table(_resolved(ModelsConfig)["$defs"]["ModelSource"], LINKS, "models[].")
    return f"{inspect.getdoc(ModelsConfig)}\n\n{field_table(_resolved(ModelsConfig), LINKS)}\n\n{source}"


def sampling() -> str:
    return f"{inspect.getdoc(SamplingParameters)}\n\n{field_table(_resolved(SamplingParameters), LINKS)}"


def environment() -> str:
    """What each of the functions that read it says."""
    readers = (service_url, client_key, service_keys, cache_settings)
    listed = "\n".join(f"- {inspect.getdoc(reader)}" for reader in readers)
    return f"{listed}\n\n{inspect.getdoc(CacheSettings)}\n\n{field_table(_resolved(CacheSettings), LINKS)}"


def _sections(of: type[Section]) -> str:
    """A table for each section of a settings type, and one for the fields that stand in none."""
    schema = _resolved(of)
    single = {name: field for name, field in schema["properties"].items() if "$ref" not in field}
    parts = [field_table({**schema, "properties": single}, LINKS)]
    for name, field in schema["properties"].items():
        if "$ref" in field:
            section = schema["$defs"][field["$ref"].rpartition("/")[2]]
            parts += [f"### `{name}`", section["description"], field_table(section, LINKS, f"{name}.")]
    return "\n\n".join(parts)


def _resolved(of: type[Section]) -> dict[str, Any]:
    return of.model_json_schema()


def _compared() -> str:
    values = [dict(_flat(recipe.model_dump(exclude={"name"}))) for recipe in RECIPES.values()]
    differing = [path for path in values[0] if len({code(value[path]) for value in values}) > 1]
    rows = [[f"`{path}`", *(code(value[path]) for value in values)] for path in differing]
    return table(["", *(f"`{name}`" for name in RECIPES)], rows)


def _flat(value: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, item in value.items():
        if isinstance(item, dict):
            yield from _flat(item, f"{prefix}{name}.")
        else:
            yield prefix + name, item
