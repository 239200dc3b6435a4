"""The completions API: OpenAI's own client, and everything a client can get wrong."""

import json
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx2
import openai
import pytest

from tests.running_service import Service, soon
from victorian.config import Section
from victorian.service.protocol import CompletionRequest, DetokenizeRequest, StreamOptions, TokenizeRequest


@pytest.fixture
def client(service: Service) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def test_the_openai_client_completes(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="toy", prompt="It was", max_tokens=12, seed=4)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 12
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 12
    assert answer.model == "toy"


def test_the_openai_client_streams_the_same_text(client: openai.OpenAI) -> None:
    plain = client.completions.create(model="toy", prompt="It was", max_tokens=40, seed=4)
    options: openai.types.chat.ChatCompletionStreamOptionsParam = {"include_usage": True}
    chunks = list(
        client.completions.create(
            model="toy", prompt="It was", max_tokens=40, seed=4, stream=True, stream_options=options
        )
    )
    assert "".join(c.choices[0].text for c in chunks if c.choices) == plain.choices[0].text
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"
    assert chunks[-1].usage == plain.usage
    assert len({chunk.id for chunk in chunks}) == 1
    assert len(chunks) > 20


def test_token_ids_and_our_own_parameters_are_understood(client: openai.OpenAI) -> None:
    greedy = {"top_k": 1, "repetition_penalty": 1.0}
    texts = {
        client.completions.create(
            model="toy", prompt=[44, 83], max_tokens=8, seed=seed, extra_body=greedy
        ).choices[0].text
        for seed in (1, 2, 3)
    }  # fmt: skip
    assert len(texts) == 1


def test_openais_ways_to_bend_the_odds_are_understood(client: openai.OpenAI) -> None:
    def ask(**changes: object) -> str:
        answer = client.completions.create(model="toy", prompt="It was", max_tokens=12, **changes)  # type: ignore[call-overload]
        return str(answer.choices[0].text)

    assert ask(temperature=0, seed=1) == ask(temperature=0, seed=2)
    assert ask(logit_bias={"32": 100}, temperature=0, extra_body={"repetition_penalty": 1}) == "A" * 12
    once = ask(
        logit_bias={"32": 3},
        temperature=0,
        presence_penalty=2,
        frequency_penalty=2,
        extra_body={"repetition_penalty": 1},
    )
    assert once.count("A") < 12


def test_stop_takes_a_text_or_a_list(client: openai.OpenAI) -> None:
    text = client.completions.create(model="toy", prompt="A", max_tokens=60, seed=2).choices[0].text
    for stop in (text[10:12], [text[10:12], "never comes"]):
        answer = client.completions.create(model="toy", prompt="A", max_tokens=60, seed=2, stop=stop)
        assert answer.choices[0].text == text[: text.index(text[10:12])]
        assert answer.choices[0].finish_reason == "stop"


def test_models_are_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["toy"]
    assert client.models.retrieve("toy").created == 1_700_000_000
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt-5")
    assert caught.value.code == "model_not_found"


def test_health_and_readiness(service: Service) -> None:
    assert httpx2.get(f"{service.url}/health").json() == {"status": "ok"}
    ready = httpx2.get(f"{service.url}/ready")
    assert (ready.status_code, ready.json()["status"]) == (200, "ready")


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"temperature": 0.05}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_k": 101}, "top_k"),
        ({"top_p": -0.1}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 10**9}, "max_tokens"),
        ({"seed": -1}, "seed"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"stop": ""}, "stop"),
        ({"prompt": {"a": 1}}, "prompt"),
        ({"prompt": [513]}, "prompt"),
        ({"prompt": "word " * 300}, "prompt"),
        ({"n": 17}, "n"),
        ({"n": 0}, "n"),
        ({"n": 9, "prompt": ["one", "two"]}, "n"),
        ({"n": 2, "best_of": 3}, "best_of"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"deadline_seconds": 0}, "deadline_seconds"),
        ({"keep_tokens": 33}, "keep_tokens"),
        ({"suffix": "the end"}, "suffix"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"stream_options": {"usage": True}}, "stream_options"),
        ({"stream_options": {"include_usage": "true"}}, "stream_options"),
        ({"prompt": ["It", [44]]}, "prompt"),
        ({"prompt": ["It"] * 17}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [10**30]}, "prompt"),
        ({"prompt": "\ud800"}, "prompt"),
        ({"stop": [""]}, "stop"),
        ({"logit_bias": {"one": 1}}, "logit_bias"),
        ({"presence_penalty": 2.1}, "presence_penalty"),
        ({"frequency_penalty": -2.1}, "frequency_penalty"),
        ({"logit_bias": {"513": 1}}, "logit_bias"),
        ({"logit_bias": {"3": 101}}, "logit_bias"),
        ({"min_p": 1.1}, "min_p"),
        ({"temprature": 1.0}, "temprature"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_out_of_range_gets_400_and_the_parameters_name(
    service: Service, change: dict[str, object], param: str, stream: bool
) -> None:
    body = json.dumps({"prompt": "It", "stream": stream} | change)
    headers = {"Content-Type": "application/json"}
    answer = httpx2.post(f"{service.url}/v1/completions", content=body, headers=headers)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert error["message"]


@pytest.mark.parametrize(
    ("path", "needed", "asked"),
    [
        ("completions", {"prompt": "It", "max_tokens": 1, "seed": 1}, CompletionRequest),
        ("tokenize", {"prompt": "It"}, TokenizeRequest),
        ("detokenize", {"tokens": [40]}, DetokenizeRequest),
    ],
)
def test_null_means_the_default(service: Service, path: str, needed: dict[str, object], asked: type[Section]) -> None:
    def ask(**body: object) -> dict[str, object]:
        answer = httpx2.post(f"{service.url}/v1/{path}", json=body)
        assert answer.status_code == 200, answer.text
        return {**answer.json(), "id": None, "created": None}

    nothing: dict[str, object] = dict.fromkeys(asked.model_fields)
    assert ask(**nothing | needed) == ask(**needed)


def test_null_means_the_default_among_the_options_of_a_stream(service: Service) -> None:
    body = {
        "prompt": "It",
        "max_tokens": 1,
        "stream": True,
        "stream_options": dict.fromkeys(StreamOptions.model_fields),
    }
    answer = httpx2.post(f"{service.url}/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    assert '"usage":{' not in answer.text


@pytest.mark.parametrize(
    "body",
    [
        b"{", b"", b"[]", b"null", b'"text"', b"\xff\xfe", b"[" * 100_000, b'{"prompt": ' + b"[" * 100_000,
        b'{"prompt": "\xff"}', b'{"prompt": "\\ud800"}', b'{"\\ud800": 1}', b'{"prompt": "It", "temperature": NaN}',
        b'{"prompt": "It", "min_p": Infinity}', b'{"prompt": "It", "seed": ' + b"9" * 5_000 + b"}",
    ],
)  # fmt: skip
def test_a_body_that_is_no_request_gets_400(service: Service, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    answer = httpx2.post(f"{service.url}/v1/completions", content=body, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_another_model_and_another_path_get_404_and_another_method_405(service: Service) -> None:
    answer = httpx2.post(f"{service.url}/v1/completions", json={"model": "gpt-5", "prompt": "It"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    assert httpx2.get(f"{service.url}/v2").json()["error"]["message"]
    assert httpx2.get(f"{service.url}/v2").status_code == 404
    assert httpx2.get(f"{service.url}/v1/completions").status_code == 405


def test_a_full_queue_gets_429_with_a_time_to_retry(service: Service) -> None:
    long = {"prompt": "It", "max_tokens": 30_000, "min_tokens": 30_000, "stream": True}
    with httpx2.Client(base_url=service.url, timeout=20) as client:
        streams = [client.stream("POST", "/v1/completions", json=long) for _ in range(8)]
        opened = []
        try:
            for number, stream in enumerate(streams):
                if number < 4:  # those that run answer at once; those that wait do not
                    opened.append(stream.__enter__())
            waiting = [hold(service, long) for _ in range(4)]
            assert soon(lambda: service.engine.active == 8)
            for refused in (long, long | {"stream": False}):
                answer = client.post("/v1/completions", json=refused)
                assert answer.status_code == 429
                assert answer.headers["retry-after"] == "1"
                assert answer.json()["error"]["code"] == "overloaded"
            for connection in waiting:
                connection.close()
        finally:
            for stream in streams[: len(opened)]:
                stream.__exit__(None, None, None)
    assert service.idle()


def test_a_client_that_leaves_a_stream_stops_its_generation(service: Service) -> None:
    with httpx2.stream(
        "POST",
        f"{service.url}/v1/completions",
        json={"prompt": "It", "max_tokens": 30_000, "min_tokens": 30_000, "stream": True},
    ) as answer:
        lines = answer.iter_lines()
        assert next(lines).startswith("data: ")
        assert service.engine.active == 1
    assert service.idle()


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_before_the_first_token_stops_its_generation(service: Service, stream: bool) -> None:
    connection = hold(service, {"prompt": "It", "max_tokens": 30_000, "min_tokens": 30_000, "stream": stream})
    assert soon(lambda: service.engine.active == 1)
    connection.close()
    assert service.idle()


def test_what_openai_means_by_nothing_is_taken_as_nothing(service: Service) -> None:
    neutral = {
        "max_tokens": None, "temperature": None, "top_p": None, "n": None, "best_of": None, "echo": None, "seed": None,
        "stream": None, "stop": None, "logit_bias": {}, "suffix": "", "presence_penalty": 0, "frequency_penalty": 0.0,
        "stream_options": None, "user": "me",
    }  # fmt: skip
    answer = httpx2.post(f"{service.url}/v1/completions", json={"prompt": "It"} | neutral)
    assert answer.status_code == 200
    assert answer.json()["usage"]["completion_tokens"] == 256


def test_one_prompt_may_come_in_a_list_and_text_is_never_taken_for_ids(service: Service) -> None:
    def ask(prompt: object) -> dict[str, object]:
        body = {"prompt": prompt, "max_tokens": 8, "seed": 1}
        answer: dict[str, object] = httpx2.post(f"{service.url}/v1/completions", json=body).json()
        return answer

    assert ask(["In 1871"])["choices"] == ask("In 1871")["choices"]
    assert ask(["42"])["usage"] == ask("42")["usage"]
    assert ask([[44, 83]])["choices"] == ask([44, 83])["choices"]
    assert "error" in ask(["one", ["two"]])


def test_only_a_prompt_too_long_is_called_that(service: Service) -> None:
    codes = {}
    for name, prompt in (("long", "word " * 300), ("strange", [513])):
        answer = httpx2.post(f"{service.url}/v1/completions", json={"prompt": prompt})
        codes[name] = answer.json()["error"]["code"]
    assert codes == {"long": "context_length_exceeded", "strange": None}


def test_a_body_too_large_is_refused(service: Service) -> None:
    body = json.dumps({"prompt": "x" * (1 << 20)}).encode()
    for content in (body, iter([body])):  # of a length that is told before, and in chunks
        headers = {"Content-Type": "application/json"}
        answer = httpx2.post(f"{service.url}/v1/completions", content=content, headers=headers)
        assert answer.status_code == 413
        assert answer.json()["error"]["type"] == "invalid_request_error"


def hold(service: Service, body: dict[str, object]) -> socket.socket:
    """A request that is sent and never read."""
    address = urlsplit(service.url)
    assert address.hostname is not None
    connection = socket.create_connection((address.hostname, address.port or 80))
    data = json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: application/json\r\n"
    connection.sendall(head.encode() + f"Content-Length: {len(data)}\r\n\r\n".encode() + data)
    return connection
