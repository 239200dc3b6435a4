"""JSON schemas, as pydantic makes them, in words: a table with a row for each field."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

Schema = Mapping[str, Any]
NAMES = {"string": "text", "boolean": "true or false", "null": "null"}
SHOWN_IN_POWERS = 2**53
"""Above it a limit is shown as a power of two."""


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table; what stands in a cell may hold any character."""
    lines = [list(head), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(
        "| " + " | ".join(" ".join(cell.split()).replace("|", r"\|") for cell in line) + " |" for line in lines
    )


def code(value: object) -> str:
    """A value as it is written in JSON, but for the quotation marks of a text."""
    return f"`{value if isinstance(value, str) and value else json.dumps(value)}`"


def field_table(schema: Schema, links: Mapping[str, str], prefix: str = "", told: bool = False) -> str:
    """The fields of an object.

    Args:
        links: where the objects are described that its fields may be.
        prefix: stands before each field's name.
        told: whether the service says it, so that its fields have no defaults but are there or not.
    """
    required = schema.get("required", [])

    def last(name: str, field: Schema) -> str:
        if told:
            return "always" if name in required or "const" in field else "at times"
        if name in required:
            return "required"
        return code(field["default"]) if field.get("default") not in (None, [], {}) else "none"

    fields = schema.get("properties", {})
    return table(
        ["Field", "Type", "There" if told else "Default", "Meaning"],
        [
            [f"`{prefix}{name}`", kind(field, links), last(name, field), field.get("description", "")]
            for name, field in fields.items()
        ],
    )


def kind(schema: Schema, links: Mapping[str, str]) -> str:
    """What a value may be: `integer, 1 to 1,024`."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}]({links[name]})"
    if "const" in schema:
        return code(schema["const"])
    if "enum" in schema:
        return ", ".join(code(value) for value in schema["enum"])
    for several in ("anyOf", "oneOf"):
        if several in schema:
            return " or ".join(kind(one, links) for one in schema[several] if one != {"type": "null"})
    of: str = schema.get("type", "anything")
    if of == "array":
        words = f"list of {kind(schema['items'], links)}"
        return ", ".join([words, *_size(schema, "Items", "of them")])
    if of == "object":
        named: Schema = schema.get("patternProperties", {})
        values = schema.get("additionalProperties") or next(iter(named.values()), None)
        words = f"object, each value {kind(values, links)}" if isinstance(values, dict) else "object"
        return ", ".join([words, *_size(schema, "Properties", "of them")])
    return ", ".join([NAMES.get(of, of), *_size(schema, "Length", "characters"), *_range(schema)])


def _range(schema: Schema) -> Iterable[str]:
    """The limits of a number."""
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        yield f"{_number(low)} to {_number(high)}"
    elif low is not None:
        yield f"at least {_number(low)}"
    elif high is not None:
        yield f"at most {_number(high)}"
    if "exclusiveMinimum" in schema:
        yield f"above {_number(schema['exclusiveMinimum'])}"
    if "exclusiveMaximum" in schema:
        yield f"below {_number(schema['exclusiveMaximum'])}"


def _size(schema: Schema, of: str, unit: str) -> Iterable[str]:
    """The limits of a length."""
    low, high = schema.get(f"min{of}"), schema.get(f"max{of}")
    if low and high:
        yield f"{_number(low)} to {_number(high)} {unit}"
    elif low and of != "Length":
        yield f"at least {_number(low)} {unit}"
    elif high:
        yield f"at most {_number(high)} {unit}"


def _number(value: float) -> str:
    if value >= SHOWN_IN_POWERS:
        return f"2^{int(value).bit_length() - 1}"
    return f"{int(value):,}" if value == int(value) else f"{value:g}"
