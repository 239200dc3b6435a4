"""Claim: a text that outgrows the context loses little when the window slides by half, and that costs one token read
for each one written.

Peer: a fresh window for every token, full of all that the context holds, which no cache can serve when positions are
learned; here the last 16 tokens of a full window stand for it, which costs 31 tokens read for each. Between them other
shares of the window that are dropped when it is full, and the same with the book's first tokens pinned in front. The
model is a trained one, the text the beginnings of the books of the test split, after their first context.

    .venv/bin/python benchmarks/window.py --data SHARDS [--artifact pretrained] [--tokens 4096]
"""

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import tyro
from measure import note, print_header, print_machine, print_row
from precisions import log_likelihood

from victorian.artifact import PRETRAINED, find_artifact, read_artifact
from victorian.cores import cores
from victorian.engine.blocks import BLOCK_TOKENS
from victorian.engine.native import NativeNetwork
from victorian.storage import open_storage
from victorian.tokens.manifest import read_manifest
from victorian.tokens.stream import open_split

PINNED = 64
"""Tokens of a book's beginning that stay in front."""
FRESH = 16

Ids = npt.NDArray[np.int64]


def beginnings(data: str, tokens: int) -> Iterator[Ids]:
    """The first `tokens` of every test book that has so many."""
    manifest = read_manifest(open_storage(data))
    stream = open_split(open_storage(data), manifest, "test")
    for book in manifest.splits["test"].books:
        if book.tokens >= tokens:
            yield stream.read(book.offset, book.offset + tokens).astype(np.int64)


class Reader:
    """Scores the end of windows."""

    def __init__(self, artifact: str) -> None:
        read = read_artifact(find_artifact(artifact))
        self.context, self._size = read.model.config.context, read.encoding.size
        blocks = self.context // BLOCK_TOKENS
        self._network = NativeNetwork(read.model, "bf16", self.context, blocks, cores())
        self._table = np.arange(blocks, dtype=np.int32)[None]

    def score(self, window: Ids, targets: Ids) -> float:
        """Log-likelihood of `targets`, the last of which follows the window."""
        places = range(len(window))
        rows = places[-len(targets) :]
        logits = self._network.step(window.tolist(), places, [0, len(window)], self._table, rows)
        return log_likelihood(logits[:, : self._size], targets)

    def slide(self, text: Ids, stride: int, pinned: int) -> float:
        """Log-likelihood of all after the first context, in windows that drop `stride` tokens when they are full."""
        total = 0.0
        for at in range(self.context, len(text) - 1, stride):
            start, stop = at + stride - self.context + pinned, min(at + stride, len(text) - 1)
            window = np.concatenate([text[:pinned], text[start:stop]])
            total += self.score(window, text[at + 1 : stop + 1])
        return total


def main(data: str, artifact: str = PRETRAINED, tokens: int = 4096) -> None:
    print_machine()
    reader = Reader(artifact)
    books = list(beginnings(data, tokens))
    context = reader.context
    print(f"\nThe model `{artifact}`, context {context}, the first tokens of {len(books)} books of the test split.")
    print_header("dropped when full", "pinned", "read for each token written", "perplexity", "against fresh")
    fresh = 0.0
    for stride in (FRESH, context // 4, context // 2, 3 * context // 4):
        for pinned in (0, PINNED):
            room = context - pinned
            step = stride if stride == FRESH else stride * room // context
            note(f"stride {step}, {pinned} pinned")
            nats = -sum(reader.slide(text, step, pinned) for text in books)
            scored = sum(len(text) - 1 - context for text in books)
            perplexity = math.exp(nats / scored)
            fresh = fresh or perplexity
            reads = (context - step) / step
            name = "all but the last 16" if stride == FRESH else f"{step} of {context}"
            print_row(name, pinned, f"{reads:.1f}", f"{perplexity:.3f}", f"{100 * (perplexity / fresh - 1):+.2f}%")


if __name__ == "__main__":
    tyro.cli(main)
