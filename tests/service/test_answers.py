"""What answers say beside the text: to clients that ask in another way, and to whatever stands between."""

import gzip
import json

import httpx2
import openai
import pytest

from tests.running_service import Service

BODY = {"prompt": "It", "max_tokens": 2}


def message(answer: httpx2.Response, status: int) -> str:
    assert answer.status_code == status
    said: str = answer.json()["error"]["message"]
    return said


@pytest.mark.parametrize("kind", [None, "application/x-www-form-urlencoded", "text/plain; charset=utf-8"])
def test_a_body_that_is_not_said_to_be_json_is_told_how_to_say_so(service: Service, kind: str | None) -> None:
    headers = {"Content-Type": kind} if kind else {}
    answer = httpx2.post(f"{service.url}/v1/completions", content=json.dumps(BODY), headers=headers)
    assert f"expected Content-Type: application/json, got {kind or 'none'}" in message(answer, 400)


@pytest.mark.parametrize("kind", ["application/json", "Application/JSON; charset=utf-8", "application/vnd.api+json"])
@pytest.mark.parametrize("body", [b"[1]", b"null", b'"text"', b""])
def test_json_that_is_no_object_is_told_what_one_looks_like(service: Service, kind: str, body: bytes) -> None:
    answer = httpx2.post(f"{service.url}/v1/completions", content=body, headers={"Content-Type": kind})
    assert 'expected a JSON object, such as {"prompt"' in message(answer, 400)


@pytest.mark.parametrize("body", ['{"prompt": "café"}'.encode("cp1252"), gzip.compress(b'{"prompt": "It"}')])
def test_a_body_that_cannot_be_read_is_told_how_it_should_have_come(service: Service, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    answer = httpx2.post(f"{service.url}/v1/completions", content=body, headers=headers)
    assert "send JSON in UTF-8, neither compressed" in message(answer, 400)


def test_a_socket_without_its_handshake_is_told_so(service: Service) -> None:
    answer = httpx2.get(f"{service.url}/v1/stream")  # what is left of one behind a proxy that keeps `Upgrade`
    assert "its handshake did not come" in message(answer, 426)
    assert answer.headers["upgrade"] == "websocket"


def test_stop_strings_are_refused_for_what_is_wrong_with_them(service: Service) -> None:
    def refused(stop: object) -> str:
        return message(httpx2.post(f"{service.url}/v1/completions", json=BODY | {"stop": stop}), 400)

    assert "at most 4 items" in refused(["a", "b", "c", "d", "e"])
    assert "at most 200 characters" in refused(["a", "x" * 201])
    assert "at least 1 character" in refused("")
    assert "valid string" in refused(5)


def test_a_path_that_is_not_there_is_told_with_what_is(service: Service) -> None:
    with openai.OpenAI(base_url=service.url, api_key="none", max_retries=0) as client:  # without /v1
        with pytest.raises(openai.NotFoundError, match=r"nothing is at /completions: .* ends in /v1"):
            client.completions.create(model="toy", prompt="It")
        with pytest.raises(openai.NotFoundError, match="texts are written at /v1/completions"):
            client.chat.completions.create(model="toy", messages=[{"role": "user", "content": "It"}])
    answer = httpx2.get(f"{service.url}/v1/completions")
    assert message(answer, 405) == "/v1/completions does not take GET; it takes POST"
    assert answer.headers["allow"] == "POST"


def test_nobody_on_the_way_may_keep_events(service: Service) -> None:
    headers = httpx2.post(f"{service.url}/v1/completions", json=BODY | {"stream": True}).headers
    assert headers["content-type"].startswith("text/event-stream")
    assert headers["cache-control"] == "no-cache"
    assert headers["x-accel-buffering"] == "no"


def test_an_event_is_one_line_whatever_ends_lines_in_a_text(service: Service) -> None:
    prompt = "a\u2028b\u2029c\x85d"
    body = BODY | {"prompt": prompt, "echo": True, "stream": True, "logprobs": 0}
    with httpx2.stream("POST", f"{service.url}/v1/completions", json=body) as answer:
        events = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    assert events.pop() == "[DONE]"
    assert json.loads(events[0])["choices"][0]["text"] == prompt


@pytest.mark.parametrize("path", ["/health", "/ready", "/v1/models"])
def test_whoever_watches_may_ask_for_the_head_alone(service: Service, path: str) -> None:
    head, whole = httpx2.head(service.url + path), httpx2.get(service.url + path)
    assert head.status_code == whole.status_code == 200
    assert head.headers["content-length"] == whole.headers["content-length"]
    assert not head.content
