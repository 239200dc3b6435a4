"""lm-eval, the harness of most published numbers, against the service: its log-likelihoods are the engine's."""

from pathlib import Path

import pytest
from lm_eval.api.instance import Instance
from lm_eval.models.openai_completions import LocalCompletionsAPI

from tests.running_service import Service
from victorian.config import SamplingParameters
from victorian.engine.request import PromptEvent

PAIRS = [
    ("It was a dark night", " and the rain fell"),
    ("It was a dark night", " — “and”"),
    ("The man", " went"),
    ("", "Upon my word"),
]


@pytest.fixture(params=[True, False], ids=["ids", "texts"])
def harness(service: Service, toy_artifact: Path, request: pytest.FixtureRequest) -> LocalCompletionsAPI:
    return LocalCompletionsAPI(
        model="toy",
        base_url=f"{service.url}/v1/completions",
        tokenizer_backend="huggingface",
        tokenizer=str(toy_artifact),
        tokenized_requests=request.param,
        batch_size=3,
        max_length=64,
    )


def likelihood(service: Service, context: list[int], continuation: list[int]) -> tuple[float, bool]:
    """Of a continuation, by the engine alone; and whether every token of it is the likeliest."""
    prompt = [*(context or [service.engine.encoding.end_of_text]), *continuation]
    request = service.engine.request(prompt, SamplingParameters(max_tokens=1), prompt_logprobs=1)
    (told,) = [event for event in service.engine.stream(request) if isinstance(event, PromptEvent)]
    scores = told.scores[-len(continuation) :]
    return sum(one.logprob or 0 for one in scores), all(one.token == one.likeliest[0][0] for one in scores)


def instances(kind: str, arguments: list[tuple[object, ...]]) -> list[Instance]:
    return [Instance(kind, {}, one, index) for index, one in enumerate(arguments)]  # type: ignore[arg-type]


def test_log_likelihoods_are_the_engines(harness: LocalCompletionsAPI, service: Service) -> None:
    encode = service.engine.encoding.encode
    pairs = [pair for pair in PAIRS if harness.tokenized_requests or pair[0]]  # its prefix token is no text to us
    for context in ("The man", "It was", "and the", "of a"):
        greedy = service.engine.request(context, SamplingParameters(max_tokens=1, temperature=0, repetition_penalty=1))
        text = "".join(getattr(event, "text", "") for event in service.engine.stream(greedy))
        if [*encode(context), *encode(text)] == [*encode(context + text)]:  # else it is encoded as other tokens
            pairs.append((context, text))
    found = harness.loglikelihood(instances("loglikelihood", list(pairs)))
    for (context, continuation), (logprob, is_greedy) in zip(pairs, found, strict=True):
        tokens = [int(token) for token in encode(context + continuation)]
        before = len(encode(context))
        expected = likelihood(service, tokens[:before], tokens[before:])
        assert logprob == pytest.approx(expected[0], abs=1e-4)
        assert is_greedy == expected[1]
    assert {is_greedy for _, is_greedy in found} == {True, False}


def test_it_generates_what_the_engine_generates(harness: LocalCompletionsAPI, service: Service) -> None:
    until = {"until": ["\n\n"], "max_gen_toks": 12, "temperature": 0.0}
    found = harness.generate_until(instances("generate_until", [("It was", until), ("The man", until)]))
    for prompt, text in zip(("It was", "The man"), found, strict=True):
        sampling = SamplingParameters(max_tokens=12, temperature=0, stop=("\n\n",))
        events = service.engine.stream(service.engine.request(prompt, sampling))
        assert text == "".join(getattr(event, "text", "") for event in events)
