"""Evaluation over many workers: each scores a run of windows, and the scores add up to what one would find."""

from dataclasses import dataclass

import ray

from victorian.artifact import read_artifact, read_artifact_recipe, read_record
from victorian.cluster.session import own_errors
from victorian.config import Section
from victorian.cores import cores
from victorian.corpus.book import Split
from victorian.device import pick_device, use_threads
from victorian.errors import ConfigError, DataError
from victorian.storage import open_storage
from victorian.tokens.manifest import read_manifest
from victorian.tokens.stream import open_split
from victorian.training.evaluation import Score, score_overlapping, window_count


class Evaluation(Section):
    """How well an artifact predicts a split, every token scored once."""

    split: Split
    books: int
    tokens: int
    """Tokens that were scored: all but `<|endoftext|>`."""
    context: int
    """The longest past that a token is predicted from."""
    overlap: int
    """The shortest, but at the very beginning: tokens by which neighbouring windows overlap."""
    as_published: bool
    """Whether all books are there as they were found, neither cleaned nor selected: figures compare with others'."""
    loss: float
    """Nats a token."""
    bits_per_byte: float
    """Of the text that was tokenized."""
    word_perplexity: float | None
    """Per word of white space in the original text: exp(total nats / words), as PG19 reports it; None where that is
    above the largest float."""
    words: int


@dataclass(frozen=True)
class _Share:
    artifact: str
    data: str
    split: Split
    stride: int
    part: int
    parts: int


@ray.remote(num_cpus=1)
def _score(share: _Share) -> tuple[float, int]:
    use_threads(max(1, cores() // share.parts))
    artifact = read_artifact(share.artifact)
    storage = open_storage(share.data)
    stream = open_split(storage, read_manifest(storage), share.split)
    windows = window_count(stream.length, share.stride)
    first = windows * share.part // share.parts
    last = windows * (share.part + 1) // share.parts
    model = artifact.model.to(pick_device())
    score = score_overlapping(model, stream, first, last, share.stride, artifact.encoding.end_of_text)
    return score.nats, score.tokens


def evaluate(
    artifact: str, data: str, split: Split = "test", workers: int = 1, stride: int | None = None
) -> Evaluation:
    """Score a whole split. Needs a Ray session.

    Args:
        stride: tokens from one window to the next, which share the rest of the context; by default half of it.

    Raises:
        ConfigError: if there is no worker, or the stride does not fit the context.
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
    context = read_artifact_recipe(artifact).model.context
    stride = context // 2 if stride is None else stride
    if not 1 <= stride <= context:
        raise ConfigError(f"expected a stride from 1 to the context of {context} tokens, got {stride}")
    entry = manifest.splits[split]
    shares = [_Share(artifact, storage.uri, split, stride, part, workers) for part in range(workers)]
    with own_errors():
        scores = [Score(*pair) for pair in ray.get([_score.remote(share) for share in shares])]
    total = sum(scores, Score(0.0, 0))
    return Evaluation(
        split=split,
        books=len(entry.books),
        tokens=total.tokens,
        context=context,
        overlap=context - stride,
        as_published=manifest.as_found(split),
        loss=total.loss,
        bits_per_byte=total.bits_per_byte(entry.bytes),
        word_perplexity=total.word_perplexity(entry.original_words),
        words=entry.original_words,
    )
