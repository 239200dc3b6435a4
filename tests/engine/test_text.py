"""Text comes whole, and stop strings never show."""

from hypothesis import given, settings
from hypothesis import strategies as st

from victorian.engine.text import TextStream
from victorian.tokens.bpe import Encoding, get_encoding


def stream(encoding: Encoding, text: str, stop: tuple[str, ...] = ()) -> list[str]:
    out = TextStream(encoding, stop)
    pieces = []
    for token in encoding.encode(text):
        pieces.append(out.push(int(token)))
        if out.stopped:
            return pieces
    return [*pieces, out.flush()]


def test_a_character_split_over_tokens_is_shown_whole() -> None:
    encoding = get_encoding(256)  # every byte is a token of its own
    assert stream(encoding, "é🙂") == ["", "é", "", "", "", "🙂", ""]


def test_an_unfinished_character_at_the_end_is_shown_as_such() -> None:
    out = TextStream(get_encoding(256), ())
    assert out.push(int(get_encoding(256).encode("é")[0])) == ""
    assert out.flush() == "\ufffd"


def test_a_stop_string_over_token_borders_ends_the_text_before_it() -> None:
    encoding = get_encoding(50_256)
    pieces = stream(encoding, "He shut the door. The end of all", ("The end",))
    assert "".join(pieces) == "He shut the door. "


def test_what_only_began_like_a_stop_string_is_shown_after_all() -> None:
    encoding = get_encoding(256)
    assert "".join(stream(encoding, "the enemy", ("the end",))) == "the enemy"
    assert "".join(stream(encoding, "to the en", ("the end",))) == "to the en"


def test_of_several_stop_strings_the_one_that_is_complete_first_counts() -> None:
    assert "".join(stream(get_encoding(256), "one two three", ("three", "two"))) == "one "
    for ranks in (256, 50_256):
        assert "".join(stream(get_encoding(ranks), "one two three", ("one two three", "two"))) == "one "


@settings(max_examples=300, deadline=None)
@given(
    st.text(alphabet="ab é🙂", max_size=30),
    st.lists(st.text(alphabet="ab é🙂", min_size=1, max_size=4), max_size=3),
    st.sampled_from([256, 400]),
)
def test_streamed_text_is_the_text_cut_at_the_first_stop(text: str, stop: list[str], ranks: int) -> None:
    found = [(at + len(s), at) for s in stop if (at := text.find(s)) >= 0]
    expected = text[: min(found)[1]] if found else text
    assert "".join(stream(get_encoding(ranks), text, tuple(stop))) == expected
