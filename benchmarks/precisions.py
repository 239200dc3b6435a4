"""Claim: the engine's bf16 costs at most 0.1% of perplexity, and its int8 at most 0.5%.

Peer: the engine's own fp32, on the same windows. The model is a trained one, by default the one that comes with the
package; the text is the test split of SHARDS, which must have been prepared with the model's own encoding, in windows
of the whole context that do not overlap. "Apart" is how far a token's logits are from those of fp32: the L2 norm of the
difference over the norm of fp32's, both without their means, on the first window.

    victorian prepare CORPUS --output SHARDS --recipe small
    .venv/bin/python benchmarks/precisions.py --data SHARDS [--artifact pretrained] [--tokens 500000]
"""

import math

import numpy as np
import numpy.typing as npt
import tyro
from measure import alone, note, print_header, print_machine, print_row

from victorian.artifact import PRETRAINED, find_artifact, read_artifact
from victorian.config import Precision
from victorian.cores import cores
from victorian.engine.blocks import BLOCK_TOKENS
from victorian.engine.native import NativeNetwork
from victorian.storage import open_storage
from victorian.tokens.manifest import read_manifest
from victorian.tokens.stream import open_split

PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "int8")

Floats = npt.NDArray[np.float32]


def log_likelihood(logits: Floats, targets: npt.NDArray[np.int64]) -> float:
    """Natural logarithm of the targets' probability: (time, tokens), (time)."""
    largest = logits.max(axis=1, keepdims=True)
    total = np.log(np.exp(logits - largest).sum(axis=1, dtype=np.float64)) + largest[:, 0]
    return float((logits[np.arange(len(targets)), targets] - total).sum())


def evaluate(artifact: str, data: str, precision: Precision, tokens: int) -> tuple[float, int, Floats]:
    """Nats a token, tokens that were scored, and the first window's logits."""
    read = read_artifact(find_artifact(artifact))
    manifest = read_manifest(open_storage(data))
    stream = open_split(open_storage(data), manifest, "test")
    context, size = read.model.config.context, read.encoding.size
    assert manifest.encoding.sha256 == read.encoding.sha256, (
        "SHARDS were prepared with another encoding than the model has"
    )
    network = NativeNetwork(read.model, precision, context, context // BLOCK_TOKENS, cores())
    table = np.arange(context // BLOCK_TOKENS, dtype=np.int32)[None]
    total, scored, first = 0.0, 0, np.empty((0, size), np.float32)
    for start in range(0, min(tokens, stream.length) - context, context):
        window = stream.read(start, start + context + 1).astype(np.int64)
        places = range(context)
        logits = network.step(window[:-1].tolist(), places, [0, context], table, places)[:, :size]
        total += log_likelihood(logits, window[1:])
        scored += context
        if not start:
            first = logits.copy()
    network.close()
    return -total / scored, scored, first


def apart(ours: Floats, theirs: Floats) -> float:
    ours, theirs = (rows - rows.mean(axis=1, keepdims=True) for rows in (ours, theirs))
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def main(data: str, artifact: str = PRETRAINED, tokens: int = 10**9) -> None:
    print_machine()
    results = {}
    for precision in PRECISIONS:
        note(f"{precision}")
        results[precision] = alone(evaluate, artifact, data, precision, tokens)
    plain, scored, reference = results["fp32"]
    print(f"\nThe model `{artifact}`, {scored:,} tokens of the test split.")
    print_header("precision", "nats a token", "perplexity", "against fp32", "logits apart")
    for precision, (loss, _, logits) in results.items():
        more = f"{100 * (math.exp(loss - plain) - 1):+.3f}%"
        print_row(precision, f"{loss:.5f}", f"{math.exp(loss):.4f}", more, f"{apart(logits, reference):.4f}")


if __name__ == "__main__":
    tyro.cli(main)
