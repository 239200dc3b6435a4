"""What any document says, without running or building it: commands are understood, flags exist, links lead somewhere.

Every command of README and tutorial is run as well, by tests/cluster/test_documents.py.
"""

import contextlib
import functools
import io
import re
import shlex
import subprocess
from urllib.parse import urlsplit

import pytest
from markdown_it import MarkdownIt

from tests.built_site import BUILD
from tests.conftest import ROOT
from victorian.cli import verbs
from victorian.command_line import parse, resolve_recipe

DOCUMENTS = [
    "README.md",
    "victorian/pretrained/README.md",
    *(str(p.relative_to(ROOT)) for p in ROOT.glob("docs/**/*.md")),
]

FLAG = re.compile(r"--[a-z][a-z0-9-]*(?:\.[a-z0-9-]+)?")


def in_sentences(document: str) -> list[str]:
    """What the sentences of a document set in the type of code."""
    blocks = MarkdownIt("commonmark").enable("table").parse((ROOT / document).read_text())
    return [part.content for block in blocks for part in block.children or [] if part.type == "code_inline"]


def commands(document: str) -> list[str]:
    """What stands after `victorian` in the blocks of a document."""
    blocks = MarkdownIt("commonmark").parse((ROOT / document).read_text())
    code = "".join(block.content for block in blocks if block.type in ("code_block", "fence"))
    return re.findall(r"(?m)^\s*(?:\.venv/bin/)?victorian ([a-z].*?)(?:\s+#.*)?$", code.replace("\\\n", " "))


@pytest.mark.parametrize(
    ("document", "command"), [(document, command) for document in DOCUMENTS for command in commands(document)]
)
def test_the_command_is_understood(document: str, command: str) -> None:
    arguments = shlex.split(command)
    assert callable(parse(verbs(resolve_recipe(arguments)), arguments, ""))


@functools.cache
def flags(verb: str) -> set[str]:
    """The flags of a verb, as its help lists them."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), pytest.raises(SystemExit):
        parse(verbs(resolve_recipe([verb])), [verb, "--help"], "")
    return set(FLAG.findall(said.getvalue()))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_verbs_and_flags_that_a_sentence_names_exist(document: str) -> None:
    known = verbs(resolve_recipe([])).keys()
    for code in in_sentences(document):
        if named := re.match(r"(?:\.venv/bin/)?victorian ([a-z]+)", code):
            assert named[1] in known, code
            assert set(FLAG.findall(code)) <= flags(named[1]), code
        elif re.match(r"--[a-z]+\.", code):  # the form that is nobody's but ours
            assert set(FLAG.findall(code)) <= set().union(*map(flags, known)), code


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_within_the_repository_lead_somewhere(document: str) -> None:
    """As whoever reads the files themselves follows them; anchors are Sphinx's to check."""
    for token in MarkdownIt("commonmark").enable("table").parse((ROOT / document).read_text()):
        for child in token.children or []:
            link = str(child.attrs.get("href") or child.attrs.get("src") or "")
            if link and not urlsplit(link).scheme and not link.startswith("#"):
                assert ((ROOT / document).parent / urlsplit(link).path).exists(), f"{document}: {link}"


def test_make_builds_the_site_that_is_tested() -> None:
    done = subprocess.run(["make", "--dry-run", "docs"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert f".venv/bin/python {' '.join(BUILD)} site\n" in done.stdout
    assert "/site/" in (ROOT / ".gitignore").read_text().splitlines()
