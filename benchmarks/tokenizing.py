"""Claim: `victorian prepare` tokenizes faster than one process of plain tiktoken, once the corpus outweighs its start.

Peer: tiktoken's `encode_ordinary`, a book at a time on one thread, with the same 50,256 ranks over the same cleaned
text; only these calls are timed, not reading, not cleaning, not building the encoding, and nothing is written. Ours
is the whole call of `cluster.prepare.prepare` on every core: finding, reading and cleaning books, encoding them,
writing parts and shards with their hashes. The start of Ray is timed apart. Each run is a process of its own with a
fresh output folder, in turns; both sides must find the same number of tokens.

    .venv/bin/python benchmarks/tokenizing.py --corpus DIR [--runs N]
"""

import tempfile
from dataclasses import dataclass
from functools import partial
from time import perf_counter

import tiktoken
import tyro
from measure import alone, in_turns, print_header, print_machine, print_row, ratios, spread
from tiktoken_ext.openai_public import r50k_pat_str

from victorian.config import TokensConfig
from victorian.corpus.cleaning import clean
from victorian.corpus.selection import reason_to_drop
from victorian.corpus.sources import find_books, read_book
from victorian.device import cores
from victorian.tokens.bpe import get_encoding

TOKENS = TokensConfig()
OURS, PEER = "`prepare` (Ray Data)", "tiktoken, 1 thread"


@dataclass(frozen=True)
class TokenizingRun:
    """What one process measured. Tokens are without `<|endoftext|>`, bytes are of cleaned text."""

    tokens: int
    bytes: int
    seconds: float
    before: float
    """Seconds before the clock was started: Ray for us, reading, cleaning and the encoding for the peer."""
    first_part: float = 0.0
    """Seconds of ours until the first unit of books was tokenized."""


def prepare_with_ray(corpus: str) -> TokenizingRun:
    """The whole call of `prepare`."""
    from victorian.cluster.session import session

    began = perf_counter()
    with tempfile.TemporaryDirectory(prefix="victorian-tokens-") as output, session():
        from victorian.cluster.prepare import PrepareProgress, prepare

        parts: list[float] = []

        def progress(_: PrepareProgress) -> None:
            parts.append(perf_counter())

        start = perf_counter()
        splits = prepare(corpus, output, TOKENS, progress=progress).manifest.splits.values()
        seconds = perf_counter() - start
    return TokenizingRun(
        tokens=sum(split.tokens - len(split.books) for split in splits),
        bytes=sum(split.bytes for split in splits),
        seconds=seconds,
        before=start - began,
        first_part=parts[0] - start,
    )


def encode_plainly(corpus: str) -> TokenizingRun:
    """tiktoken itself, built from the same ranks."""
    began = perf_counter()
    ours = get_encoding(TOKENS.ranks)
    ranks = {ours.token_bytes(rank): rank for rank in range(ours.ranks)}
    encoding = tiktoken.Encoding("gpt2", pat_str=r50k_pat_str, mergeable_ranks=ranks, special_tokens={})
    tokens = size = 0
    seconds = 0.0
    for reference in find_books(corpus):
        text = clean(read_book(reference).text)
        if reason_to_drop(text):
            continue
        start = perf_counter()
        ids = encoding.encode_ordinary(text)
        seconds += perf_counter() - start
        tokens += len(ids)
        size += len(text.encode())
    return TokenizingRun(tokens, size, seconds, before=perf_counter() - began - seconds)


def main(corpus: str, runs: int = 3) -> None:
    """Measure tokenizing against plain tiktoken.

    Args:
        corpus: A folder in PG19's layout or of .txt files, or `sample` for the books in the package.
        runs: Runs of each side.
    """
    sides = {OURS: partial(alone, prepare_with_ray, corpus), PEER: partial(alone, encode_plainly, corpus)}
    found = in_turns(sides, runs)
    counts = {(run.tokens, run.bytes) for results in found.values() for run in results}
    if len(counts) != 1:
        raise SystemExit(f"the sides tokenized different text: tokens and bytes {sorted(counts)}")
    tokens, size = counts.pop()
    print_machine()
    title = f"{tokens:,} tokens, {size / 1e6:.1f} MB, median of {runs}"
    print_header(title, "processes", "seconds", "tokens/s", "MB/s", "not counted: seconds before")
    for side, results in found.items():
        print_row(
            side,
            cores() if side == OURS else 1,
            f"{spread(run.seconds for run in results):.1f}",
            f"{spread(tokens / run.seconds for run in results):,.0f}",
            f"{spread(size / 1e6 / run.seconds for run in results):.1f}",
            f"{spread(run.before for run in results):.1f}",
        )
    speeds = {side: [run.tokens / run.seconds for run in results] for side, results in found.items()}
    print_row("ratio of tokens/s, ours : tiktoken", "", "", f"{ratios(speeds[OURS], speeds[PEER]):.2f}", "", "")
    print(f"\nThe first unit of ours was done after {spread(run.first_part for run in found[OURS]):.1f} s.")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
