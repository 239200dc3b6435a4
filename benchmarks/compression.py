"""Claim: a model that `victorian` trained predicts books it has not seen better than a general compressor does.

Peers: `xz -9` and `xz -9e` on the same cleaned text of each test book, as bits per byte. The model's figure is its
cross-entropy, what an arithmetic coder driven by it would need: each book is a text of its own after `<|endoftext|>`,
read in windows of the model's context that do not overlap, and the rest of the book in a last, shorter window, so
that every token is scored once and the figure stands for every byte. Neither the model's own size nor that of xz is
counted, and xz has seen no other books.

    .venv/bin/python benchmarks/compression.py --artifact DIR --corpus DIR
"""

import lzma
from dataclasses import dataclass

import numpy as np
import torch
import tyro
from measure import note, print_header, print_machine, print_row

from victorian.artifact import Artifact, find_artifact, read_artifact
from victorian.corpus.book import BookReference
from victorian.corpus.cleaning import clean
from victorian.corpus.sources import find_books, read_bytes
from victorian.device import pick_device, use_threads
from victorian.model.gpt2 import GPT
from victorian.tokens.batches import Batches
from victorian.tokens.bpe import Tokens
from victorian.tokens.stream import TokenStream
from victorian.training.evaluation import Score, score_batch, score_windows

PRESETS = {"`xz -9`": 9, "`xz -9e`": 9 | lzma.PRESET_EXTREME}


@dataclass(frozen=True)
class Compressed:
    """One book, or all of them."""

    title: str
    bytes: int
    model: Score
    xz: tuple[int, ...]
    """Bytes of the compressed text under each preset."""

    def cells(self) -> list[str]:
        by_xz = [f"{8 * size / self.bytes:.3f}" for size in self.xz]
        return [self.title, f"{self.bytes:,}", f"{self.model.bits_per_byte(self.bytes):.3f}", *by_xz]


def score_tokens(model: GPT, tokens: Tokens) -> Score:
    """Score every token but the first: whole windows, then what is left in a shorter one."""
    context = model.config.context
    score = Score(0.0, 0)
    whole = (len(tokens) - 1) // context
    if whole:
        batches = Batches(TokenStream((tokens,), (0,), len(tokens)), context, 1, seed=0)
        score += score_windows(model, batches, 0, whole)
    rest = torch.from_numpy(tokens[whole * context :].astype(np.int64))[None]
    if rest.shape[1] > 1:
        score += score_batch(model, (rest[:, :-1], rest[:, 1:]))
    assert score.tokens == len(tokens) - 1
    return score


def compress(artifact: Artifact, title: str, text: str) -> Compressed:
    """What one cleaned text comes to on all sides."""
    data = text.encode()
    begin = np.array([artifact.encoding.end_of_text], np.uint16)
    score = score_tokens(artifact.model, np.concatenate([begin, artifact.encoding.encode(text)]))
    return Compressed(title, len(data), score, _xz(data))


def _xz(data: bytes) -> tuple[int, ...]:
    return tuple(len(lzma.compress(data, preset=preset)) for preset in PRESETS.values())


def _title(book: BookReference) -> str:
    return f"{book.title} ({book.author}, {book.year})" if book.author and book.year else book.title


def main(artifact: str, corpus: str, books: int | None = None) -> None:
    """Measure a model against xz on test books.

    Args:
        artifact: A model directory, or a folder of runs, whose newest artifact is taken.
        corpus: A folder in PG19's layout or of .txt files; its test books are read.
        books: Only so many of the test books, to try this script.
    """
    use_threads()
    loaded = read_artifact(find_artifact(artifact))
    loaded.model.to(pick_device())
    found: list[Compressed] = []
    texts: list[str] = []
    for book in [book for book in find_books(corpus).books if book.split == "test"][:books]:
        text = clean(read_bytes(book).decode(), loaded.recipe.cleaning)
        note(f"{book.id}: {_title(book)}")
        texts.append(text)
        found.append(compress(loaded, _title(book), text))
    if not found:
        raise SystemExit(f"{corpus} holds no test book")
    print_machine()
    record = loaded.record
    print_header(f"bits per byte, `{loaded.recipe.name}`, {record.tokens:,} training tokens", "bytes", "ours", *PRESETS)
    for compressed in found:
        print_row(*compressed.cells())
    sizes = tuple(sum(book.xz[i] for book in found) for i in range(len(PRESETS)))
    total = sum((book.model for book in found), Score(0.0, 0))
    print_row(*Compressed("**all, book by book**", sum(book.bytes for book in found), total, sizes).cells())
    data = "".join(texts).encode()
    print_row("all in one xz stream", f"{len(data):,}", "", *(f"{8 * size / len(data):.3f}" for size in _xz(data)))


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
