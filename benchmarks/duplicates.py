"""Claim: a sketch costs little beside tokenizing, and finds editions and held-out text without naming other books.

Peer, for speed: plain tiktoken's `encode_ordinary` on one thread, on the same texts, in turns. For what is found there
is none: the truth is known, because editions are made here from the corpus's own training books, each by one change,
and exact similarities come from plain sets of all shingles. A made-up edition counts as found if it or its book is
left out for the sake of the other; whatever else is left out is counted as wrong. Text of held-out books is planted in
training books in the same way, then looked for in the corpus as it is.

    .venv/bin/python benchmarks/duplicates.py --corpus DIR [--books 20] [--runs 5]
"""

import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from time import perf_counter

import numpy as np
import psutil
import tiktoken
import tyro
from editions import Pair, editions_of, paragraphs, planted
from measure import alone, in_turns, note, print_header, print_machine, print_row, ratios, spread
from tiktoken_ext.openai_public import r50k_pat_str

from victorian.config import SelectionConfig
from victorian.corpus.duplicates import Editions, HeldOut
from victorian.corpus.sketch import SHINGLE_WORDS, Sketch, pack_sketch, sketch, unpack_sketch
from victorian.corpus.sources import find_books, read_many
from victorian.tokens.bpe import get_encoding

THRESHOLDS = (0.7, 0.5, 0.4, 0.3)
SPEED_CHARACTERS = 10_000_000
LEAST_PARAGRAPHS = 200
PG19_BOOKS, PG19_HELD_OUT, PG19_HASHES = 28_602, 150, 1100
"""Books of PG19 for training and held out, and hashes in the sketch of one of 70,000 words."""


@dataclass(frozen=True)
class Book:
    """A book of the corpus and its sketch."""

    id: str
    text: str
    words: int
    sketch: Sketch


def jaccard(pair: Pair) -> float:
    """Exact, from plain sets of words in a row."""
    one, other = (_shingles(text) for text in pair)
    return len(one & other) / len(one | other)


def _shingles(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"[^\W_]+", text.lower())
    return set(zip(*(words[place:] for place in range(SHINGLE_WORDS)), strict=False))


def look_for(pairs: Mapping[str, Pair], training: Iterable[Book], threshold: float) -> tuple[int, int]:
    """Made-up editions that are found among the training books, and books left out that should not be."""
    editions = Editions(threshold)
    for book in training:
        if book.id not in pairs:
            editions.add(book.id, book.words, book.sketch)
    for book_id, pair in pairs.items():
        for name, text in zip((book_id, f"{book_id}*"), pair, strict=True):
            editions.add(name, len(text.split()), sketch(text))
    found = [(duplicate.id.rstrip("*"), duplicate.of.rstrip("*")) for duplicate in editions.duplicates()]
    right = sum(book_id == of for book_id, of in found)
    return right, len(found) - right


def measure_speed(texts: Sequence[str], runs: int) -> None:
    """The table of speeds."""
    ours = get_encoding(50_256)
    ranks = {ours.token_bytes(rank): rank for rank in range(ours.ranks)}
    plain = tiktoken.Encoding("gpt2", pat_str=r50k_pat_str, mergeable_ranks=ranks, special_tokens={})
    megabytes = sum(len(text.encode()) for text in texts) / 1e6

    def speed(function: Callable[[str], object]) -> float:
        function(texts[0])
        began = perf_counter()
        for text in texts:
            function(text)
        return megabytes / (perf_counter() - began)

    sides = {"sketch": partial(speed, sketch), "tiktoken, 1 thread": partial(speed, plain.encode_ordinary)}
    results = in_turns(sides, runs)
    packed = sum(len(pack_sketch(sketch(text))) for text in texts)
    print_header(f"{megabytes:.1f} MB, one thread", "MB/s")
    for name, speeds in results.items():
        print_row(name, f"{spread(speeds):.1f}")
    print_row("sketch, times tiktoken", f"{ratios(*results.values()):.1f}")
    print_row("packed sketches, share of the text's bytes", f"{packed / megabytes / 1e6:.2%}")


def measure_editions(chosen: Sequence[Book], training: Sequence[Book]) -> None:
    """The table of made-up editions."""
    kinds: dict[str, dict[str, Pair]] = {}
    taken = {book.id for book in chosen}
    spare = [book for book in training if book.id not in taken]
    for number, book in enumerate(chosen):
        note(f"editions of {book.id}")
        others = [other.text for other in spare[5 * number : 5 * number + 5]]
        for kind, pair in editions_of(book.text, others, random.Random(number)).items():
            kinds.setdefault(kind, {})[book.id] = pair
    titles = [f"found at {threshold}" for threshold in THRESHOLDS]
    print_header(f"{len(chosen)} books among {len(training)}", "exact Jaccard", *titles, "wrong")
    for kind, pairs in kinds.items():
        note(kind)
        counts = [look_for(pairs, training, threshold) for threshold in THRESHOLDS]
        exact = spread(jaccard(pair) for pair in pairs.values())
        print_row(kind, f"{exact:.2f}", *(right for right, _ in counts), max(wrong for _, wrong in counts))
    plain = [look_for({}, training, threshold) for threshold in THRESHOLDS]
    print_row("the corpus as it is", "", *(0 for _ in plain), max(wrong for _, wrong in plain))


def measure_overlaps(chosen: Sequence[Book], training: Sequence[Book], held_out: Sequence[Book]) -> None:
    """The table of planted text, and what the corpus itself holds."""
    least = SelectionConfig().held_out_overlap or 0.05
    kinds: dict[str, list[tuple[float, float]]] = {}
    for number, book in enumerate(chosen):
        note(f"text planted in {book.id}")
        theirs = held_out[number % len(held_out)].text
        for kind, (their_text, our_text) in planted(book.text, theirs, random.Random(number)).items():
            index = HeldOut()
            for other in held_out:
                if other.text is not theirs:
                    index.add(other.id, other.sketch)
            index.add("theirs", sketch(their_text))
            overlap = index.overlap(sketch(our_text))
            ours = overlap and overlap.id == "theirs"
            kinds.setdefault(kind, []).append((overlap.of_theirs, overlap.of_ours) if overlap and ours else (0.0, 0.0))
    print_header(f"planted in {len(chosen)} books", "of theirs", "of ours", f"found at {least}")
    for kind, shares in kinds.items():
        of_theirs, of_ours = (spread(values) for values in zip(*shares, strict=True))
        print_row(kind, f"{of_theirs:.1%}", f"{of_ours:.1%}", sum(max(pair) >= least for pair in shares))
    index = HeldOut()
    for book in held_out:
        index.add(book.id, book.sketch)
    overlaps = [overlap for book in training if (overlap := index.overlap(book.sketch))]
    most = max((max(overlap.of_theirs, overlap.of_ours) for overlap in overlaps), default=0.0)
    found = sum(max(overlap.of_theirs, overlap.of_ours) >= least for overlap in overlaps)
    print_row(f"the corpus as it is: {len(training)} books, the largest share", f"{most:.1%}", "", found)


def pg19_size() -> dict[str, float]:
    """Random sketches as many as PG19 has books, one in ten an edition of another: megabytes and seconds."""
    numbers = np.random.default_rng(1)
    draw = partial(numbers.integers, 0, 2**58, dtype=np.uint64)
    before = psutil.Process().memory_info().rss
    editions, held_out = Editions(0.4), HeldOut()
    for book in range(PG19_HELD_OUT):
        held_out.add(f"held-{book}", np.sort(draw(PG19_HASHES)))
    seconds, last = 0.0, np.sort(draw(PG19_HASHES))
    for book in range(PG19_BOOKS):
        hashes = last[: -PG19_HASHES // 10] if book % 10 == 9 else np.sort(draw(PG19_HASHES))
        packed = pack_sketch(hashes)
        began = perf_counter()
        last = unpack_sketch(packed)
        assert held_out.overlap(last) is None
        editions.add(f"{book}", len(last) * 64, last)
        seconds += perf_counter() - began
    added, began = _peak(), perf_counter()
    found = len(editions.duplicates())
    return {
        "MB added by all signatures and held-out books": (added - before) / 1e6,
        "MB at the peak, while looking for duplicates": (_peak() - before) / 1e6,
        "seconds to unpack and add all, with the look at held-out books": seconds,
        "seconds to find the duplicates": perf_counter() - began,
        f"duplicates found, of {PG19_BOOKS // 10:,}": found,
    }


def _peak() -> int:
    """Most bytes that this process has held at once, as Linux tells."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])


def main(corpus: str, books: int = 20, runs: int = 5) -> None:
    """Measure sketches, editions and overlaps.

    Args:
        corpus: A folder in PG19's layout; its training books are changed, its held-out books planted.
        books: Of how many training books editions are made.
        runs: Runs of every side of the comparison of speeds.
    """
    found = find_books(corpus).books
    texts = ((book, data.decode("utf-8", "replace")) for book, data in read_many(found))
    read = [(book, Book(book.id, text, len(text.split()), sketch(text))) for book, text in texts]
    training = [book for reference, book in read if reference.split == "train"]
    held_out = [book for reference, book in read if reference.split != "train"]
    suitable = [book for book in training if len(paragraphs(book.text)) >= LEAST_PARAGRAPHS]
    if len(suitable) < books or len(training) < 6 * books or not held_out:
        raise SystemExit(f"expected {6 * books} training books, {books} of them in paragraphs, and a held-out one")
    chosen = random.Random(1).sample(suitable, books)
    print_machine()
    sizes = accumulate(len(book.text) for book in training)
    few = [book.text for book, size in zip(training, sizes, strict=True) if size <= SPEED_CHARACTERS]
    measure_speed(few, runs)
    measure_editions(chosen, training)
    measure_overlaps(chosen, training, held_out)
    print_header(f"{PG19_BOOKS:,} random sketches of {PG19_HASHES} hashes", "figure")
    for name, figure in alone(pg19_size).items():
        print_row(name, f"{figure:,.1f}")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
