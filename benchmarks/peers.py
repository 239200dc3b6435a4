"""Ways to measure an engine for `decode.py`: ours and those of others, each called in a new process.

Every engine has the same weights, reads random tokens, and writes the likeliest token always. Knows of llama.cpp only
how to start `llama.py`, which runs in an environment of its own.
"""

import json
import queue
import subprocess
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from models import Models

from victorian.artifact import read_artifact
from victorian.config import EngineConfig, SamplingParameters
from victorian.cores import cores
from victorian.device import DTYPES, use_threads
from victorian.engine.engine import Engine
from victorian.engine.request import Completed, Event, Request, TokenEvent
from victorian.engine.runner import new_runner
from victorian.engine.scheduler import Read
from victorian.engine.scheduler import Sequence as Running
from victorian.engine.text import TextStream

PROMPT, NEW = 32, 128
"""Tokens of a stream when decoding is measured."""
LONG, MORE = 1500, 20
"""Tokens of a long prompt, and of what is added to it."""

LIKELIEST = SamplingParameters(temperature=0, repetition_penalty=1)

Prompts = list[list[int]]
Figures = dict[str, Any]


class Measured(Protocol):
    """An engine with a model, all of its threads, and its own way to be asked."""

    def decode(self, streams: int) -> float:
        """New tokens of all streams a second, prompts not counted."""
        ...

    def first_token(self) -> Sequence[float]:
        """Seconds to the first token of a long prompt; where it keeps what it has read, of a longer one after it."""
        ...

    def logits(self, prompt: list[int]) -> npt.NDArray[np.float32]:
        """Of the token after a prompt."""
        ...


def random_prompts(seed: int, streams: int, length: int, tokens: int) -> Prompts:
    """The same as those that `llama.py` makes."""
    found: Prompts = np.random.default_rng(seed).integers(0, tokens - 1, (streams, length)).tolist()
    return found


def measure(side: str, models: Models, cases: Sequence[str], prompts: Prompts, llama: str | None) -> Figures:
    """What one process finds: a figure for each case, and under "logits" what stands after each of the prompts."""
    name, _, kind = side.rpartition("-")
    if name == "llama.cpp":
        return measure_llama(kind, models, cases, prompts, llama)
    engine = ENGINES[name](models, kind)
    figures: Figures = {}
    for case in cases:
        if case == "first-token":
            found = engine.first_token()
            figures |= dict(zip(("first token of 1,500", "20 more"), found, strict=False))
        elif case.startswith("decode-"):
            figures[case] = engine.decode(int(case.removeprefix("decode-")))
    if prompts:
        figures["logits"] = [engine.logits(prompt) for prompt in prompts]
    return figures


def measure_llama(kind: str, models: Models, cases: Sequence[str], prompts: Prompts, python: str | None) -> Figures:
    """Of llama.cpp, by `llama.py`."""
    assert python
    job = {
        "model": models.gguf(kind),
        "threads": cores(),
        "cases": list(cases),
        "decode": {"prompt": PROMPT, "new": NEW},
        "first_token": {"length": LONG, "more": MORE},
        "prompts": prompts,
    }
    command = [python, str(Path(__file__).with_name("llama.py"))]
    done = subprocess.run(command, input=json.dumps(job), stdout=subprocess.PIPE, text=True, check=True)
    figures: Figures = json.loads(done.stdout)
    return figures


def run(
    engine: Engine,
    prompts: Prompts,
    new: int,
    sampling: SamplingParameters,
    tick: Callable[[int], object] = lambda stream: None,
) -> list[Completed]:
    """All prompts at once through our engine, to exactly `new` tokens; `tick` is called with the stream at each."""
    ends: queue.SimpleQueue[Event] = queue.SimpleQueue()

    def deliver(stream: int, event: Event) -> None:
        if isinstance(event, TokenEvent):
            tick(stream)
        else:
            ends.put(event)

    sampling = sampling.model_copy(update={"max_tokens": new, "min_tokens": new})
    for stream, prompt in enumerate(prompts):
        engine.submit(engine.request(prompt, sampling), partial(deliver, stream))
    found = [ends.get() for _ in prompts]
    completed = [end for end in found if isinstance(end, Completed) and end.completion_tokens == new]
    if len(completed) < len(found):
        raise SystemExit(f"expected {new} tokens, got {found}")
    return completed


class Ours:
    """Our engine as a service has it, but for the number of requests at once."""

    def __init__(self, models: Models, precision: str) -> None:
        self._artifact = read_artifact(models.directory)
        self._precision = precision

    def _engine(self, streams: int) -> Engine:
        config = EngineConfig.model_validate({"max_running": streams, "precision": self._precision})
        return Engine(self._artifact.model, self._artifact.encoding, config)

    def decode(self, streams: int, new: int = NEW) -> float:
        """Tokens that came while all streams were decoding, a second: after the last prompt, before the first end."""
        speed = 0.0
        with self._engine(streams) as engine:
            for seed, length in enumerate((min(new, NEW), new)):
                times: list[list[float]] = [[] for _ in range(streams)]
                prompts = random_prompts(seed, streams, PROMPT, self._artifact.encoding.size)
                run(engine, prompts, length, LIKELIEST, partial(_note_time, times))
                began, ended = max(t[0] for t in times), min(t[-1] for t in times)
                speed = sum(began < moment <= ended for t in times for moment in t) / (ended - began)
        return speed

    def first_token(self) -> tuple[float, float]:
        """Seconds to the first token of a long prompt, and of the same with some more tokens after it."""
        with self._engine(1) as engine:
            for seed in range(2):
                [prompt] = random_prompts(seed, 1, LONG + MORE, self._artifact.encoding.size)
                pieces = prompt[:LONG], prompt
                seconds = [run(engine, [piece], 1, LIKELIEST)[0].first_token_seconds for piece in pieces]
        return seconds[0], seconds[1]

    def logits(self, prompt: list[int]) -> npt.NDArray[np.float32]:
        encoding, model = self._artifact.encoding, self._artifact.model
        config = EngineConfig.model_validate({"precision": self._precision, "chunk": max(16, len(prompt))})
        runner = new_runner(model, config, model.config.context // 16, encoding.size, torch.device("cpu"))
        request = Request("", tuple(prompt), SamplingParameters(), 0)
        running = Running(request, lambda event: None, TextStream(encoding, ()), model.config.context)
        running.blocks = list(range(model.config.context // 16))
        found: npt.NDArray[np.float32] = runner.run([Read(running, 0, len(prompt), True)])[0].copy()
        return found


def _note_time(times: list[list[float]], stream: int) -> None:
    times[stream].append(perf_counter())


class Transformers:
    """transformers' `generate` with its cache."""

    def __init__(self, models: Models, precision: str) -> None:
        from transformers import GPT2LMHeadModel

        use_threads()
        self._model = GPT2LMHeadModel.from_pretrained(models.directory, dtype=DTYPES[precision]).eval()
        self._tokens = self._model.config.vocab_size

    def decode(self, streams: int) -> float:
        """Tokens of all streams a second, between the first step's end and the last's."""
        speed = 0.0
        for seed in range(2):
            times = self._generate(random_prompts(seed, streams, PROMPT, self._tokens), NEW)
            speed = streams * (NEW - 1) / (times[-1] - times[1])
        return speed

    def first_token(self) -> tuple[float]:
        for seed in range(2):
            times = self._generate(random_prompts(seed, 1, LONG, self._tokens), 1)
        return (times[1] - times[0],)

    def _generate(self, prompts: Prompts, new: int) -> list[float]:
        """When it was called, and when each step ended."""
        from transformers import StoppingCriteriaList

        ids = torch.tensor(prompts)
        times = [perf_counter()]

        def note(ids: torch.Tensor, scores: object) -> torch.Tensor:
            times.append(perf_counter())
            return torch.zeros(len(ids), dtype=torch.bool)

        self._model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            repetition_penalty=1.0,
            min_new_tokens=new,
            max_new_tokens=new,
            pad_token_id=self._tokens - 1,
            stopping_criteria=StoppingCriteriaList([note]),
        )
        assert len(times) == 1 + new
        return times

    @torch.inference_mode()
    def logits(self, prompt: list[int]) -> npt.NDArray[np.float32]:
        found: npt.NDArray[np.float32] = self._model(torch.tensor([prompt])).logits[0, -1].float().numpy()
        return found


class CTranslate2:
    """CTranslate2, from its own converter's file; integers are made when it is loaded."""

    def __init__(self, models: Models, kind: str) -> None:
        import ctranslate2

        with open(Path(models.ctranslate2) / "vocabulary.json", encoding="utf-8") as file:
            self._names: list[str] = json.load(file)
        self._generator = ctranslate2.Generator(
            models.ctranslate2, device="cpu", compute_type=kind, inter_threads=1, intra_threads=cores()
        )

    def decode(self, streams: int) -> float:
        """Tokens of all streams a second, between the last stream's first token and the end."""
        speed = 0.0
        for seed in range(2):
            times = self._generate(random_prompts(seed, streams, PROMPT, len(self._names)), NEW)
            first = times[streams - 1]
            speed = streams * (NEW - 1) / (times[-1] - first)
        return speed

    def first_token(self) -> tuple[float]:
        for seed in range(2):
            prompts = random_prompts(seed, 1, LONG, len(self._names))
            began = perf_counter()
            times = self._generate(prompts, 1)
        return (times[0] - began,)

    def _generate(self, prompts: Prompts, new: int) -> list[float]:
        """When each token came, of all streams."""
        times: list[float] = []

        def note(step: object) -> bool:
            times.append(perf_counter())
            return False

        self._generator.generate_batch(
            [[self._names[token] for token in prompt] for prompt in prompts],
            max_length=new,
            min_length=new,
            sampling_topk=1,
            include_prompt_in_result=False,
            callback=note,
        )
        assert len(times) == len(prompts) * new
        return times

    def logits(self, prompt: list[int]) -> npt.NDArray[np.float32]:
        found: npt.NDArray[np.float32] = np.array(self._generator.forward_batch([prompt]))[0, -1]
        return found


ENGINES: dict[str, Callable[[Models, str], Measured]] = {
    "ours": Ours,
    "transformers": Transformers,
    "ctranslate2": CTranslate2,
}
