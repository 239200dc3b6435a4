"""Files become text, whatever they were typed in; what is no text gets its reason."""

import pytest

from victorian.corpus.decoding import decode

PROSE = "He paid £5 for a café table, ‘as good as new’ – a façade; naïve, they said, and the coöperation was his. " * 30


def test_utf8_is_read_as_it_is() -> None:
    decoded = decode(PROSE.encode(), "drop")
    assert (decoded.text, decoded.read_as, decoded.reason) == (PROSE, None, None)


def test_what_is_not_utf8_is_dropped_where_it_may_not_be_repaired() -> None:
    decoded = decode(PROSE.encode("cp1252"), "drop")
    assert (decoded.text, decoded.reason) == ("", "not UTF-8")


def test_a_book_of_its_time_is_read_in_its_encoding() -> None:
    assert decode(PROSE.encode("cp1252"), "repair").text == PROSE
    plain = PROSE.replace("‘", "'").replace("’", "'").replace("–", "-")
    assert decode(plain.encode("latin-1"), "repair").text == plain
    assert decode(PROSE.encode("utf-16"), "repair").text == PROSE
    assert decode(PROSE.encode("cp1252"), "repair").read_as == "cp1252"


def test_a_few_damaged_bytes_do_not_cost_the_good_ones() -> None:
    data = PROSE.encode()
    damaged = data[:500] + b"\x92" + data[500:2000] + b"\xff\xe2\x80" + data[2000:]
    decoded = decode(damaged, "repair")
    assert decoded.reason is None
    assert decoded.read_as == "utf-8 and cp1252"
    assert decoded.text.count("café") == PROSE.count("café")
    assert decoded.text.count("’") >= PROSE.count("’")


@pytest.mark.parametrize("data", [b"\x89PNG\r\n\x1a\n\x00\x00", b"text" + bytes(3), bytes(range(1, 9)) * 20])
@pytest.mark.parametrize("policy", ["repair", "drop"])
def test_binary_files_are_no_books(data: bytes, policy: str) -> None:
    assert decode(data, policy).reason == "binary"  # type: ignore[arg-type]  # the parameter is one of the two


def test_an_empty_file_is_an_empty_text() -> None:
    assert decode(b"", "drop").text == ""
