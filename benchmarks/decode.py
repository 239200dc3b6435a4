"""Claim: on a CPU the engine decodes GPT-2 of 124M parameters faster than others at the same precision.

Peers: llama.cpp (weights in fp16 and q8_0, compiled for this machine), CTranslate2 (float32 and int8), and
`transformers` (`generate`, fp32 and bf16), with the same random weights, the likeliest token always, on every core.
Each side is a new process, in turns; it does everything once to warm up and once for the clock. OMP_WAIT_POLICY, which
says whether waiting threads of libraries spin, is left as it is and printed: on a machine that does nothing else they
are faster without it, on a busy one several times slower.

`decode-N`: N streams of 32 random tokens are continued by 128, and the prompts are not on the clock. It runs for ours
while every stream is decoding, from the last stream's first token to the first stream's end; for transformers between
the ends of the first and the last step; for CTranslate2 from the last stream's first token to the end, by its callback;
for llama.cpp over the steps, each a batch of one token of every stream, after all prompts were read.
`first-token`: seconds until a prompt of 1,500 tokens has its first token, and until the same prompt with 20 tokens more
has one: ours finds the first in its cache, llama.cpp is called with the 20 alone, the others have no such thing.
`logits`: how far logits are from those of float64, for the random weights and for the package's own model on pages of a
book: the relative L2 error of logits less their mean, and how often the likeliest token is another.

llama.cpp needs an environment of its own, in which it is compiled for some minutes by cmake and a C++ compiler:

    python3 -m venv VENV && CMAKE_ARGS="-DGGML_NATIVE=ON" VENV/bin/pip install llama-cpp-python

    .venv/bin/python benchmarks/decode.py --llama-python VENV/bin/python [--rounds 5] [--sides ...] [--cases ...]
"""

import os
import tempfile
from collections.abc import Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import tyro
from measure import alone, in_turns, note, print_header, print_machine, print_row, ratios, spread
from models import Models, write_models
from peers import Figures, Prompts, measure, random_prompts

from victorian.artifact import PRETRAINED, find_artifact, read_artifact
from victorian.config import Recipe
from victorian.model.gpt2 import GPT
from victorian.recipes import GPT2_124M

SIDES = (
    "ours-fp32", "ctranslate2-float32", "transformers-fp32",
    "ours-bf16", "llama.cpp-fp16", "transformers-bf16",
    "ours-int8", "llama.cpp-q8_0", "ctranslate2-int8",
)  # fmt: skip
CASES = ("decode-1", "decode-16", "first-token", "logits")
EQUALS = {
    "ours-fp32": ("ctranslate2-float32", "transformers-fp32"),
    "ours-bf16": ("llama.cpp-fp16", "transformers-bf16"),
    "ours-int8": ("llama.cpp-q8_0", "ctranslate2-int8"),
}
"""Whom each of ours is compared with."""
PAGES, PAGE = 16, 300
"""Prompts for the logits, and tokens of each."""


def random_model() -> tuple[GPT, Recipe]:
    model = GPT(GPT2_124M.model)
    model.initialize(seed=0)
    return model, GPT2_124M


def trained_model() -> tuple[GPT, Recipe]:
    artifact = read_artifact(find_artifact(PRETRAINED))
    return artifact.model, artifact.recipe


def pages(models: Models) -> Prompts:
    """Beginnings of pages of a book that the trained model has not read."""
    encoding = read_artifact(models.directory).encoding
    book = next((files("victorian") / "corpus" / "sample" / "validation").iterdir()).read_text()
    ids = [int(token) for token in encoding.encode(book)]
    return [ids[page * 150 : page * 150 + PAGE] for page in range(PAGES)]


def exact_logits(models: Models, prompts: Prompts) -> list[npt.NDArray[np.float64]]:
    """In float64, by the network as it is written."""
    model = read_artifact(models.directory).model.double()
    with torch.no_grad():
        return [model(torch.tensor([prompt]))[0, -1].numpy() for prompt in prompts]


def compare_logits(what: str, models: Models, prompts: Prompts, sides: Sequence[str], llama: str | None) -> None:
    """Print how far each side's logits are from exact ones."""
    exact = alone(exact_logits, models, prompts)
    print_header(f"logits, {what}", "error", "largest", "likeliest token is another")
    for side in sides:
        note(f"logits of {side}")
        found = alone(measure, side, models, (), prompts, llama)["logits"]
        errors, wrong = [], 0
        for ours, reference in zip(found, exact, strict=True):
            off, size = np.asarray(ours, np.float64) - reference, reference - reference.mean()
            errors.append(float(np.linalg.norm(off - off.mean()) / np.linalg.norm(size)))
            wrong += int(np.argmax(ours) != reference.argmax())
        print_row(side, f"{np.mean(errors):.1e}", f"{max(errors):.1e}", f"{wrong} of {len(prompts)}")


def title(column: str) -> str:
    """Of a figure, with its unit."""
    if column.startswith("decode-"):
        return f"tokens/s, streams: {column.removeprefix('decode-')}"
    return f"{column}, s"


def report_speed(found: dict[str, list[Figures]], rounds: int) -> None:
    """Print what each side did, and how many times as fast as its equals ours are."""
    columns = list(dict.fromkeys(column for runs in found.values() for column in runs[0]))
    print_header(f"125M parameters, median of {rounds}", *map(title, columns))
    for side, runs in found.items():
        cells = [f"{spread(run[column] for run in runs):.4g}" if column in runs[0] else "" for column in columns]
        print_row(side, *cells)
    print_header("times as fast", *columns)
    for ours, equals in EQUALS.items():
        for theirs in equals:
            if ours not in found or theirs not in found:
                continue
            cells = []
            for column in columns:
                pair = [[run[column] for run in found[side] if column in run] for side in (ours, theirs)]
                pair = pair if column.startswith("decode") else pair[::-1]  # the others are seconds
                cells.append(f"{ratios(*pair):.2f}" if all(pair) else "")
            print_row(f"{ours} / {theirs}", *cells)


def main(
    rounds: int = 5,
    sides: tuple[str, ...] = SIDES,
    cases: tuple[str, ...] = CASES,
    llama_python: str | None = None,
) -> None:
    """Measure decoding against other engines.

    Args:
        rounds: Runs of each side for each speed.
        sides: Of the engines, with their precisions.
        cases: decode-N for any number of streams, first-token, logits.
        llama_python: Python of the environment that has llama-cpp-python; without it, llama.cpp is left out.
    """
    if unknown := [side for side in sides if side not in SIDES]:
        raise SystemExit(f"expected sides of {', '.join(SIDES)}, got {', '.join(unknown)}")
    if unknown := [case for case in cases if case not in CASES and not case.removeprefix("decode-").isdecimal()]:
        raise SystemExit(f"expected cases of {', '.join(CASES)}, got {', '.join(unknown)}")
    if llama_python is None:
        note("llama.cpp is left out: give --llama-python")
        sides = tuple(side for side in sides if not side.startswith("llama.cpp"))
    speeds = tuple(case for case in cases if case != "logits")
    print_machine()
    print(f"OMP_WAIT_POLICY: {os.environ.get('OMP_WAIT_POLICY', 'not set')}.", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        models = write_models(Path(folder) / "random", *random_model(), sides)
        if speeds:
            work = {side: partial(alone, measure, side, models, speeds, [], llama_python) for side in sides}
            report_speed(in_turns(work, rounds), rounds)
        if "logits" in cases:
            prompts = random_prompts(5, PAGES, PAGE, GPT2_124M.tokens.ranks)
            compare_logits("random weights of 125M, random tokens", models, prompts, sides, llama_python)
            trained = write_models(Path(folder) / "trained", *trained_model(), sides)
            compare_logits("package's own model, a book", trained, pages(trained), sides, llama_python)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
