"""Claim: an hour of the recipe `small` on a laptop gives a model whose prose can be read. Peer: none here.

Trains it with the commands that anybody would type, `victorian prepare`, `train`, `evaluate` and `generate`, and
prints what came of it. Run again with the same output folder it goes on where it was, or finds that all is there.
`compression.py` compares the artifact with xz.

    .venv/bin/python benchmarks/small.py --corpus DIR --output DIR [--seconds 3600]
"""

from pathlib import Path

import tyro
from measure import print_header, print_machine, print_row, victorian

from victorian.artifact import TrainingRecord, read_record
from victorian.cluster.evaluate import Evaluation
from victorian.demo import PASSAGE, PROMPT
from victorian.recipes import SMALL


def report(record: TrainingRecord, evaluation: Evaluation, passage: str) -> None:
    """Print the table and the passage."""
    print_machine()
    print_header(f"`{SMALL.name}`", "figure")
    print_row("steps", f"{record.step:,}")
    print_row("seconds in steps", f"{record.seconds:,.0f}")
    print_row("training tokens", f"{record.tokens:,}")
    print_row("tokens/s", f"{record.tokens / record.seconds:,.0f}")
    print_row("training loss, running mean, nats a token", f"{record.loss:.4f}")
    if record.validation_loss is not None:
        print_row("validation loss, nats a token", f"{record.validation_loss:.4f}")
    print_row("test loss, nats a token", f"{evaluation.loss:.4f}")
    print_row("test bits per byte", f"{evaluation.bits_per_byte:.4f}")
    print_row("test perplexity per word", f"{evaluation.word_perplexity:,.1f}")
    print_row("test tokens scored", f"{evaluation.tokens:,}")
    sampling = f"temperature {PASSAGE.temperature}, top-k {PASSAGE.top_k}, top-p {PASSAGE.top_p}, seed {PASSAGE.seed}"
    print(f"\nA passage ({sampling}):\n")
    print(f"```text\n{passage.strip()}\n```")


def main(corpus: str, output: Path, seconds: float = 3_600) -> None:
    """Train `small` and say what came of it.

    Args:
        corpus: A folder in PG19's layout or of .txt files.
        output: Folder for the shards and the run; the same again goes on with it.
        seconds: Seconds of training.
    """
    data, run = str(output / "data"), str(output / "run")
    victorian("prepare", corpus, "--output", data, "--recipe", SMALL.name)
    budget = ["--training.seconds", str(seconds)]
    victorian("train", "--data", data, "--run", run, "--recipe", SMALL.name, *budget)
    artifact = f"{run}/artifact"
    evaluation = Evaluation.model_validate_json(victorian("evaluate", artifact, "--data", data, "--json"))
    sampling = {
        "temperature": PASSAGE.temperature,
        "top-k": PASSAGE.top_k,
        "top-p": PASSAGE.top_p,
        "repetition-penalty": PASSAGE.repetition_penalty,
        "max-tokens": PASSAGE.max_tokens,
        "seed": PASSAGE.seed,
    }
    flags = [text for name, value in sampling.items() for text in (f"--{name}", str(value))]
    report(read_record(artifact), evaluation, victorian("generate", PROMPT, "--artifact", artifact, *flags))


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
