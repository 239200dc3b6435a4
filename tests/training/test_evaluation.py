"""Overlapping windows score every token once, from as long a past as they promise, in any number of parts."""

import itertools
import math
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from tests.conftest import TOY, prepare_plainly
from tests.training.test_loop import split
from victorian.artifact import Artifact, read_artifact
from victorian.cluster.evaluate import Evaluation
from victorian.config import CleaningConfig, DataConfig, SelectionConfig, TokensConfig
from victorian.corpus.cleaning import clean
from victorian.model.gpt2 import GPT
from victorian.tokens.stream import TokenStream
from victorian.training.evaluation import Score, score_overlapping, window_count
from victorian.verbs.training import tell


@pytest.fixture(scope="module")
def artifact(toy_artifact: Path) -> Artifact:
    return read_artifact(str(toy_artifact))


def beginning(stream: TokenStream, length: int) -> TokenStream:
    return TokenStream((stream.read(0, length),), (0,), length)


@torch.no_grad()
def one_by_one(model: GPT, stream: TokenStream, stride: int, ignore: int) -> tuple[float, int]:
    """The plain reference: each token from the window that it belongs to, alone."""
    tokens = stream.read(0, stream.length).tolist()
    nats, count = 0.0, 0
    for position in range(1, len(tokens)):
        end = min(1 + ((position - 1) // stride + 1) * stride, len(tokens))
        start = max(0, end - 1 - model.config.context)
        if tokens[position] == ignore:
            continue
        logits = model(torch.tensor([tokens[start:position]]))[0, -1].float()
        nats += float(F.cross_entropy(logits, torch.tensor(tokens[position])))
        count += 1
    return nats, count


@pytest.mark.parametrize("stride", [1, 20, 32, 64])
def test_scores_equal_a_plain_reference(artifact: Artifact, toy_data: Path, stride: int) -> None:
    stream = beginning(split(toy_data, "test"), 300)
    ignore = int(stream.read(50, 51)[0])  # stands for the end of a text
    nats, count = one_by_one(artifact.model, stream, stride, ignore)
    windows = window_count(stream.length, stride)
    score = score_overlapping(artifact.model, stream, 0, windows, stride, ignore)
    assert score.tokens == count
    assert score.nats == pytest.approx(nats, rel=1e-5)
    cuts = [0, 1, windows // 3, windows // 3, windows]
    parts = [score_overlapping(artifact.model, stream, a, b, stride, ignore) for a, b in itertools.pairwise(cuts)]
    assert sum(part.tokens for part in parts) == count
    assert sum(part.nats for part in parts) == pytest.approx(nats, rel=1e-5)


def test_perplexity_a_word_is_that_of_pg19() -> None:
    """exp(total nats / words of white space in the original text)."""
    assert Score(nats=6_966_499 * math.log(36.3), tokens=9_000_000).word_perplexity(6_966_499) == pytest.approx(36.3)


@pytest.mark.parametrize(
    ("nats", "said"), [(709.0 * 30, "perplexity 82,184"), (709.8 * 30, "perplexity over 1e308 per")]
)
def test_a_perplexity_that_no_float_holds_is_said_to_be_large(
    nats: float, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    score = Score(nats, tokens=40)
    result = Evaluation(
        split="test", books=1, tokens=40, context=64, overlap=32, as_published=True, loss=score.loss,
        bits_per_byte=score.bits_per_byte(200), word_perplexity=score.word_perplexity(30), words=30,
    )  # fmt: skip
    tell(result)
    assert said in capsys.readouterr().out
    assert Evaluation.model_validate_json(result.model_dump_json()) == result


def test_held_out_books_can_stay_as_they_were_found(books: Callable[..., Path], tmp_path: Path) -> None:
    text = "_Emphasis_  of the\nprinter, and --dashes--; words enough.  \n" * 40
    validation = {"2": text.replace("_", "")}
    corpus = str(books(train={"1": text}, validation=validation, test={"3": text, "4": "Too short, he said."}))
    selection = SelectionConfig(held_out_overlap=None, language=None)
    tokens = TokensConfig(ranks=512, tokens_per_shard=20_000)
    as_found = DataConfig(tokens=tokens, selection=selection, cleaning=CleaningConfig(held_out=False))
    manifest = prepare_plainly(corpus, tmp_path / "raw", as_found)
    assert manifest.as_found("test")
    assert [book.bytes for book in manifest.splits["test"].books] == [len(text), len("Too short, he said.")]
    assert not manifest.as_found("train")
    cleaned = prepare_plainly(corpus, tmp_path / "cleaned", DataConfig(tokens=tokens, selection=selection))
    assert not cleaned.as_found("test")
    assert len(cleaned.splits["test"].books) == 1


def test_books_that_cleaning_left_as_long_as_they_were_are_not_as_found(
    books: Callable[..., Path], tmp_path: Path
) -> None:
    text = textwrap.fill("The old house stood upon the hill above the town, " * 60, 70)
    data = DataConfig(tokens=TOY.tokens, selection=SelectionConfig(held_out_overlap=None))
    manifest = prepare_plainly(str(books(train={"1": text}, test={"2": text})), tmp_path / "data", data)
    (book,) = manifest.splits["test"].books
    assert book.bytes == book.original_bytes
    assert clean(text, data.cleaning) != text
    assert not manifest.as_found("test")


def test_a_split_is_not_as_found_while_a_book_is_missing_that_may_be_its_own(
    books: Callable[..., Path], tmp_path: Path
) -> None:
    root = books(train={"1": "A few words."}, test={"2": "Other words."})
    with (root / "metadata.csv").open("a") as file:
        file.write('77,"A Lost Book by Nobody",1850,http://example.org/77\n')
    selection = SelectionConfig(language=None, least_words=1, missing_texts="drop")
    data = DataConfig(tokens=TOY.tokens, selection=selection, cleaning=CleaningConfig(held_out=False))
    manifest = prepare_plainly(str(root), tmp_path / "data", data)
    (lost,) = manifest.dropped
    assert (lost.id, lost.split) == ("77", None)
    assert not manifest.as_found("test")
    known = lost.model_copy(update={"split": "train"})  # as the file of a split tells it
    assert manifest.model_copy(update={"dropped": (known,)}).as_found("test")
