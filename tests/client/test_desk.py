"""A desk before a real service: what is written, stopped, chosen, and taken back."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.client.desk_services import FEW, LONG, Play, desk_at, over, play
from tests.running_service import Service as Running
from tests.running_service import running, soon
from victorian.client import Client
from victorian.client.desk.desk import Desk
from victorian.client.desk.manuscript import Piece
from victorian.client.desk.passage import Token
from victorian.client.desk.service import Service
from victorian.client.desk.session import loaded, saved
from victorian.client.desk.views.sheet import segments
from victorian.config import SamplingParameters, ServiceConfig
from victorian.service.protocol import Alternative

__all__ = ["play"]


@pytest.fixture
def desk(service: Running) -> Desk:
    return desk_at(service.url)


def hands(desk: Desk) -> list[tuple[str, str]]:
    return [(piece.author, piece.text) for piece in desk.manuscript.pieces]


class TestWriting:
    def test_the_model_goes_on_where_the_writer_stopped(self, desk: Desk, service: Running) -> None:
        desk.write()
        assert over(desk)
        with Client(service.url) as client:
            expected = client.complete("It was", FEW).text
        assert hands(desk) == [("writer", "It was"), ("model", expected)]
        assert desk.passage
        assert desk.passage.complete
        assert (desk.passage.complete.seed, desk.passage.complete.reason) == (5, "length")
        assert all(token.probability and len(token.alternatives) == 5 for token in desk.passage.tokens)
        assert desk.passage.first_seconds

    def test_spaces_at_the_end_give_way_to_the_models_own(self, service: Running) -> None:
        spaced, plain = desk_at(service.url, "It was  "), desk_at(service.url, "It was")
        for desk in (spaced, plain):
            desk.write()
            assert over(desk)
        assert spaced.manuscript.text == plain.manuscript.text

    def test_an_empty_manuscript_begins_a_book(self, service: Running) -> None:
        desk = desk_at(service.url, "")
        desk.write()
        assert over(desk)
        assert desk.notice is None
        assert [hand for hand, _ in hands(desk)] == ["model"]

    def test_stop_keeps_what_has_come_and_frees_the_service(self, service: Running) -> None:
        desk = desk_at(service.url, sampling=LONG)
        desk.write()
        assert soon(lambda: len(desk.live[1]) > 5)
        desk.stop()
        assert over(desk)
        assert service.idle()
        assert hands(desk)[1][0] == "model"
        assert desk.passage
        assert desk.passage.complete
        assert desk.passage.complete.reason == "cancelled"

    def test_retry_writes_another_passage_and_undo_brings_the_first_back(self, desk: Desk) -> None:
        desk.write()
        assert over(desk)
        first = desk.manuscript.text
        desk.write("retry")
        assert over(desk)
        second = desk.manuscript.text
        assert second != first
        assert second.startswith("It was")
        desk.undo()
        assert desk.manuscript.text == first
        assert desk.can_retry
        desk.undo()
        assert desk.manuscript.text == "It was"
        desk.redo()
        desk.redo()
        assert desk.manuscript.text == second

    def test_of_several_one_is_taken_and_the_others_leave_nothing(self, desk: Desk, service: Running) -> None:
        desk.several(3)
        assert desk.job
        assert soon(lambda: bool(desk.job and desk.job.ended))
        desk.look()
        texts = [writing.text for writing in desk.job.writings]
        assert len(set(texts)) == 3
        desk.take(1)
        assert desk.manuscript.text == "It was" + texts[1]
        desk.undo()
        assert desk.manuscript.text == "It was"
        assert service.idle()

    def test_one_that_is_still_being_written_can_be_taken_and_goes_on_alone(self, service: Running) -> None:
        desk = desk_at(service.url, sampling=LONG)
        desk.several(2)
        assert soon(lambda: all(writing.tokens for writing in desk.job.writings))  # type: ignore[union-attr]
        desk.take(0)
        assert desk.job
        assert soon(lambda: service.engine.active == 1)
        desk.stop()
        assert over(desk)
        assert service.idle()

    def test_an_alternative_is_taken_and_written_on_from_there(self, desk: Desk) -> None:
        desk.write()
        assert over(desk)
        assert desk.passage
        token = desk.passage.tokens[3]
        other = next(n for n, a in enumerate(token.alternatives) if a.text != token.text)
        before = "It was" + "".join(t.text for t in desk.passage.tokens[:3]) + token.alternatives[other].text
        desk.choose(3, other)
        assert over(desk)
        assert desk.manuscript.text.startswith(before)
        assert desk.passage
        assert len(desk.passage.tokens) == 4 + FEW.max_tokens

    def test_also_of_what_is_still_being_written(self, service: Running) -> None:
        desk = desk_at(service.url, sampling=LONG)
        desk.write()
        assert soon(lambda: len(desk.live[1]) > 4)
        kept = "".join(token.text for token in desk.live[1][:2])
        desk.choose(2, 0)
        assert soon(lambda: len(desk.live[1]) > 8)
        assert soon(lambda: service.engine.active == 1)
        desk.stop()
        assert over(desk)
        assert desk.manuscript.text.startswith("It was" + kept)

    def test_what_has_come_is_a_step_when_a_word_of_it_is_chosen(self, service: Running) -> None:
        desk = desk_at(service.url, sampling=LONG)
        desk.write()
        assert soon(lambda: len(desk.live[1]) > 4)
        desk.choose(2, 0)
        desk.undo()
        assert desk.job is None
        written = desk.manuscript.text.removeprefix("It was")
        assert desk.passage
        assert desk.passage.text == written
        assert len(desk.passage.tokens) > 4

    def test_also_where_the_service_has_gone(self, play: Play, free_port: Callable[[], int]) -> None:
        url, _ = play(" a", " dark", " night", "wait")
        desk = desk_at(url)
        desk.write()
        assert soon(lambda: len(desk.live[1]) == 3)
        alternative = Alternative(token=1, text=" bright", probability=0.1)
        assert desk.job
        desk.job.writings[0].tokens[1] = Token(" dark", 0.5, (alternative,))
        desk.service = Service(url=f"http://127.0.0.1:{free_port()}")
        desk.choose(1, 0)
        assert desk.notice
        assert (desk.job, desk.manuscript.text) == (None, "It was a dark night")

    def test_undo_while_the_model_writes_takes_back_what_it_wrote_and_no_more(self, play: Play) -> None:
        url, script = play(" a", " dark", "wait")
        desk = desk_at(url)
        desk.write()
        assert soon(lambda: len(desk.live[1]) == 2)
        desk.redo()
        assert desk.job
        desk.undo()
        assert (desk.job, desk.manuscript.text) == (None, "It was")
        desk.redo()
        assert desk.manuscript.text == "It was a dark"
        script.words = ("wait",)
        desk.write()
        desk.undo()  # nothing has come
        assert (desk.job, desk.manuscript.text) == (None, "It was a dark")

    def test_a_seed_is_drawn_here_and_can_be_typed_again(self, service: Running) -> None:
        desk = desk_at(service.url, sampling=SamplingParameters(max_tokens=12))
        desk.write()
        assert over(desk)
        assert desk.passage
        assert desk.passage.complete
        seed = desk.passage.complete.seed
        assert seed < 2**53
        first = desk.manuscript.text
        desk.undo()
        desk.sampling = SamplingParameters(max_tokens=12, seed=seed)
        desk.write()
        assert over(desk)
        assert desk.manuscript.text == first

    def test_an_alternative_that_is_none_changes_nothing(self, desk: Desk) -> None:
        desk.choose(0, 0)
        desk.write()
        assert over(desk)
        text = desk.manuscript.text
        desk.choose(500, 0)
        desk.choose(0, 500)
        assert (desk.job, desk.manuscript.text) == (None, text)

    def test_a_sentence_is_finished_and_no_more(self, play: Play) -> None:
        url, _ = play(" said", " Mr", ".", " Pip", ".", "”", " Then", " it", "wait")
        desk = desk_at(url, "“It was,")
        desk.write("sentence")
        assert soon(lambda: desk.live[1] and desk.live[1][-1].text == "”")
        assert over(desk)
        assert desk.manuscript.text == "“It was, said Mr. Pip.”"
        assert desk.passage
        assert desk.passage.sentence_over

    def test_an_emoji_over_several_tokens_is_whole_in_text_and_marks(self, play: Play) -> None:
        url, _ = play(" a", "", "", " 👒", "", "ש", "complete")
        desk = desk_at(url)
        desk.write()
        assert over(desk)
        assert desk.manuscript.text == "It was a 👒ש"
        assert desk.passage
        assert len(desk.passage.tokens) == 6
        assert [text for text, *_ in segments(desk)] == ["It was", " a", " 👒", "ש"]
        desk.edit("It was a 👒")
        assert desk.passage.text == " a 👒"

    def test_a_line_end_over_two_tokens_is_one(self, play: Play) -> None:
        url, _ = play(" a\r", "", "\n", "b\r", "c\r\n", "\n", "d", "complete")
        desk = desk_at(url)
        desk.write()
        assert over(desk)
        assert desk.manuscript.text == "It was a\nb\nc\n\nd"

    def test_a_long_text_is_sent_from_where_it_fits_with_memory_in_front(self, play: Play) -> None:
        url, script = play(" x", "complete")
        desk = desk_at(url, "w" * 500)
        desk.memory = "Pip."
        desk.write()
        assert over(desk)
        asked = script.asked[0]
        assert "".join(map(chr, asked["prompt"])).startswith("Pip.\n\nwww")
        assert len(asked["prompt"]) == 64 - 12
        assert asked["parameters"]["keep_tokens"] == 6
        assert desk.sight().hidden > 400

    def test_a_hundred_thousand_words_are_opened_edited_and_gone_on_with(self, service: Running) -> None:
        novel = ("word " * 99 + "end.\n\n") * 1000
        desk = desk_at(service.url, "")
        desk.replace_all((Piece(novel, "writer"),))
        start, end = desk.window
        assert end == len(novel)
        assert end - start < 15_000
        desk.edit(novel[start:end] + "Then")
        desk.turn_to(0)
        desk.edit("Once " + novel[: desk.window[1]])
        desk.write()
        assert over(desk)
        assert desk.manuscript.text.startswith("Once word word")
        assert novel[-20:] + "Then" in desk.manuscript.text
        for _ in range(3):
            desk.undo()
        assert desk.manuscript.text == novel


class TestText:
    def test_edits_wait_while_the_model_writes(self, service: Running) -> None:
        desk = desk_at(service.url, sampling=LONG)
        desk.write()
        epoch = desk.epoch
        desk.edit("something else")
        assert desk.epoch > epoch
        desk.stop()
        assert over(desk)
        assert desk.manuscript.text.startswith("It was")

    def test_what_no_service_takes_is_cleaned_before_it_is_sent(self, service: Running) -> None:
        desk = desk_at(service.url, "It\x00 was \ud83d<script>👨‍👩‍👧 שלום\x1b")
        desk.write()
        assert over(desk)
        assert desk.notice is None
        assert desk.manuscript.text.startswith("It was \ufffd<script>👨‍👩‍👧 שלום")

    def test_more_than_a_desk_holds_is_not_taken(self) -> None:
        desk = Desk()
        desk.edit("It was")
        epoch = desk.epoch
        desk.edit("x" * 4_000_001)
        assert (desk.manuscript.text, desk.epoch) == ("It was", epoch + 1)
        assert desk.notice
        assert "4,000,000 characters" in desk.notice.text

    def test_an_edit_before_a_passage_leaves_its_tokens_known(self, desk: Desk) -> None:
        desk.write()
        assert over(desk)
        assert desk.passage
        tokens = desk.passage.tokens
        desk.edit("Once i" + desk.manuscript.text[1:])
        assert desk.passage.tokens == tokens
        assert desk.manuscript.text[desk.passage.start : desk.passage.end] == desk.passage.text
        desk.edit(desk.manuscript.text + " Then")
        assert not desk.can_retry

    def test_a_session_that_is_opened_replaces_the_text_and_can_be_undone(self, desk: Desk) -> None:
        desk.memory = "Pip"
        kept = saved(desk.session)
        other = Desk()
        other.edit("Mine")
        other.open(loaded(kept))
        assert (other.manuscript, other.memory, other.sampling) == (desk.manuscript, "Pip", FEW)
        other.memory = "Changed since"
        other.undo()
        assert (other.manuscript.text, other.memory, other.sampling) == ("Mine", "", SamplingParameters())
        other.redo()
        assert (other.manuscript, other.memory, other.sampling) == (desk.manuscript, "Changed since", FEW)

    def test_what_is_opened_can_be_chosen_from_and_retried(self, desk: Desk, service: Running) -> None:
        desk.write()
        assert over(desk)
        assert desk.passage
        other = desk_at(service.url, "Mine")
        other.open(loaded(saved(desk.session)))
        assert other.can_retry
        assert other.passage
        assert [token.text for token in other.passage.tokens] == [token.text for token in desk.passage.tokens]
        other.choose(3, 1)
        assert over(other)
        assert other.manuscript.text.startswith("It was" + "".join(t.text for t in desk.passage.tokens[:3]))
        other.undo()
        other.undo()
        assert other.manuscript.text == "Mine"


class TestConnections:
    def test_they_are_closed_when_a_service_is_replaced_and_when_a_desk_goes(
        self, toy_artifact: Path, free_port: Callable[[], int]
    ) -> None:
        with running(toy_artifact, free_port(), ServiceConfig()) as own:
            desk = desk_at(own.url)
            desk.sight()
            assert own.connections == 1
            desk.service = Service(url=own.url)
            assert soon(lambda: own.connections == 0, 4)
            desk.write()
            assert over(desk)
            assert own.connections == 1
            del desk
            assert soon(lambda: own.connections == 0, 4)

    def test_a_passage_keeps_its_own_until_it_ends(self, service: Running) -> None:
        desk = desk_at(service.url, sampling=LONG)
        desk.write()
        desk.service = Service(url=service.url)
        assert soon(lambda: len(desk.live[1]) > 20)
        desk.stop()
        assert over(desk)
        assert desk.notice is None
