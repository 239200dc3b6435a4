"""How many log-probabilities an answer may hold that is no stream."""

import httpx2

from tests.conftest import TOY
from tests.running_service import Service
from tests.service.test_completions import END, ask
from victorian.config import EngineConfig, ServiceConfig
from victorian.engine.engine import Engine
from victorian.engine.succession import Succession
from victorian.model.gpt2 import GPT
from victorian.service.choices import engine_requests
from victorian.service.models import Served
from victorian.service.protocol import CompletionRequest


def test_an_answer_holds_so_many_log_probabilities_and_a_stream_any_number(service: Service) -> None:
    many = {"prompt": "It", "n": 8, "max_tokens": 32_768, "logprobs": 20, "ignore_eos": True}
    answer = ask(service, **many)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["param"]) == (400, "invalid_request_error", "logprobs")
    assert error["message"] == (
        "262144 tokens with 21 log-probabilities each are 5505024; an answer that is no stream has at most 262144: "
        "set stream, or ask for fewer"
    )
    with httpx2.stream("POST", f"{service.url}/v1/completions", json=many | {"stream": True}) as streamed:
        assert streamed.status_code == 200

    ends_at_once = {"prompt": "It", "n": 8, "temperature": 0, "logit_bias": {str(END): 100}}
    for most, logprobs in ((1560, 20), (32_768, 0)):
        assert ask(service, **ends_at_once, max_tokens=most, logprobs=logprobs).status_code == 200
    assert ask(service, **ends_at_once, max_tokens=1561, logprobs=20).status_code == 400
    assert ask(service, **ends_at_once, max_tokens=32_768, logprobs=0, echo=True).status_code == 400
    assert service.idle()


def test_as_many_whole_contexts_as_are_taken_at_once_can_be_scored(service: Service) -> None:
    """As lm-eval asks, of a model that sees 2,048 tokens."""
    model = GPT(TOY.model.model_copy(update={"context": 2048})).eval()
    with Engine(model, service.engine.encoding, EngineConfig(max_running=1)) as engine:
        body = CompletionRequest(prompt=[[44] * 2048] * 16, max_tokens=1, echo=True, logprobs=1)
        assert len(engine_requests(Served("toy", 0, Succession(engine)), body, ServiceConfig(), "a")) == 16
