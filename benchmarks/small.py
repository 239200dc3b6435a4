"""Claim: two hours of the recipe `small` on a laptop give a model whose prose can be read. Peer: none here.

It makes the model that comes with the package, with the commands that anybody would type: `victorian prepare`, `train`,
`export`, `evaluate` and `generate`. Test books are scored as the model was trained, cleaned, and once more as they were
found, which is how PG19's perplexity per word is published. The passages are the first that three fixed seeds give. Run
again with the same output folder it goes on where it was, or finds that all is there.

    .venv/bin/python benchmarks/small.py --corpus DIR --output DIR [--seconds 7000] [--workers 2]
"""

import math
from pathlib import Path

import tyro
from measure import print_header, print_machine, print_row, victorian

from victorian.artifact import TrainingRecord, read_record
from victorian.cluster.evaluate import Evaluation
from victorian.demo import PASSAGE
from victorian.recipes import SMALL

LOOKS = [
    "--training.validation-every-steps=100", "--training.validation-tokens=32768",
    "--training.checkpoint-every-steps=100",
]  # fmt: skip
PROMPTS = ("The old house stood", "It was a dark night", '"My dear," said Mrs.')


def report(record: TrainingRecord, scores: dict[str, Evaluation]) -> None:
    """Print what the training was, and how well its model predicts books that it has not seen."""
    print_machine()
    print_header(f"`{SMALL.name}`", "figure")
    print_row("steps", f"{record.step:,}")
    print_row("seconds in steps", f"{record.seconds:,.0f}")
    print_row("training tokens", f"{record.tokens:,}")
    print_row("tokens/s", f"{record.tokens / record.seconds:,.0f}")
    print_row("training loss, running mean, nats a token", f"{record.loss:.4f}")
    if record.validation_loss is not None:
        print_row("validation loss, nats a token", f"{record.validation_loss:.4f}")
    print_header("test books", "tokens", "nats a token", "bits per byte", "perplexity per word")
    for name, score in scores.items():
        figures = (f"{score.loss:.4f}", f"{score.bits_per_byte:.4f}", f"{score.word_perplexity or math.inf:,.1f}")
        print_row(name, f"{score.tokens:,}", *figures)


def write(artifact: str, prompt: str, seed: int) -> str:
    """A passage by a command that the table of figures can name."""
    sampling = PASSAGE.model_dump(exclude={"seed", "stop"}) | {"seed": seed}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in sampling.items()]
    return victorian("generate", prompt, "--artifact", artifact, *flags)


def main(corpus: str, output: Path, seconds: float = 7_000, workers: int = 2) -> None:
    """Train `small` and say what came of it.

    Args:
        corpus: A folder in PG19's layout or of .txt files.
        output: Folder for the shards, the run and the model; the same again goes on with it.
        seconds: Seconds of training.
        workers: Processes that share the scoring of the test books.
    """
    data, as_found, run, model = (str(output / name) for name in ("data", "as-found", "run", "model"))
    victorian("prepare", corpus, "--output", data, "--recipe", SMALL.name)
    victorian("prepare", corpus, "--output", as_found, "--recipe", SMALL.name, "--cleaning.no-held-out")
    budget = f"--training.seconds={seconds}"
    victorian("train", "--data", data, "--run", run, "--recipe", SMALL.name, budget, *LOOKS)
    artifact = f"{run}/artifact"
    victorian("export", artifact, "--output", model)

    def score(judged: str, books: str) -> Evaluation:
        shared = ["--workers", str(workers), "--json"]
        return Evaluation.model_validate_json(victorian("evaluate", judged, "--data", books, *shared))

    scores = {
        "cleaned, weights in fp32": score(artifact, data),
        "cleaned, weights in bf16": score(model, data),
        "as found, weights in bf16": score(model, as_found),
    }
    report(read_record(artifact), scores)
    print(f"\nPassages: temperature {PASSAGE.temperature}, top-k {PASSAGE.top_k}, top-p {PASSAGE.top_p}.")
    for seed, prompt in enumerate(PROMPTS, start=PASSAGE.seed or 0):
        print(f"\n```text\n{write(model, prompt, seed).strip()}\n```")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
