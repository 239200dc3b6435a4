"""A Sphinx extension: puts what the code says of itself where a page says `<!-- generated: NAME -->`.

Nothing is written into the sources, so that no generated text can be edited, or be older than the code.
"""

import re
from typing import Any

from generation.commands import command_line
from generation.configuration import environment, models, recipes, sampling, service
from generation.errors import errors
from generation.messages import http, messages

PARTS = {
    "command line": command_line,
    "environment": environment,
    "errors": errors,
    "http": http,
    "messages": messages,
    "models": models,
    "recipes": recipes,
    "sampling": sampling,
    "service": service,
}
MARK = re.compile(r"^<!-- generated: (.+) -->$", re.MULTILINE)


def fill(app: object, page: str, source: list[str]) -> None:
    """Sphinx's event `source-read`: `source` holds a page's text, and takes the new one. KeyError for unknown names."""
    source[0] = MARK.sub(lambda mark: PARTS[mark[1]](), source[0])


def setup(app: Any) -> dict[str, bool]:
    app.connect("source-read", fill)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
