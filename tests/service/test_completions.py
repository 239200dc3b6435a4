"""Choices, lists of prompts, log-probabilities, echo, deadlines and tokens, mostly with OpenAI's own client."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest
from openai.types import Completion
from websockets.sync.client import connect

from tests.running_service import Service, soon
from tests.service.test_http import hold
from tests.service.test_socket import read_to_end, send
from victorian.config import SamplingParameters
from victorian.engine.request import Completed, PromptEvent, TokenEvent
from victorian.service.choices import choice_seed

END = 512
"""The toy's `<|endoftext|>`."""


@pytest.fixture
def client(service: Service) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0) as made:
        yield made
    assert service.idle()


def ask(service: Service, path: str = "completions", **body: object) -> httpx2.Response:
    return httpx2.post(f"{service.url}/v1/{path}", json=body, timeout=30)


def joined(chunks: list[Completion]) -> dict[int, str]:
    """The text of each choice of a stream."""
    texts: dict[int, str] = {}
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + choice.text
    return dict(sorted(texts.items()))


def test_choices_are_distinct_and_the_same_again(client: openai.OpenAI) -> None:
    def texts(**changes: Any) -> list[str]:
        answer = client.completions.create(model="toy", prompt="It was", max_tokens=30, **({"seed": 4} | changes))
        assert [choice.index for choice in answer.choices] == list(range(len(answer.choices)))
        return [choice.text for choice in answer.choices]

    three = texts(n=3, best_of=3)
    assert len(set(three)) == 3
    assert texts(n=3) == three
    assert three == [*texts(), *texts(seed=choice_seed(4, 1)), *texts(seed=choice_seed(4, 2))]
    assert len({*three, *texts(n=3, seed=5)}) == 6
    assert len(set(texts(n=3, seed=None))) == 3


def test_every_prompt_of_a_list_has_its_choices(client: openai.OpenAI) -> None:
    def answer(prompt: Any, **changes: Any) -> Completion:
        return client.completions.create(model="toy", prompt=prompt, max_tokens=9, seed=4, **changes)

    both = answer(["It was", "A man went"], n=2)
    each = [answer(prompt, n=2) for prompt in ("It was", "A man went")]
    assert [choice.text for choice in both.choices] == [choice.text for one in each for choice in one.choices]
    assert [choice.index for choice in both.choices] == [0, 1, 2, 3]
    assert both.usage is not None
    ids = [client.post("/tokenize", body={"prompt": p}, cast_to=dict)["tokens"] for p in ("It was", "A man went")]
    assert both.usage.prompt_tokens == sum(len(some) for some in ids)
    assert both.usage.completion_tokens == 4 * 9
    assert [choice.text for choice in answer(ids, n=2).choices] == [choice.text for choice in both.choices]


def test_a_stream_interleaves_its_choices_and_says_what_the_plain_answer_says(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "toy", "prompt": ["It was", "A"], "n": 2, "max_tokens": 30, "seed": 4}
    options: Any = {"include_usage": True, "continuous_usage_stats": True}
    plain = client.completions.create(**asked)
    chunks = list(client.completions.create(**asked, stream=True, stream_options=options))
    assert joined(chunks) == {choice.index: choice.text for choice in plain.choices}
    order = [choice.index for chunk in chunks for choice in chunk.choices]
    assert set(order[: len(order) // 2]) == {0, 1, 2, 3}
    reasons = [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason]
    assert reasons == ["length"] * 4
    assert chunks[-1].choices == []
    assert chunks[-1].usage == plain.usage
    counted = [chunk.usage.completion_tokens for chunk in chunks if chunk.usage]
    assert len(counted) == len(chunks)
    assert counted == sorted(counted)


def test_the_async_client_streams_many_at_once(service: Service) -> None:
    async def text(client: openai.AsyncOpenAI, seed: int) -> str:
        stream = await client.completions.create(model="toy", prompt="It", max_tokens=20, seed=seed, stream=True)
        return "".join([chunk.choices[0].text async for chunk in stream])

    async def several(*seeds: int) -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0) as client:
            return await asyncio.gather(*(text(client, seed) for seed in seeds))

    together = asyncio.run(several(1, 2, 3, 4, 1))
    assert len(set(together)) == 4
    assert together == [asyncio.run(several(seed))[0] for seed in (1, 2, 3, 4, 1)]


def test_the_same_text_comes_through_every_door(client: openai.OpenAI, service: Service) -> None:
    options: dict[str, Any] = {
        "max_tokens": 80,
        "seed": 11,
        "logit_bias": {"158": 6, "222": 5, "245": 5},
        "stop": ["e "],
    }
    plain = client.completions.create(model="toy", prompt="It was", **options).choices[0]
    chunks = list(client.completions.create(model="toy", prompt="It was", stream=True, **options))
    with connect(service.socket_url) as socket:
        socket.recv()
        send(socket, type="generate", id="a", prompt="It was", parameters=options)
        text, end = read_to_end(socket, "a")
    assert plain.text == joined(chunks)[0] == text
    assert plain.finish_reason == chunks[-1].choices[0].finish_reason == end["reason"]
    assert len(plain.text) > 20


def test_logprobs_are_the_engines_and_offsets_count_characters(client: openai.OpenAI, service: Service) -> None:
    prompt = "It was “fine”, a"
    asked: dict[str, Any] = {"model": "toy", "prompt": prompt, "max_tokens": 12, "seed": 4, "logprobs": 3, "echo": True}
    choice = client.completions.create(**asked).choices[0]
    found = choice.logprobs
    assert found is not None
    assert found.tokens is not None
    assert found.token_logprobs is not None
    assert found.top_logprobs is not None
    assert found.text_offset is not None
    assert choice.text.startswith(prompt)

    request = service.engine.request(prompt, SamplingParameters(max_tokens=12, seed=4), logprobs=3, prompt_logprobs=3)
    events = list(service.engine.stream(request))
    assert isinstance(events[0], PromptEvent)
    scores = [*events[0].scores, *(event for event in events if isinstance(event, TokenEvent))]
    assert found.token_logprobs == [score.logprob for score in scores]
    assert found.token_logprobs[0] is found.top_logprobs[0] is None
    for name, logprob, top in list(zip(found.tokens, found.token_logprobs, found.top_logprobs, strict=True))[1:]:
        assert top[name] == logprob
        assert len(top) in (3, 4)  # the token itself, where it is not one of the three
    for name, start, score in zip(found.tokens, found.text_offset, scores, strict=True):
        data = service.engine.encoding.token_bytes(score.token)
        if name.startswith("bytes:"):
            assert name == "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
        else:
            assert choice.text[start : start + len(name)] == name == data.decode()
    assert any(name.startswith("bytes:\\xe2") for name in found.tokens)

    streamed = [chunk.choices[0] for chunk in client.completions.create(**asked, stream=True)]
    for field in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        assert [item for one in streamed if one.logprobs for item in getattr(one.logprobs, field)] == getattr(
            found, field
        )
    assert streamed[0].text == prompt
    alone = client.completions.create(**asked | {"echo": False}).choices[0].logprobs
    assert alone is not None
    assert alone.text_offset == found.text_offset[-12:]
    assert alone.tokens == found.tokens[-12:]


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_can_be_scored_without_a_completion(client: openai.OpenAI, stream: bool) -> None:
    asked: dict[str, Any] = {"model": "toy", "prompt": ["It was", "A"], "max_tokens": 0, "echo": True}
    if stream:
        chunks = list(client.completions.create(**asked, stream=True))
        assert joined(chunks) == {0: "It was", 1: "A"}
        return
    answer = client.completions.create(**asked, logprobs=0)
    assert [choice.text for choice in answer.choices] == ["It was", "A"]
    assert [choice.finish_reason for choice in answer.choices] == ["length", "length"]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 0
    scores = [choice.logprobs for choice in answer.choices if choice.logprobs]
    assert sum(len(one.tokens or ()) for one in scores) == answer.usage.prompt_tokens


def test_the_end_of_the_text_is_scored_but_neither_shown_nor_counted(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "toy", "prompt": "It was", "max_tokens": 9, "temperature": 0}
    answer = client.completions.create(**asked, logit_bias={str(END): 100}, logprobs=1)
    (choice,) = answer.choices
    assert (choice.text, choice.finish_reason) == ("", "stop")
    assert choice.logprobs is not None
    assert choice.logprobs.tokens == ["<|endoftext|>"]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 0
    ignored = client.completions.create(**asked, logit_bias={str(END): 100}, extra_body={"ignore_eos": True})
    assert ignored.usage is not None
    assert ignored.usage.completion_tokens == 9


@pytest.mark.parametrize("stream", [False, True])
def test_choices_that_do_not_all_fit_are_all_refused(service: Service, stream: bool) -> None:
    other = hold(service, {"prompt": "It", "max_tokens": 30_000, "min_tokens": 30_000, "stream": True})
    assert soon(lambda: service.engine.active == 1)
    answer = ask(service, prompt="It", n=8, max_tokens=30_000, min_tokens=30_000, stream=stream)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
    assert service.engine.active == 1
    other.close()
    assert service.idle()
    assert ask(service, prompt="It", n=8, max_tokens=3).status_code == 200


def test_choices_that_never_fit_are_not_told_to_come_back(service: Service) -> None:
    answer = ask(service, prompt="It", n=9, max_tokens=3)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "n")
    assert answer.json()["error"]["message"] == "9 texts at once are more than there ever is room for, 8"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("n", [2, 8])
def test_a_client_that_leaves_stops_all_of_its_choices(service: Service, stream: bool, n: int) -> None:
    connection = hold(service, {"prompt": "It", "n": n, "max_tokens": 30_000, "min_tokens": 30_000, "stream": stream})
    assert soon(lambda: service.engine.active == n)
    connection.close()
    assert service.idle()


def test_a_request_that_takes_too_long_gets_504(service: Service) -> None:
    answer = ask(service, prompt="It", n=2, max_tokens=30_000, min_tokens=30_000, deadline_seconds=0.2)
    assert answer.status_code == 504
    assert (answer.json()["error"]["type"], answer.json()["error"]["code"]) == ("server_error", "deadline_exceeded")
    assert service.idle()


def test_a_stream_that_fails_ends_with_an_error_event(service: Service, client: openai.OpenAI) -> None:
    events = ask(
        service, prompt="It", n=2, max_tokens=30_000, min_tokens=30_000, deadline_seconds=0.3, stream=True
    ).text.split("\n\n")
    assert json.loads(events[-2].removeprefix("data: "))["error"]["code"] == "deadline_exceeded"
    assert json.loads(events[0].removeprefix("data: "))["choices"]
    assert not any("[DONE]" in event for event in events)
    with pytest.raises(openai.APIError, match="not done within"):
        list(
            client.completions.create(
                model="toy",
                prompt="It",
                max_tokens=30_000,
                stream=True,
                extra_body={"deadline_seconds": 0.3, "min_tokens": 30_000},
            )
        )
    assert service.idle()


def test_text_goes_to_tokens_and_back(service: Service) -> None:
    text = "It was “fine”, said <|endoftext|>."
    answer = ask(service, "tokenize", prompt=text, model="toy", return_token_strs=True).json()
    assert answer["tokens"] == [int(token) for token in service.engine.encoding.encode(text)]
    assert answer["count"] == len(answer["tokens"]) == len(answer["token_strs"])
    assert answer["max_model_len"] == 64
    assert END not in answer["tokens"]
    assert ask(service, "detokenize", tokens=answer["tokens"]).json() == {"prompt": text}
    assert ask(service, "tokenize", prompt="").json()["tokens"] == []
    assert ask(service, "detokenize", tokens=[]).json() == {"prompt": ""}


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("detokenize", {"tokens": [END + 1]}, "tokens"),
        ("detokenize", {"tokens": [0, 10**30]}, "tokens"),
        ("detokenize", {"tokens": [-1]}, "tokens"),
        ("detokenize", {"tokens": ["0"]}, "tokens"),
        ("detokenize", {}, "tokens"),
        ("tokenize", {}, "prompt"),
        ("tokenize", {"prompt": 1}, "prompt"),
        ("tokenize", {"prompt": "x" * 200_001}, "prompt"),
        ("tokenize", {"prompt": "It", "messages": []}, "messages"),
        ("tokenize", {"prompt": None}, "prompt"),
        ("detokenize", {"tokens": None}, "tokens"),
        ("detokenize", {"tokens": [], "prompt": None}, "prompt"),
    ],
)
def test_what_cannot_be_encoded_or_decoded_gets_400(
    service: Service, path: str, body: dict[str, object], param: str
) -> None:
    answer = ask(service, path, **body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


@pytest.mark.parametrize(
    "name",
    ["gpt-5", "../../etc/passwd", "..%2f..%2fetc%2fpasswd", "%00", "%ff", "toy%0d%0aX-Y:%20z", "t" * 5_000, "toy/"],
)
def test_a_models_name_is_only_a_name(service: Service, name: str) -> None:
    answer = httpx2.get(f"{service.url}/v1/models/{name}")
    assert answer.status_code == 404
    assert answer.json()["error"]["message"]
    for path, body in (
        ("completions", {"prompt": "It"}),
        ("tokenize", {"prompt": "It"}),
        ("detokenize", {"tokens": []}),
    ):
        answer = ask(service, path, model=name[:200], **body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


def test_usage_counts_what_the_engine_counts(service: Service) -> None:
    answer = ask(service, prompt="", max_tokens=5, seed=3).json()
    *_, end = service.engine.stream(service.engine.request("", SamplingParameters(max_tokens=5, seed=3)))
    assert isinstance(end, Completed)
    assert answer["usage"]["prompt_tokens"] == end.prompt_tokens == 1
    assert answer["usage"]["completion_tokens"] == end.completion_tokens
