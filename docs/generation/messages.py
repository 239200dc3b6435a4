"""What goes over the wire: the messages of the WebSocket, and the endpoints of HTTP with their bodies."""

import inspect
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any, get_args

from sphinx.pycode import ModuleAnalyzer

from generation.tables import Schema, code, field_table, kind, table
from victorian.config import ServiceConfig
from victorian.service.ingress import create_app
from victorian.service.models import Models
from victorian.service.protocol import (
    Alternative,
    ClientMessage,
    CloseCode,
    ErrorCode,
    Limits,
    Offer,
    ServerMessage,
    SocketUsage,
    Timings,
)

PARTS_OF_MESSAGES = (Offer, Limits, Alternative, SocketUsage, Timings)


def messages() -> str:
    """Every message that either side may send."""
    links = {part.__name__: f"#{part.__name__.lower()}" for part in PARTS_OF_MESSAGES}
    links["SamplingParameters"] = "configuration.md#sampling-parameters"

    def described(types: Iterable[Any], told: bool) -> Iterable[str]:
        for one in types:
            schema = one.model_json_schema()
            message = schema["properties"].get("type")
            yield f"### `{message['const']}`" if message else f"### {one.__name__}"
            yield _docstring(one)
            yield field_table(schema, links, told=told)

    return "\n\n".join(
        [
            "## From the client",
            *described(get_args(ClientMessage), told=False),
            "## From the service",
            *described(get_args(ServerMessage), told=True),
            "## Parts of messages",
            *described(PARTS_OF_MESSAGES, told=True),
            "## Codes of errors",
            ", ".join(code(name) for name in get_args(ErrorCode)) + ".",
            "## Close codes",
            table(["Code", "Meaning"], _members(CloseCode)),
        ]
    )


def http() -> str:
    """Every endpoint of the application, and every object that goes in or out."""
    description = create_app(Models([]), ServiceConfig()).openapi()
    objects = description["components"]["schemas"]
    links = {name: f"#{name.lower()}" for name in objects}
    endpoints = [
        part
        for path, methods in description["paths"].items()
        for method, endpoint in methods.items()
        for part in _endpoint(f"{method.upper()} {path}", endpoint, links)
    ]
    described = [
        part
        for name, schema in sorted(objects.items())
        for part in (
            f"### {name}",
            schema.get("description", ""),
            field_table(schema, links, told=not name.endswith(("Request", "Options"))),
        )
    ]
    return "\n\n".join(["## Endpoints", *endpoints, "## Objects", *described])


def _endpoint(name: str, endpoint: Schema, links: Mapping[str, str]) -> Iterable[str]:
    yield f"### `{name}`"
    yield endpoint.get("description", "")
    if body := endpoint.get("requestBody"):
        yield f"Takes {_content(body, links)}."
    rows = [
        [status, _content(answer, links), answer["description"].replace("Successful Response", "")]
        for status, answer in endpoint["responses"].items()
    ]
    yield table(["Status", "Answer", "When"], rows)


def _content(body: Schema, links: Mapping[str, str]) -> str:
    """What a body may be, by its type."""
    return "; ".join(
        f"`{media}`" + (f": {kind(content['schema'], links)}" if content.get("schema") else "")
        for media, content in body.get("content", {}).items()
    )


def _docstring(of: type) -> str:
    """Its own; pydantic's classes would lend theirs."""
    return inspect.cleandoc(of.__dict__.get("__doc__") or "")


def _members(of: type[Enum]) -> Iterable[list[str]]:
    """The members of an enumeration with the docstrings that stand below them."""
    docs = ModuleAnalyzer.for_module(of.__module__).find_attr_docs()
    return [[f"{member.value}", " ".join(docs[of.__name__, member.name])] for member in of]
