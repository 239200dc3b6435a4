"""The site builds without a warning, says all that the code has to say, and asks no other host."""

import contextlib
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup, Tag
from pydantic import BaseModel

from tests.conftest import ROOT
from victorian import client, errors
from victorian.cli import verbs
from victorian.command_line import parse, resolve_recipe
from victorian.config import ModelSource, Recipe, SamplingParameters, ServiceConfig
from victorian.recipes import RECIPES
from victorian.service import protocol
from victorian.service.ingress import create_app
from victorian.service.models import Models
from victorian.service.protocol import ClientMessage, CloseCode, ErrorCode, ServerMessage

pytestmark = pytest.mark.slow

LOADING = {"link": "href", "script": "src", "img": "src", "iframe": "src", "source": "src", "object": "data"}
"""What a browser fetches for a page by itself, and not when somebody follows it."""


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, BeautifulSoup]:
    return {
        path.relative_to(site).as_posix(): BeautifulSoup(path.read_text(), "html.parser")
        for path in site.rglob("*.html")
    }


def in_code(page: BeautifulSoup) -> set[str]:
    """What a page has in the type of code."""
    return {one.get_text() for one in page.find("article").find_all("code")}  # type: ignore[union-attr]


def fields(of: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Paths of every setting below a type."""
    for name, field in of.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from fields(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name


def test_every_page_is_in_the_navigation(site: Path, pages: dict[str, BeautifulSoup]) -> None:
    """Sphinx warns of a page that is not; so what is here was built and can be reached."""
    for document in (ROOT / "docs").glob("**/*.md"):
        assert document.relative_to(ROOT / "docs").with_suffix(".html").as_posix() in pages


def test_every_setting_is_in_the_reference(pages: dict[str, BeautifulSoup]) -> None:
    shown = in_code(pages["reference/configuration.html"])
    wanted = {*fields(Recipe), *fields(ServiceConfig), *fields(ModelSource, "models[]."), *fields(SamplingParameters)}
    assert len(wanted) > 80
    assert wanted - shown == set()
    assert RECIPES.keys() - shown == set()


def test_a_setting_has_its_type_range_default_and_meaning(pages: dict[str, BeautifulSoup]) -> None:
    rows = {
        row.find("td").get_text(): [cell.get_text(" ", strip=True) for cell in row.find_all("td")][1:]
        for row in pages["reference/configuration.html"].find_all("tr")
        if len(row.find_all("td")) == 4
    }
    assert rows["engine.max_running"] == [
        "integer, 1 to 1,024",
        "16",
        "Requests that decode side by side; each holds a row of the KV cache.",
    ]
    assert rows["temperature"][:2] == ["0 or number, 0.1 to 2", "1.3"]
    assert rows["seed"][:2] == ["integer, at least 0, below 2^63", "none"]
    assert rows["optimizer.name"][:2] == ["adamw , muon", "adamw"]
    assert rows["model.dropout"][0] == "number, at least 0, below 1"
    assert all(all(cells) for cells in rows.values()), "a setting says nothing of itself"


def test_every_variable_of_the_environment_is_in_the_reference(pages: dict[str, BeautifulSoup]) -> None:
    named = set(re.findall(r"VICTORIAN_\w+", (ROOT / "victorian/config/environment.py").read_text()))
    assert named - set(re.findall(r"VICTORIAN_\w+", pages["reference/configuration.html"].get_text())) == set()


@pytest.mark.parametrize("verb", verbs(resolve_recipe([])))
def test_every_verb_and_flag_is_in_the_reference(pages: dict[str, BeautifulSoup], verb: str) -> None:
    """Compared with `--help`, which is what a reader would compare it with."""
    page = pages["reference/command-line.html"]
    section = page.find(id=f"victorian-{verb}")
    assert isinstance(section, Tag)
    said = io.StringIO()
    with contextlib.redirect_stdout(said), pytest.raises(SystemExit):
        parse(verbs(resolve_recipe([verb])), [verb, "--help"], "")
    flags = set(re.findall(r"(?m)^\W*(--[a-z][a-z0-9.-]*)", said.getvalue()))
    assert flags - {code.get_text() for code in section.find_all("code")} == set()
    assert flags or verb == "drain"


def test_every_message_is_in_the_reference_with_its_fields(pages: dict[str, BeautifulSoup]) -> None:
    page = pages["reference/messages.html"]
    for message in (*get_args(ClientMessage), *get_args(ServerMessage)):
        section = page.find(id=message.model_fields["type"].default)
        assert isinstance(section, Tag)
        shown = {code.get_text() for code in section.find_all("code")}
        assert message.model_fields.keys() - shown == set()
    for part in (protocol.Offer, protocol.Limits, protocol.Alternative, protocol.SocketUsage, protocol.Timings):
        assert part.model_fields.keys() - in_code(page) == set()
    assert set(get_args(ErrorCode)) - in_code(page) == set()
    assert {str(code.value) for code in CloseCode} - {cell.get_text() for cell in page.find_all("td")} == set()


def test_every_endpoint_and_object_of_http_is_in_the_reference(pages: dict[str, BeautifulSoup]) -> None:
    page = pages["reference/http.html"]
    headings = {one.get_text().removesuffix("#") for one in page.find_all("h3")}
    described: dict[str, Any] = create_app(Models([]), ServiceConfig()).openapi()
    endpoints = {f"{method.upper()} {path}" for path, methods in described["paths"].items() for method in methods}
    assert endpoints | described["components"]["schemas"].keys() <= headings
    for schema in described["components"]["schemas"].values():
        assert schema["properties"].keys() - in_code(page) == set()


def test_the_client_and_the_errors_are_in_the_reference(pages: dict[str, BeautifulSoup]) -> None:
    page = pages["reference/python.html"]
    for name in client.__all__:
        section = page.find(id=f"victorian.client.{name}")
        assert section is not None, name
        public = {one for one in vars(getattr(client, name)) if not one.startswith("_")}
        for member in public - {"text", "complete"}:
            assert page.find(id=f"victorian.client.{name}.{member}") is not None, f"{name}.{member}"
    assert "how often something is tried again" in page.get_text(), "the constructor's parameters are explained"
    for name, one in vars(errors).items():
        if isinstance(one, type):
            assert page.find(id=f"victorian.errors.{name}") is not None, name


def test_links_within_the_site_lead_somewhere(site: Path, pages: dict[str, BeautifulSoup]) -> None:
    followed = 0
    for name, page in pages.items():
        for link in page.find_all("a", href=True):
            parts = urlsplit(str(link["href"]))
            if parts.scheme or parts.netloc:
                continue
            target = (site / name).parent / unquote(parts.path) if parts.path else site / name
            assert target.exists(), f"{name}: {link['href']}"
            at = target.resolve().relative_to(site.resolve()).as_posix()
            if parts.fragment and at in pages:
                assert pages[at].find(id=unquote(parts.fragment)) is not None, f"{name}: {link['href']}"
            followed += 1
    assert followed > 1000


def test_nothing_is_loaded_from_another_host(site: Path, pages: dict[str, BeautifulSoup]) -> None:
    for name, page in pages.items():
        for tag, attribute in LOADING.items():
            for one in page.find_all(tag, attrs={attribute: True}):
                address = urlsplit(str(one[attribute]))
                assert not address.netloc, f"{name} loads {one[attribute]}"
    for sheet in site.rglob("*.css"):
        loaded = re.findall(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//[^)'\"]+", sheet.read_text())
        assert loaded == [], sheet.name
