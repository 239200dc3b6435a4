"""The page as an HTTP answer; what it does in a browser is shown by `make test-browser`."""

import base64
import hashlib
import re

import httpx2
import pytest

from tests.running_service import Service
from victorian.config import SamplingParameters
from victorian.service.page import CONTROLS, control


@pytest.fixture(scope="module")
def answer(service: Service) -> httpx2.Response:
    return httpx2.get(service.url)


def policy(answer: httpx2.Response) -> dict[str, str]:
    directives = (one.strip().partition(" ") for one in answer.headers["content-security-policy"].split(";"))
    return {name: value for name, _, value in directives}


def test_nothing_may_run_or_load_but_what_is_in_the_document(answer: httpx2.Response) -> None:
    rules = policy(answer)
    for nothing in ("default-src", "base-uri", "form-action", "frame-ancestors"):
        assert rules[nothing] == "'none'"
    assert rules["connect-src"] == "'self'"
    for directive, tag in (("script-src", "script"), ("style-src", "style")):
        (content,) = re.findall(rf"<{tag}[^>]*>(.*?)</{tag}>", answer.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert rules[directive] == f"'sha256-{digest}'"
    markup = answer.text.split("<script")[0]
    assert not re.search(r'(src|href|action)=(?!"data:)', markup)
    assert not re.search(r"\s(on\w+|style)=", markup)
    assert (answer.headers["x-content-type-options"], answer.headers["referrer-policy"]) == ("nosniff", "no-referrer")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"


def test_it_is_sent_once_and_small(service: Service, answer: httpx2.Response) -> None:
    assert len(answer.content) < 60_000
    assert answer.headers["cache-control"] == "no-cache"
    known = httpx2.get(service.url, headers={"If-None-Match": f"W/{answer.headers['etag']}"})
    assert (known.status_code, known.content, known.headers["etag"]) == (304, b"", answer.headers["etag"])
    assert httpx2.get(service.url, headers={"If-None-Match": '"another"'}).status_code == 200
    head = httpx2.head(service.url)
    assert (head.status_code, head.headers["content-length"]) == (200, str(len(answer.content)))


def test_controls_reach_as_far_as_their_parameters_and_no_farther() -> None:
    for one in (control(*asked) for asked in CONTROLS):
        for value in (one.low, one.high, one.default):
            SamplingParameters.model_validate({one.name: value})
        with pytest.raises(ValueError, match=one.name):
            SamplingParameters.model_validate({one.name: one.low - 1})
        if one.name != "seed":  # where a browser's integers end before the parameter's do
            with pytest.raises(ValueError, match=one.name):
                SamplingParameters.model_validate({one.name: one.high + 1})
