"""The engine writes what others write with the same weights: transformers, CTranslate2 and llama.cpp, greedily.

Two models: the package's own, and one of random weights whose context is long. With every token goes its
log-probability, so that agreement is not the luck of large margins.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from transformers import GPT2LMHeadModel

from tests.conftest import TOY
from victorian.artifact import Artifact, find_artifact, new_record, read_artifact, write_artifact, write_gguf
from victorian.config import EngineConfig, ModelConfig, SamplingParameters
from victorian.engine.engine import Engine
from victorian.engine.request import Failed, TokenEvent
from victorian.model.gguf import Weights
from victorian.model.gpt2 import GPT
from victorian.recipes import GPT2_124M

Answer = list[list[tuple[int, float | None]]]
"""For each prompt the tokens of another engine with their log-probabilities, where it tells them."""

NEW = 16
PROMPTS = 20
LONG = ModelConfig(layers=2, channels=128, heads=2, context=2048, vocabulary=513, dropout=0.0)


@dataclass(frozen=True)
class Case:
    """A model, as a directory without padding rows, which CTranslate2 refuses; and prompts for it."""

    artifact: Artifact
    prompts: list[list[int]]


@dataclass(frozen=True)
class Step:
    """A token that our engine has drawn."""

    token: int
    logprob: float
    margin: float
    """To the log-probability of the second likeliest."""


def lengths(most: int) -> list[int]:
    """Prompts of 5 to `most` tokens."""
    return [5 + i * (most - 5) // (PROMPTS - 1) for i in range(PROMPTS)]


def packages_own(folder: Path) -> Case:
    """The model of this package, on pages of a book that it has not read."""
    artifact = read_artifact(find_artifact("pretrained"))
    shape = artifact.recipe.model.model_copy(update={"vocabulary": artifact.encoding.size})
    model = GPT(shape)
    state = artifact.model.state_dict()
    model.load_state_dict(state | {"token_embedding.weight": state["token_embedding.weight"][: shape.vocabulary]})
    write_artifact(str(folder), model, artifact.recipe.model_copy(update={"model": shape}), artifact.record)
    book = next((files("victorian") / "corpus" / "sample" / "validation").iterdir()).read_text()
    ids = [int(i) for i in artifact.encoding.encode(book)]
    prompts = [ids[i * 100 : i * 100 + length] for i, length in enumerate(lengths(shape.context - NEW))]
    return Case(read_artifact(str(folder)), prompts)


def long_one(folder: Path) -> Case:
    """Random weights, large enough for the text to wander, and random prompts."""
    recipe = GPT2_124M.model_copy(update={"model": LONG, "tokens": TOY.tokens})
    model = GPT(LONG)
    model.initialize(0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    record = new_record(recipe, step=0, seconds=0, loss=None, validation_loss=None, data_sha256="")
    write_artifact(str(folder), model, recipe, record)
    prompts = [torch.randint(512, (length,), generator=generator).tolist() for length in lengths(1500)]
    return Case(read_artifact(str(folder)), prompts)


MAKE: dict[str, Callable[[Path], Case]] = {"package's own": packages_own, "long": long_one}


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    folder = tmp_path_factory.mktemp("peers")
    return {name: make(folder / name) for name, make in MAKE.items()}


@pytest.fixture(scope="module")
def ours(cases: dict[str, Case]) -> dict[str, list[list[Step]]]:
    """What our engine writes after each prompt, all prompts of a case side by side."""
    return {name: written(case) for name, case in cases.items()}


def written(case: Case, at_once: int = PROMPTS, kernels: str = "auto") -> list[list[Step]]:
    """What our engine writes, with so many requests at once."""
    config = EngineConfig.model_validate({"max_running": PROMPTS, "precision": "fp32", "kernels": kernels})
    greedy = SamplingParameters(temperature=0, repetition_penalty=1, max_tokens=NEW)
    with Engine(case.artifact.model, case.artifact.encoding, config) as engine, ThreadPoolExecutor(at_once) as pool:

        def steps(prompt: list[int]) -> list[Step]:
            found = []
            for event in engine.stream(engine.request(prompt, greedy, logprobs=2)):
                assert not isinstance(event, Failed), event.message
                if isinstance(event, TokenEvent) and event.logprob is not None:
                    (_, first), (_, second) = event.likeliest
                    found.append(Step(event.token, event.logprob, first - second))
            return found

        return list(pool.map(steps, case.prompts))


def agreement(ours: list[list[Step]], theirs: Answer, tolerance: float) -> float:
    """The same log-probabilities as far as the tokens are the same, and the same tokens as far as there is no tie.

    Args:
        tolerance: largest difference of two log-probabilities.

    Returns:
        The share of tokens that are the same before a tie.
    """
    same = total = 0
    for mine, other in zip(ours, theirs, strict=True):
        assert len(mine) == len(other)
        total += len(mine)
        for step, (token, logprob) in zip(mine, other, strict=True):
            if step.token != token:
                assert step.margin < 2 * tolerance
                break  # they write different texts from here on
            same += 1
            assert logprob is None or logprob == pytest.approx(step.logprob, abs=tolerance)
    return same / total


def transformers_answer(case: Case) -> Answer:
    model = GPT2LMHeadModel.from_pretrained(case.artifact.uri).eval()
    answer: Answer = []
    for prompt in case.prompts:
        output = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False,
            repetition_penalty=1.0,
            max_new_tokens=NEW,
            pad_token_id=case.artifact.encoding.end_of_text,
            output_logits=True,
            return_dict_in_generate=True,
        )
        tokens = output.sequences[0, len(prompt) :].tolist()
        logprobs = torch.cat(output.logits).log_softmax(-1)
        answer.append([(token, float(row[token])) for token, row in zip(tokens, logprobs, strict=True)])
    return answer


def answers_of(peer: str, jobs: list[dict[str, object]]) -> list[Answer]:
    """What another engine writes, in a process of its own."""
    command = [sys.executable, str(Path(__file__).with_name("peer.py")), peer]
    done = subprocess.run(command, input=json.dumps(jobs), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    answers: list[Answer] = json.loads(done.stdout)
    return answers


@pytest.mark.parametrize("name", MAKE)
def test_transformers_writes_the_same(cases: dict[str, Case], ours: dict[str, list[list[Step]]], name: str) -> None:
    answer = transformers_answer(cases[name])
    assert [[token for token, _ in row] for row in answer] == [[step.token for step in row] for row in ours[name]]
    assert agreement(ours[name], answer, 1e-4) == 1


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize(("at_once", "kernels"), [(1, "auto"), (3, "torch")])
def test_alone_or_among_others_with_any_kernels_the_engine_writes_the_same(
    cases: dict[str, Case], ours: dict[str, list[list[Step]]], name: str, at_once: int, kernels: str
) -> None:
    again = written(cases[name], at_once, kernels)
    answer: Answer = [[(step.token, step.logprob) for step in row] for row in again]
    assert agreement(ours[name], answer, 1e-4) == 1


@pytest.mark.slow
def test_ctranslate2_writes_the_same(cases: dict[str, Case], ours: dict[str, list[list[Step]]]) -> None:
    jobs = [{"model": case.artifact.uri, "prompts": case.prompts, "new": NEW} for case in cases.values()]
    for name, answer in zip(cases, answers_of("ctranslate2", jobs), strict=True):
        assert agreement(ours[name], answer, 1e-4) > 0.95


@pytest.mark.slow
def test_llama_cpp_writes_the_same_with_our_files(
    cases: dict[str, Case], ours: dict[str, list[list[Step]]], tmp_path: Path
) -> None:
    """Even with weights in fp32 it takes GELU from a table of halves; in q8_0 it rounds what it multiplies too."""
    asked: list[tuple[str, Weights, float, float]] = [
        ("package's own", "fp32", 0.02, 0.95),
        ("long", "fp32", 0.02, 0.95),
        ("package's own", "q8_0", 0.4, 0.8),
    ]
    jobs: list[dict[str, object]] = []
    for name, weights, _, _ in asked:
        file = str(tmp_path / f"{len(jobs)}.gguf")
        write_gguf(file, cases[name].artifact, weights)
        jobs.append({"model": file, "prompts": cases[name].prompts, "new": NEW})
    for (name, _, tolerance, least), answer in zip(asked, answers_of("llama.cpp", jobs), strict=True):
        assert agreement(ours[name], answer, tolerance) > least


def test_llama_cpp_reads_text_as_we_do(cases: dict[str, Case], tmp_path: Path) -> None:
    """The same ids for a text: it is continued as its ids are."""
    case = cases["package's own"]
    text = "“Well, ” said Mrs. Gamp—and  she'd 3,000 reasons;\n\n\tnaïve café, £5, 日本, isn't it?"
    file = str(tmp_path / "own.gguf")
    write_gguf(file, case.artifact, "bf16")
    ids = [int(i) for i in case.artifact.encoding.encode(text)]
    [answer] = answers_of("llama.cpp", [{"model": file, "prompts": [text, ids, ids[1:]], "new": NEW}])
    assert answer[0] == answer[1] != answer[2]
