"""What a document asks its reader to type, in order: commands, programs, and what is to be seen after them.

A code block without a language, indented or fenced, holds commands; `python` a program; `text` what the step before it
shows, or, at the beginning of a section, something to look at. Any other language is an error, so that nothing can be
typed that is not found here.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from markdown_it import MarkdownIt

LANGUAGES = {"": "shell", "sh": "shell", "python": "python", "text": "text"}


@dataclass
class Step:
    """A command or a program."""

    section: str
    language: str
    """`shell` or `python`."""
    typed: str
    seen: list[str] = field(default_factory=list)
    """Lines that the document shows after it."""

    @property
    def command(self) -> str:
        """A command without the remark beside it."""
        return re.sub(r"\s+# .*$", "", self.typed)


def steps(document: Path) -> list[Step]:
    """Every step of a document; ValueError for a block of a language that nobody runs."""
    found: list[Step] = []
    section, opened = "", False
    for token in MarkdownIt("commonmark").parse(document.read_text()):
        if token.type == "heading_open":
            opened = True
        elif token.type == "inline" and opened:
            section, opened = token.content, False
        elif token.type in ("code_block", "fence"):
            language = token.info.strip()
            if language not in LANGUAGES:
                raise ValueError(f"{document.name} has a block of {language!r}: expected one of {sorted(LANGUAGES)}")
            if LANGUAGES[language] == "shell":
                found += [Step(section, "shell", command) for command in _commands(token.content)]
            elif language == "python":
                found.append(Step(section, "python", token.content))
            elif found and found[-1].section == section:
                found[-1].seen += token.content.splitlines()
    return found


def _commands(block: str) -> Iterator[str]:
    """The commands of a block; one may go on behind a backslash."""
    for line in re.sub(r"\s*\\\n\s*", " ", block).splitlines():
        if line.strip() and not line.startswith("#"):
            yield line.strip()


def shows(output: str, seen: list[str]) -> str | None:
    """The first line of `seen` that is not in the output, in order; numbers may differ, and `...` is anything."""
    lines = iter(output.splitlines())
    for line in seen:
        words = re.escape(line.strip()).replace(r"\.\.\.", ".*")
        pattern = re.sub(r"\d(\d|,|:|\\\.(?=\d))*", r"[\\d,.:]+", words)
        if not any(re.search(pattern, one) for one in lines):
            return line
    return None
