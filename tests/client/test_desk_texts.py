"""What the desk knows of texts, without a page and without a service."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from victorian.client.desk.history import History, Step
from victorian.client.desk.manuscript import PAGE_CHARACTERS, Manuscript, Piece, Splice, clean, pages
from victorian.client.desk.passage import Passage, Token, chosen, shortened
from victorian.client.desk.presets import DRAWING, KNOBS, PRESETS, parameters_of, preset_of
from victorian.client.desk.prompt import sight
from victorian.client.desk.sentences import sentence_end
from victorian.config import SamplingParameters
from victorian.errors import RequestError
from victorian.service.protocol import Alternative, TokenMessage

TEXTS = st.text(alphabet="ab \n👒ש", max_size=12)
PIECES = st.lists(st.tuples(TEXTS, st.sampled_from(["writer", "model"])), max_size=5)


def written(*pieces: tuple[str, str]) -> Manuscript:
    empty = Manuscript()
    return empty.after(empty.splice(0, 0, tuple(Piece(text, author) for text, author in pieces)))  # type: ignore[arg-type]


class TestManuscript:
    @given(PIECES, TEXTS)
    def test_an_edit_gives_the_text_that_was_left_and_its_inverse_the_one_before(self, pieces, after) -> None:  # type: ignore[no-untyped-def]
        manuscript = written(*pieces)
        splice = manuscript.edit(0, len(manuscript.text), after)
        if splice is None:
            assert after == manuscript.text
            return
        changed = manuscript.after(splice)
        assert changed.text == after
        assert changed.after(splice.inverse) == manuscript
        assert all(piece.text for piece in changed.pieces)
        assert all(one.author != two.author for one, two in zip(changed.pieces, changed.pieces[1:], strict=False))

    def test_only_what_a_writer_changed_is_the_writers(self) -> None:
        manuscript = written(("It was ", "writer"), ("a dark night", "model"))
        splice = manuscript.edit(0, len(manuscript.text), "It was a bright night")
        assert splice is not None
        assert [(p.text, p.author) for p in manuscript.after(splice).pieces] == [
            ("It was ", "writer"),
            ("a ", "model"),
            ("bright", "writer"),
            (" night", "model"),
        ]

    def test_an_edit_on_a_page_leaves_the_others(self) -> None:
        manuscript = written(("one two three", "writer"))
        splice = manuscript.edit(4, 7, "2")
        assert splice is not None
        assert manuscript.after(splice).text == "one 2 three"

    @pytest.mark.parametrize(
        ("given", "kept"),
        [
            ("a\r\nb\rc", "a\nb\nc"),
            ("bell\x07 and \x1b[31mred\x9b", "bell and [31mred"),
            ("half \ud83d of a pair", "half \ufffd of a pair"),
            ("tab\tand שלום 👨‍👩‍👧 <b>", "tab\tand שלום 👨‍👩‍👧 <b>"),
        ],
    )
    def test_what_cannot_be_shown_or_sent_is_cleaned_away_and_nothing_else(self, given: str, kept: str) -> None:
        assert clean(given) == kept

    def test_pages_cover_a_long_text_and_turn_at_paragraphs(self) -> None:
        text = "".join(f"{'word ' * 60}.\n\n" for _ in range(200))
        found = pages(text)
        assert [start for start, _ in found[1:]] == [end for _, end in found[:-1]]
        assert (found[0][0], found[-1][1]) == (0, len(text))
        assert all(text[:end].endswith("\n\n") for _, end in found)
        assert all(end - start <= PAGE_CHARACTERS * 3 // 2 for start, end in found)

    def test_a_text_with_no_place_to_turn_has_pages_too(self) -> None:
        assert max(end - start for start, end in pages("x" * 100_000)) <= PAGE_CHARACTERS * 3 // 2
        assert pages("") == [(0, 0)]


class TestPassage:
    TOKENS = tuple(Token(text, 0.5) for text in (" a", " dark", "", " night"))

    @pytest.mark.parametrize(
        ("start", "end", "added", "left"),
        [
            (20, 20, "more", (6, " a dark night")),  # after it
            (0, 2, "Once it", (11, " a dark night")),  # before it
            (10, 11, "x", (6, " a")),  # within " dark"
            (6, 7, "", None),  # its first character
        ],
    )
    def test_it_loses_the_tokens_from_a_change_on(
        self, start: int, end: int, added: str, left: tuple[int, str] | None
    ) -> None:
        passage = Passage(6, self.TOKENS)
        removed = (Piece("-" * (end - start), "writer"),) if end > start else ()
        after = passage.after(Splice(start, removed, (Piece(added, "writer"),) if added else ()))
        assert (after and (after.start, after.text)) == left

    def test_it_is_cut_within_a_token_where_a_sentence_ends_there(self) -> None:
        assert [token.text for token in shortened(self.TOKENS, 4)] == [" a", " d"]
        assert [token.text for token in shortened(self.TOKENS, 4, whole=True)] == [" a"]
        assert [token.text for token in shortened(self.TOKENS, 7)] == [" a", " dark", ""]
        assert shortened(self.TOKENS, 99) == self.TOKENS

    def test_an_alternative_stands_in_the_place_of_a_token_and_keeps_the_others_known(self) -> None:
        likely = (
            Alternative(token=1, text=" black", probability=0.6),
            Alternative(token=2, text=" dark", probability=0.3),
        )
        tokens = (Token(" a"), Token(" dark", 0.3, likely), Token(" night"))
        taken = chosen(tokens, 1, 0)
        assert [(token.text, token.probability) for token in taken] == [(" a", None), (" black", 0.6)]
        assert taken[1].alternatives == likely
        with pytest.raises(IndexError):
            chosen(tokens, 0, 0)


class TestHistory:
    def step(self, start: int, text: str, typed: bool = True) -> Step:
        return Step(Splice(start, (), (Piece(text, "writer"),)), typed=typed)

    def test_typing_on_is_one_step_until_the_paragraph_ends(self) -> None:
        history = History()
        for start, text in ((0, "It "), (3, "was"), (6, "\n"), (7, "Then")):
            history.add(self.step(start, text))
        assert [step.splice.added[0].text for step in history.done] == ["It was\n", "Then"]

    def test_typing_elsewhere_and_passages_are_steps_of_their_own(self) -> None:
        history = History()
        for step in (self.step(0, "one"), self.step(0, "two"), self.step(3, "three", typed=False)):
            history.add(step)
        assert len(history.done) == 3

    def test_many_steps_go_back_and_forth_until_something_else_is_written(self) -> None:
        history = History()
        steps = [self.step(0, str(n)) for n in range(100)]
        for step in steps:
            history.add(step)
        assert [history.undo() for _ in range(100)] == steps[::-1]
        assert history.undo() is None
        assert [history.redo() for _ in range(50)] == steps[:50]
        history.add(self.step(0, "else"))
        assert history.redo() is None


def test_an_alternative_goes_into_the_text_clean_and_a_part_of_a_character_is_none() -> None:
    given = [Alternative(token=n, text=text, probability=0.1) for n, text in enumerate(["\ufffd", "\x0c b\r\n", " c"])]
    token = Token.of(TokenMessage(id="x", index=0, text=" c", alternatives=given), " c")
    assert [one.token for one in token.alternatives] == [1, 2]
    assert chosen((token,), 0, 0)[0].text == " b\n"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (" was late. Then", " was late."),
        (" said Mr. Pip. Then", " said Mr. Pip."),
        (" met J. P. Smith! Then", " met J. P. Smith!"),
        (" said I. Then", " said I."),
        (" cried, “No!” and", " cried, “No!”"),
        ("… and so?' \n", "…"),
        (" was late.", None),  # a closing quote may follow
        (" cost 3.50 pounds", None),
        ("", None),
    ],
)
def test_where_a_sentence_ends(text: str, sentence: str | None) -> None:
    end = sentence_end(text)
    assert (end and text[:end]) == sentence


@dataclass
class Letters:
    """A text whose tokens are its characters, for a model that sees few of them."""

    tokens: list[int]
    max_model_len: int = 64

    @classmethod
    def of(cls, text: str) -> "Letters":
        return cls([ord(letter) for letter in text])


def seen(text: str, memory: str = "", note: str = "", lines: int = 1, max_tokens: int = 8) -> tuple[str, int, int]:
    """What the model reads, what is free, and what is hidden."""
    found = sight(text, memory, note, lines, max_tokens, Letters.of)
    return "".join(map(chr, found.prompt)), found.left, found.hidden


class TestSight:
    def test_a_short_text_is_seen_as_it_is(self) -> None:
        assert seen("It was") == ("It was", 64 - 8 - 6, 0)
        assert seen("") == ("", 56, 0)

    def test_of_a_long_text_the_end_is_seen_and_room_is_left(self) -> None:
        prompt, left, hidden = seen("x" * 500 + "the end")
        assert (len(prompt), prompt[-7:], left) == (56, "the end", 0)
        assert hidden == 507 - 56

    def test_no_more_than_a_quarter_is_kept_free(self) -> None:
        assert len(seen("x" * 500, max_tokens=30_000)[0]) == 48

    def test_memory_stands_in_front_and_stays_when_the_text_grows(self) -> None:
        assert seen("It was", memory="Pip.")[0] == "Pip.\n\nIt was"
        assert seen("x" * 500, memory="Pip.")[0].startswith("Pip.\n\nxxx")
        assert sight("x", "Pip.", "", 1, 8, Letters.of).memory == 6

    def test_a_note_stands_so_many_lines_before_the_end(self) -> None:
        assert seen("one\n\ntwo\nthree", note="rain", lines=1)[0] == "one\n\ntwo\n[rain]\nthree"
        assert seen("one\n\ntwo\nthree", note="rain", lines=2)[0] == "one\n\n[rain]\ntwo\nthree"
        assert seen("one\n\ntwo\nthree\n\n", note="rain", lines=2)[0] == "one\n\n[rain]\ntwo\nthree\n\n"
        assert seen("one", note="rain", lines=9)[0] == "[rain]\none"

    def test_a_note_is_seen_even_before_a_last_line_that_is_too_long(self) -> None:
        prompt, _, _ = seen("one\n" + "x" * 500, note="rain")
        assert prompt == "[rain]\n" + "x" * 49

    @pytest.mark.parametrize(("memory", "note", "field"), [("m" * 40, "", "memory"), ("m" * 28, "n" * 20, "note")])
    def test_too_much_of_either_is_refused_with_the_reason(self, memory: str, note: str, field: str) -> None:
        with pytest.raises(RequestError, match="shorten") as caught:
            seen("It was", memory, note)
        assert caught.value.parameter == field


class TestPresets:
    def test_each_is_known_again_and_leaves_length_seed_and_stops(self) -> None:
        now = SamplingParameters(max_tokens=7, seed=3, stop=("x",))
        for name in PRESETS:
            changed = parameters_of(name, now)
            assert preset_of(changed) == name
            assert (changed.max_tokens, changed.seed, changed.stop) == (7, 3, ("x",))
        assert preset_of(now.model_copy(update={"temperature": 0.33})) is None

    def test_the_usual_one_is_the_default_of_the_service(self) -> None:
        assert preset_of(SamplingParameters()) == "Usual"

    def test_every_knob_is_a_parameter_and_says_what_it_does(self) -> None:
        assert set(DRAWING) < set(KNOBS) <= set(SamplingParameters.model_fields)
        assert all(len(knob.prose.split()) >= 6 for knob in KNOBS.values())
