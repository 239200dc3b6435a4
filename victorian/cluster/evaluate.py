"""Evaluation over many workers: each scores a run of windows, and the scores add up."""

from dataclasses import dataclass

import ray

from victorian.artifact import read_artifact, read_record
from victorian.cluster.session import own_errors
from victorian.config import Section
from victorian.corpus.book import Split
from victorian.device import cores, pick_device, use_threads
from victorian.errors import ConfigError, DataError
from victorian.storage import open_storage
from victorian.tokens.batches import Batches
from victorian.tokens.manifest import read_manifest
from victorian.tokens.stream import open_split
from victorian.training.evaluation import Score, score_windows


class Evaluation(Section):
    """How well an artifact predicts a split, every token of its whole windows scored once, without overlap."""

    split: Split
    tokens: int
    """Tokens that were scored."""
    loss: float
    """Nats a token."""
    bits_per_byte: float
    """Of the cleaned text."""
    word_perplexity: float
    """Per word of white space in the original text, as PG19 reports it."""


@dataclass(frozen=True)
class _Share:
    artifact: str
    data: str
    split: Split
    part: int
    parts: int


@ray.remote(num_cpus=1)
def _score(share: _Share) -> tuple[float, int]:
    use_threads(max(1, cores() // share.parts))
    artifact = read_artifact(share.artifact)
    storage = open_storage(share.data)
    stream = open_split(storage, read_manifest(storage), share.split)
    batches = Batches(stream, artifact.model.config.context, 1, seed=0)
    first = batches.windows * share.part // share.parts
    last = batches.windows * (share.part + 1) // share.parts
    score = score_windows(artifact.model.to(pick_device()), batches, first, last - first)
    return score.nats, score.tokens


def evaluate(artifact: str, data: str, split: Split = "test", workers: int = 1) -> Evaluation:
    """Score a whole split. Needs a Ray session.

    Raises:
        ArtifactError: if the artifact is missing or damaged.
        DataError: if the data set is missing, damaged, has no such split, or is of another encoding.
    """
    if workers < 1:
        raise ConfigError(f"expected at least one worker, got {workers}")
    storage = open_storage(data)
    manifest = read_manifest(storage)
    if read_record(artifact).encoding_sha256 != manifest.encoding.sha256:
        raise DataError(
            f"{data} holds tokens of another encoding than the model in {artifact}: prepare it for this model"
        )
    if split not in manifest.splits:
        raise DataError(f"{data} has no {split} split; it has {', '.join(manifest.splits)}")
    entry = manifest.splits[split]
    shares = [_Share(artifact, storage.uri, split, part, workers) for part in range(workers)]
    with own_errors():
        scores = [Score(*pair) for pair in ray.get([_score.remote(share) for share in shares])]
    total = sum(scores, Score(0.0, 0))
    scored = total.tokens / entry.tokens  # the last, partial window is left out: so is its share of the text
    return Evaluation(
        split=split,
        tokens=total.tokens,
        loss=total.loss,
        bits_per_byte=total.bits_per_byte(entry.bytes * scored),
        word_perplexity=total.word_perplexity(entry.original_words * scored),
    )
