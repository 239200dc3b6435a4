"""Words are what `str.split()` says they are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from victorian.corpus.words import count_words


@given(st.text(st.sampled_from("a \n\t\r\v\f\x1c\x85\xa0\u2003\u3000é—"), max_size=30))
def test_any_mix_of_words_and_white_space_is_counted_as_split_counts_it(text: str) -> None:
    assert count_words(text) == len(text.split())


@pytest.mark.parametrize("text", ["", " ", "one", " one two\nthree ", "a\xa0b", "\ud800 x"])
def test_by_example(text: str) -> None:
    assert count_words(text) == len(text.split())
