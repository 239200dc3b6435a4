"""The page at `/`: a manuscript that a writer and a model write by turns, over the WebSocket.

One document, made once, with its style and its script inside and nothing asked of any other host: so there is one
public path, and no address in it that a route prefix could break. Ranges, defaults and explanations of the parameters
come from their definition.
"""

import hashlib
from base64 import b64encode
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from victorian.config import SamplingParameters
from victorian.service.protocol import MAX_PROMPT_CHARACTERS, PROTOCOL_VERSION

SCRIPTS = (
    "shelf.js", "words.js", "manuscript.js", "connection.js", "prompt.js", "figures.js", "settings.js", "writing.js",
    "desk.js",
)  # fmt: skip
"""In the order in which they stand in the page's one module."""

SAFE_INTEGER = (1 << 53) - 1
"""The largest that a browser reads and writes exactly."""


@dataclass(frozen=True)
class Control:
    """A parameter as the page shows it."""

    name: str
    label: str
    kind: str
    """`range` or `number`, of HTML's inputs."""
    step: float
    """Zero stands on the grid: a number off the grid would be moved onto it by the browser."""
    low: float
    high: float
    default: Any
    help: str


def control(name: str, label: str, kind: str, step: float) -> Control:
    """Bounds, default and explanation from where the parameter is defined."""
    schema = SamplingParameters.model_json_schema()["properties"][name]
    forms = schema.get("anyOf", [schema])
    lows = [form[key] for form in forms for key in ("const", "minimum") if key in form]
    highs = [form["maximum"] for form in forms if "maximum" in form]
    highs += [form["exclusiveMaximum"] - 1 for form in forms if "exclusiveMaximum" in form]
    high = min(max(highs), SAFE_INTEGER)
    return Control(name, label, kind, step, min(lows), high, schema["default"], schema["description"])


CONTROLS = (
    ("temperature", "Temperature", "range", 0.1),
    ("top_k", "Top-k", "range", 1),
    ("top_p", "Top-p", "range", 0.01),
    ("repetition_penalty", "Repetition penalty", "range", 0.05),
    ("max_tokens", "Length", "number", 1),
    ("seed", "Seed", "number", 1),
)
"""Name, label, kind of input and step of what can be set."""


def page() -> APIRouter:
    """The route."""
    document, headers = render()
    router = APIRouter()

    @router.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def index(request: Request) -> Response:
        if headers["ETag"] in request.headers.get("If-None-Match", ""):
            return Response(status_code=304, headers=headers)
        return Response(document, media_type="text/html", headers=headers)

    return router


def render() -> tuple[bytes, dict[str, str]]:
    """The document, and the headers that it goes out with."""
    folder = files(__name__)
    style = folder.joinpath("style.css").read_text("utf-8")
    script = "\n".join(folder.joinpath(name).read_text("utf-8") for name in SCRIPTS)
    assert "</style" not in style, "the style would end early"
    assert "</script" not in script, "the script would end early"
    environment = Environment(
        loader=PackageLoader("victorian.service", "page"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    document = environment.get_template("page.html.jinja").render(
        style=Markup(style),
        script=Markup(script),
        controls=[control(*one) for one in CONTROLS],
        protocol=PROTOCOL_VERSION,
        prompt_characters=MAX_PROMPT_CHARACTERS,
    )
    content = document.encode()
    policy = {
        "default-src": "'none'",
        "script-src": _hash(script),
        "style-src": _hash(style),
        "connect-src": "'self'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    return (
        content,
        {
            "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
            "Cross-Origin-Resource-Policy": "same-origin",
            "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "no-cache",  # kept, and asked for again: the page and the protocol change together
            "ETag": f'"{hashlib.sha256(content).hexdigest()[:32]}"',
        },
    )


def _hash(source: str) -> str:
    return f"'sha256-{b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"
