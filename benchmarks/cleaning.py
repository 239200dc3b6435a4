"""Claim: cleaning and selection cost less than tokenizing, and leave fewer tokens for the same words. Peer: tiktoken.

Every step alone, then all of them as `prepare` has them, over every N-th book of a corpus in this process on one
thread: MB of source text a second, and the tokens of the full GPT-2 encoding after it as a share of those before. The
speed of tiktoken on the same texts and thread stands beside. Each figure is the median of the runs.

    .venv/bin/python benchmarks/cleaning.py --corpus DIR [--every 6] [--runs 3]
"""

from collections.abc import Callable
from time import perf_counter

import tyro
from measure import print_header, print_machine, print_row, spread

from victorian.config import CleaningConfig, SelectionConfig
from victorian.corpus.cleaning import clean
from victorian.corpus.decoding import decode
from victorian.corpus.selection import reason_to_drop
from victorian.corpus.sketch import sketch
from victorian.corpus.sources import find_books, read_bytes
from victorian.corpus.words import count_words
from victorian.tokens.bpe import get_encoding

OFF = CleaningConfig(boilerplate=False, transcriber_notes=False, damage=False, typography=False, join_lines=False)
STEPS = ("damage", "boilerplate", "transcriber_notes", "join_lines", "typography")


def timed(runs: int, work: Callable[[], object]) -> list[float]:
    """Seconds of every run."""
    seconds = []
    for _ in range(runs):
        began = perf_counter()
        work()
        seconds.append(perf_counter() - began)
    return seconds


def main(corpus: str, every: int = 6, runs: int = 3) -> None:
    """Measure every step of cleaning.

    Args:
        corpus: A folder in PG19's layout or of .txt files.
        every: Take one book in so many.
        runs: Runs of each step.
    """
    encoding = get_encoding(50_256)
    files = [read_bytes(book) for book in find_books(corpus).books[::every]]
    texts = [decode(data, "repair").text for data in files]
    megabytes = sum(map(len, files)) / 1e6
    reason_to_drop(texts[0], None, SelectionConfig())  # loads the model of languages

    def tokens(config: CleaningConfig) -> int:
        return sum(len(encoding.encode(clean(text, config))) for text in texts)

    def speed(work: Callable[[str], object]) -> str:
        return f"{spread(megabytes / seconds for seconds in timed(runs, lambda: [work(t) for t in texts])):.0f}"

    print_machine()
    print_header(
        f"{len(files)} books, {megabytes:.1f} MB, median of {runs}", "MB/s, one thread", "tokens after : before"
    )
    before = tokens(OFF)
    for step in STEPS:
        config = OFF.model_copy(update={step: True})
        print_row(step, speed(lambda text, config=config: clean(text, config)), f"{tokens(config) / before:.4f}")
    print_row(
        "**all of cleaning**",
        speed(lambda text: clean(text, CleaningConfig())),
        f"{tokens(CleaningConfig()) / before:.4f}",
    )
    print_row("selection", speed(lambda text: reason_to_drop(text, None, SelectionConfig())), "")
    print_row("sketch, to compare books", speed(sketch), "")
    print_row("counting words", speed(count_words), "")
    print_row("tiktoken", speed(encoding.encode), "")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
