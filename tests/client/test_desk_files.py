"""Sessions that are saved, damaged and hostile, and exports in which nothing of a text is markup."""

import json
import zipfile
from io import BytesIO
from typing import Any
from xml.etree import ElementTree

import pytest

from victorian.client.desk.export import as_epub, as_markdown, as_text, chapters, file_name
from victorian.client.desk.manuscript import MAX_CHARACTERS, Manuscript, Piece
from victorian.client.desk.passage import Passage, Token, text_of
from victorian.client.desk.session import MAX_BYTES, Session, loaded, saved
from victorian.config import SamplingParameters
from victorian.errors import RequestError
from victorian.service.protocol import Alternative

HOSTILE = '<script>alert(1)</script> & "quotes" `code` *stars* _lines_ [a](http://x) ![b](http://y) ~~no~~ \\ |'


def session() -> Session:
    empty = Manuscript()
    manuscript = empty.after(empty.splice(0, 0, (Piece("It was\n", "writer"), Piece("a dark 👒 night", "model"))))
    sampling = SamplingParameters(temperature=0.7, seed=5, stop=("END",))
    return Session.of(manuscript, title="The Moor", memory="Pip", note="rain", note_lines=2, sampling=sampling)


LAST: dict[str, Any] = {"start": 7, "tokens": [["a", 0.5, [[1, "a", 0.5]]], [" dark", None, []]]}
"""A passage that stands in that text."""


class TestSession:
    def test_what_is_saved_comes_back(self) -> None:
        back = loaded(saved(session()))
        assert back == session()
        assert [(p.text, p.author) for p in back.manuscript.pieces] == [
            ("It was\n", "writer"),
            ("a dark 👒 night", "model"),
        ]

    def test_a_novel_of_a_hundred_thousand_words_does_too(self) -> None:
        pieces = tuple(Piece("word " * 100, "model" if n % 2 else "writer") for n in range(1000))
        empty = Manuscript()
        novel = empty.after(empty.splice(0, 0, pieces))
        assert loaded(saved(Session.of(novel)).encode()).manuscript == novel

    def test_tokens_of_the_last_passage_come_back_with_their_alternatives(self) -> None:
        token = Token(" dark", 0.123456, (Alternative(token=3, text="\x07 black", probability=0.5),))
        manuscript = session().manuscript
        passage = Passage(7, (Token("a", 0.5), token))
        last = loaded(saved(Session.of(manuscript, passage))).last
        assert last
        other = Token(" dark", 0.12346, (Alternative(token=3, text=" black", probability=0.5),))
        assert last.passage == Passage(7, (Token("a", 0.5), other))

    def test_of_a_long_passage_the_last_tokens_and_its_beginning_are_kept(self) -> None:
        tokens = tuple(Token(" word", 0.5) for _ in range(3_000))
        empty = Manuscript()
        manuscript = empty.after(empty.splice(0, 0, (Piece(text_of(tokens), "model"),)))
        last = loaded(saved(Session.of(manuscript, Passage(0, tokens)))).last
        assert last
        assert last.passage.text == text_of(tokens)
        assert [token.probability for token in last.passage.tokens] == [None, *[0.5] * 1_200]

    def test_the_head_of_a_long_passage_may_be_longer_than_any_token(self) -> None:
        long = Passage(0, (Token("x" * 1_500), *[Token(" dark", 0.5)] * 3))
        manuscript = Manuscript((Piece(long.text, "model"),))
        last = loaded(saved(Session.of(manuscript, long))).last
        assert last
        assert last.passage == long
        head = Passage(0, long.tokens[:1])
        assert Session.of(Manuscript((Piece(head.text, "model"),)), head).last is None

    def test_one_of_the_first_version_is_read(self) -> None:
        old = json.loads(saved(session())) | {"version": 1}
        del old["last"]
        assert loaded(json.dumps(old)).manuscript == session().manuscript

    def test_it_holds_no_key_and_no_address(self) -> None:
        assert set(json.loads(saved(session()))) == {
            "format", "version", "title", "pieces", "memory", "note", "note_lines", "sampling", "last",
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"version": 3}, "saved in version 3 of the format, this desk reads 2"),
            ({"format": "other"}, "no saved session of the desk: format"),
            ({"pieces": [{"text": "x", "author": "devil"}]}, "pieces.0.author"),
            ({"pieces": [{"text": "x", "author": "writer", "onload": "x"}]}, "pieces.0.onload"),
            ({"pieces": [{"text": "x" * MAX_CHARACTERS, "author": "writer"}] * 2}, "at most 4,000,000 characters"),
            ({"sampling": {"temperature": 99}}, "temperature"),
            ({"note_lines": -1}, "note_lines"),
            ({"memory": 5}, "memory"),
            ({"extra": 1}, "extra"),
            ({"last": LAST | {"start": 8}}, "expected the last passage to stand in the text where it says"),
            ({"last": LAST | {"tokens": []}}, "last.tokens"),
            ({"last": LAST | {"tokens": LAST["tokens"] * 1000}}, "last.tokens"),
            ({"last": LAST | {"tokens": [["a dark", 1.5, []]]}}, "last.tokens.0.1"),
            ({"last": LAST | {"tokens": [["a dark", 0.5, [[1, "x", 0.5]] * 21]]}}, "last.tokens.0.2"),
        ],
    )
    def test_what_is_none_is_refused_with_the_reason(self, change: dict[str, Any], reason: str) -> None:
        with pytest.raises(RequestError, match=reason) as caught:
            loaded(json.dumps(json.loads(saved(session())) | change))
        assert len(str(caught.value)) < 400

    @pytest.mark.parametrize(
        "data",
        [b"", b"\xff\xfe\x00", b"[]", b"null", b'{"format": "victorian-desk"', b"[" * 100_000, b'{"note_lines": NaN}'],
    )
    def test_what_is_damaged_is_refused_in_words(self, data: bytes) -> None:
        with pytest.raises(RequestError, match="is no saved session"):
            loaded(data)

    def test_what_is_too_large_is_not_even_read(self) -> None:
        with pytest.raises(RequestError, match="at most"):
            loaded(b" " * (MAX_BYTES + 1))

    def test_control_characters_and_half_pairs_do_not_come_in(self) -> None:
        data = json.dumps(
            {"title": "a\x00b", "memory": "\x1b[2J", "pieces": [{"text": "x\x07\r\ny", "author": "model"}]}
        )
        back = loaded(data)
        assert (back.title, back.memory, back.manuscript.text) == ("ab", "[2J", "x\ny")


BOOK = "CHAPTER I.\n\nIt was dark.\n\nThen\nit rained.\n\nII\n\n" + HOSTILE


class TestExport:
    def test_text_is_the_text(self) -> None:
        assert as_text("The Moor", BOOK).decode() == f"The Moor\n\n\n{BOOK}\n"
        assert as_text("", "x").decode() == "x\n"

    def test_chapters_begin_at_headings(self) -> None:
        found = chapters("Before.\n\n" + BOOK)
        assert [chapter.title for chapter in found] == ["", "CHAPTER I.", "II"]
        assert found[1].paragraphs == ("It was dark.", "Then\nit rained.")
        assert chapters("I went.\n\nA part of it was lost, and nobody knew of it.")[0].title == ""
        assert chapters("") == []

    @pytest.mark.parametrize(
        "heading",
        [
            *("CHAPTER I.", "Chapter 12", "BOOK THE FIRST", "Part Two: The Moor", "CHAPTER XLIV", "xc.", "LETTER"),
            *("CHAPTER TWENTY-FIRST. The Moor", "Letter 4, To Mrs. Saville", "CHAPTER I.—In which it rains", "I"),
        ],
    )
    def test_what_numbers_a_part_is_a_heading(self, heading: str) -> None:
        assert [chapter.title for chapter in chapters(f"{heading}\n\nIt was dark.")] == [heading]

    @pytest.mark.parametrize(
        "prose",
        [
            *("Ill.", "Civil.", "Part of me died.", "Letter in hand, he left.", "Part I left behind.", "Lilli."),
            *("Book one of us a seat.", "Part I, he thought, was over.", "Chapters 1 and 2", "Letter " + "1" * 100),
        ],
    )
    def test_prose_that_begins_like_one_is_none(self, prose: str) -> None:
        assert [chapter.title for chapter in chapters(prose)] == [""]

    def test_markdown_has_headings_and_escapes_the_rest(self) -> None:
        written = as_markdown("A *Moor*", BOOK + "\n\n- a\n1. b\n# c\n<br>").decode()
        assert written.startswith(
            "# A \\*Moor\\*\n\n## CHAPTER I.\n\nIt was dark.\n\nThen\\\nit rained.\n\n## II\n\n\\<script\\>"
        )
        assert written.endswith("\\- a\\\n1\\. b\\\n\\# c\\\n\\<br\\>\n")
        for mark in ("![b]", "[a]", " `code`", " *stars*", " &"):
            assert mark not in written

    def test_an_epub_is_well_formed_whatever_the_text(self) -> None:
        with zipfile.ZipFile(BytesIO(as_epub(HOSTILE, BOOK))) as book:
            assert book.namelist()[0] == "mimetype"
            assert book.read("mimetype") == b"application/epub+zip"
            pages = sorted(name for name in book.namelist() if "page" in name)
            assert len(pages) == 2
            for name in book.namelist():
                if name.endswith((".xhtml", ".opf", ".ncx", ".xml")):
                    ElementTree.fromstring(book.read(name))
            text = " ".join(ElementTree.fromstring(book.read(pages[1])).itertext())
            assert HOSTILE in text
            assert b"<script" not in book.read(pages[1])
            assert HOSTILE in " ".join(ElementTree.fromstring(book.read("EPUB/package.opf")).itertext())

    def test_control_characters_do_not_break_an_epub(self) -> None:
        with zipfile.ZipFile(BytesIO(as_epub("A\x0bB", "It\x1b was\x0c dark."))) as book:
            for name in book.namelist():
                if name.endswith((".xhtml", ".opf", ".ncx", ".xml")):
                    ElementTree.fromstring(book.read(name))
            assert b"It was dark." in book.read("EPUB/page0001.xhtml")

    def test_an_epub_of_nothing_is_a_book_too(self) -> None:
        with zipfile.ZipFile(BytesIO(as_epub("", ""))) as book:
            assert "EPUB/page0001.xhtml" in book.namelist()

    @pytest.mark.parametrize(
        ("title", "name"),
        [
            ("The Moor", "the-moor.md"),
            ("../../etc/passwd", "etc-passwd.md"),
            ("שלום", "untitled.md"),
            ("", "untitled.md"),
        ],
    )
    def test_names_are_such_as_every_system_takes(self, title: str, name: str) -> None:
        assert file_name(title, "md") == name
