"""The desk's page, run by Streamlit's own test harness against a real service; what its sheet is given and says."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import httpx2
import pytest
from streamlit.testing.v1 import AppTest

from tests.client.desk_services import Play, play
from tests.running_service import Service, soon
from victorian.client import Client, streamlit_app
from victorian.client.desk.desk import Desk
from victorian.client.desk.presets import DRAWING, KNOBS, OPENINGS, PRESETS
from victorian.client.desk.service import Service as Address
from victorian.client.desk.session import Session, saved
from victorian.client.desk.views.candidates import as_prose
from victorian.client.desk.views.sheet import act, segments, sheet_data, take
from victorian.client.desk.views.widgets import literally
from victorian.config import SamplingParameters, bounds
from victorian.errors import ServiceError

__all__ = ["play"]

HOSTILE = "<img src=x onerror=alert(1)><script>alert(1)</script> ![x](http://example.org/x) :red[x] $x$"
LONG = SamplingParameters(max_tokens=30_000, min_tokens=30_000)


@pytest.fixture
def page(service: Service, monkeypatch: pytest.MonkeyPatch) -> AppTest:
    monkeypatch.setenv("VICTORIAN_URL", service.url)
    return AppTest.from_file(str(Path(streamlit_app.__file__)), default_timeout=30).run()


def desk_of(page: AppTest) -> Desk:
    desk: Desk = page.session_state["desk"]
    return desk


def over(page: AppTest) -> bool:
    """Whether what is being written comes to its end; the harness does not run fragments by itself."""
    return soon(lambda: desk_of(page.run()).job is None, 20)


def buttons(page: AppTest) -> set[str]:
    return {button.key for button in page.button if not button.disabled and button.key}


def bodies(page: AppTest) -> list[str]:
    """What stands on it as HTML."""
    return [element.proto.body for element in page.get("html")]


class TestPage:
    def test_it_says_nothing_that_was_not_meant_for_it(self, page: AppTest) -> None:
        assert not page.exception
        assert not page.error
        assert [m.value for m in page.markdown] == []
        assert [c.value for c in page.caption] == ["0 words · the model sees 0 tokens; 48 more have room"]

    def test_every_parameter_has_a_widget_with_its_range_default_and_a_word_on_prose(self, page: AppTest) -> None:
        page.toggle(key="advanced").set_value(True).run()
        defaults = SamplingParameters()
        for name in DRAWING:
            slider = page.slider(key=name)
            assert ((slider.min, slider.max), slider.value) == (bounds(name), getattr(defaults, name))
            assert slider.help == KNOBS[name].prose
        length = page.number_input(key="max_tokens")
        assert ((length.min, length.max), length.value) == (bounds("max_tokens"), 256)
        assert page.number_input(key="seed").value is None
        assert page.text_area(key="stop").value == ""
        assert desk_of(page).sampling == defaults

    def test_a_seed_that_no_browser_can_show_stays_until_another_is_typed(self, page: AppTest) -> None:
        desk = desk_of(page)
        desk.sampling = SamplingParameters(seed=2**60)
        page.toggle(key="advanced").set_value(True).run()
        assert not page.exception
        assert desk.sampling.seed == 2**60
        page.number_input(key="seed").set_value(7).run()
        assert desk.sampling.seed == 7

    def test_undo_of_a_session_that_was_opened_shows_what_was_set_before(self, page: AppTest) -> None:
        page.text_area(key="memory").set_value("Mine").run()
        desk = desk_of(page)
        desk.edit("It was")
        page.file_uploader(key="open").upload("other.json", saved(Session(memory="Theirs")).encode()).run()
        assert not page.exception
        assert page.text_area(key="memory").value == "Theirs"
        page.button(key="undo").click().run()
        assert (desk.manuscript.text, desk.memory) == ("It was", "Mine")
        assert page.text_area(key="memory").value == "Mine"

    def test_with_another_key_it_is_asked_at_once_what_it_would_not_say_before(self, page: AppTest) -> None:
        page.session_state["blind"] = monotonic() + 60, "this service wants a key"
        assert "this service wants a key" in page.run().caption[0].value
        page.text_input(key="api_key").set_value("another").run()
        assert "the model sees" in page.caption[0].value

    def test_a_service_that_does_not_say_its_models_is_not_asked_at_every_touch(
        self, page: AppTest, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked = []

        def silent(client: Client) -> list[str]:
            asked.append(client)
            raise ServiceError("the service does not answer")

        monkeypatch.setattr(Client, "models", silent)
        page.text_input(key="api_key").set_value("another").run()
        for _ in range(3):
            page.run()
        assert not page.exception
        assert len(asked) == 1
        assert "the service does not answer" in page.caption[0].value.replace("\\", "")

    def test_simple_view_has_manner_and_length_alone(self, page: AppTest) -> None:
        assert not page.slider
        page.button_group(key="preset").set_value("Fanciful").run()
        assert desk_of(page).sampling == PRESETS["Fanciful"]
        page.toggle(key="advanced").set_value(True).run()
        assert page.slider(key="temperature").value == PRESETS["Fanciful"].temperature
        page.slider(key="temperature").set_value(0.55).run()
        assert page.button_group(key="preset").value is None
        page.toggle(key="advanced").set_value(False).run()
        assert desk_of(page).sampling.temperature == 0.55

    def test_a_passage_is_written_with_the_chosen_parameters(self, page: AppTest, service: Service) -> None:
        page.toggle(key="advanced").set_value(True).run()
        page.number_input(key="max_tokens").set_value(30)
        page.number_input(key="seed").set_value(5)
        page.slider(key="temperature").set_value(0.7)
        desk_of(page).edit("It was")
        page.button(key="continue").click().run()
        assert over(page)
        assert not page.exception
        body = {"prompt": "It was", "max_tokens": 30, "seed": 5, "temperature": 0.7}
        expected = httpx2.post(f"{service.url}/v1/completions", json=body).json()["choices"][0]["text"]
        assert desk_of(page).manuscript.text == "It was" + expected
        said = page.caption[0].value
        assert "It reached its length · 30 tokens · " in said
        assert "tokens/s" in said
        assert "seed 5" in said

    def test_it_can_be_stopped_and_shows_what_has_come(self, page: AppTest, service: Service) -> None:
        desk = desk_of(page)
        desk.edit("It was")
        page.number_input(key="max_tokens").set_value(30_000)
        page.button(key="continue").click().run()
        assert soon(lambda: len(desk.live[1]) > 3)
        page.run()
        assert buttons(page) == {"stop_writing"}
        assert "tokens/s · first after" in page.caption[0].value
        page.button(key="stop_writing").click().run()
        assert over(page)
        assert service.idle()
        assert "It was stopped" in page.caption[0].value
        assert {"continue", "sentence", "retry", "several", "undo"} <= buttons(page)

    def test_a_second_press_of_a_button_that_is_gone_changes_nothing(self, page: AppTest) -> None:
        desk = desk_of(page)
        desk.edit("It was")
        page.number_input(key="max_tokens").set_value(30_000)
        page.button(key="continue").click().run()
        job = desk.job
        assert job
        page.session_state["press"].note(desk.write, None)  # as the button's second press would say
        page.run()
        assert desk.job is job
        page.button(key="stop_writing").click().run()
        assert over(page)

    def test_three_ways_stand_side_by_side_and_one_is_taken(self, page: AppTest) -> None:
        desk = desk_of(page)
        desk.edit("It was")
        page.number_input(key="max_tokens").set_value(12)
        page.button(key="several").click().run()
        assert soon(lambda: bool(desk.job and desk.job.ended))
        page.run()
        assert {"take1", "take2", "take3", "dismiss"} <= buttons(page)
        assert desk.job
        text = desk.job.writings[1].text
        page.button(key="take2").click().run()
        assert over(page)
        assert desk.manuscript.text == "It was" + text
        page.button(key="undo").click().run()
        assert desk.manuscript.text == "It was"
        page.button(key="redo").click().run()
        assert desk.manuscript.text == "It was" + text

    def test_an_opening_is_a_beginning(self, page: AppTest) -> None:
        page.button(key="opening At sea").click().run()
        assert desk_of(page).manuscript.text == OPENINGS["At sea"]
        assert not any(button.key.startswith("opening") for button in page.button if button.key)

    def test_memory_and_note_are_counted_in_the_room(self, page: AppTest) -> None:
        page.text_area(key="memory").set_value("Pip is a boy").run()
        page.text_area(key="note").set_value("rain").run()
        assert "of memory and " in page.caption[0].value
        page.text_area(key="memory").set_value("Pip is a boy " * 50).run()
        assert "shorten it" in page.caption[0].value

    def test_too_many_stop_strings_are_said_on_the_page(self, page: AppTest) -> None:
        page.toggle(key="advanced").set_value(True).run()
        page.text_area(key="stop").set_value("a\nb\nc\nd\ne").run()
        assert not page.exception
        assert "These settings cannot be" in page.error[0].value
        assert "continue" not in buttons(page)
        page.text_area(key="stop").set_value("a\nb").run()
        assert desk_of(page).sampling.stop == ("a", "b")

    def test_stop_strings_of_a_session_stay_until_others_are_written(self, page: AppTest) -> None:
        desk_of(page).sampling = SamplingParameters(stop=("\n\n", "END"))
        page.toggle(key="advanced").set_value(True).run()
        assert desk_of(page.run()).sampling.stop == ("\n\n", "END")
        page.text_area(key="stop").set_value("a").run()
        assert desk_of(page).sampling.stop == ("a",)
        page.text_area(key="stop").set_value("").run()
        assert desk_of(page).sampling.stop == ()

    def test_a_title_has_no_control_characters(self, page: AppTest) -> None:
        page.text_input(key="title").set_value("The\x0b Moor").run()
        assert desk_of(page).title == "The Moor"

    def test_a_service_that_is_down_is_said_and_its_return_as_well(
        self, service: Service, monkeypatch: pytest.MonkeyPatch, free_port: Callable[[], int]
    ) -> None:
        monkeypatch.setenv("VICTORIAN_URL", f"http://127.0.0.1:{free_port()}")
        page = AppTest.from_file(str(Path(streamlit_app.__file__)), default_timeout=30).run()
        desk = desk_of(page)
        desk.edit("It was")
        page.button(key="continue").click().run()
        assert not page.exception
        assert "o service answers at" in page.error[0].value.replace("\\", "")
        assert desk.manuscript.text == "It was"
        page.text_input(key="api_key").set_value(
            "a b"
        ).run()  # which can be none: it is asked with it whether it is back
        assert not page.exception
        assert "o service answers at" in page.error[0].value.replace("\\", "")
        page.text_input(key="api_key").set_value("").run()
        monkeypatch.setenv("VICTORIAN_URL", service.url)
        desk.service = Address()
        page.run()
        assert "The service is there again" in page.info[0].value.replace("\\", "")

    def test_a_text_of_markup_is_only_ever_data(self, page: AppTest) -> None:
        desk_of(page).edit(HOSTILE)
        page.run()
        for element in (*page.markdown, *page.caption, *page.get("alert")):
            assert "onerror" not in str(element)
        assert not [body for body in bodies(page) if "onerror" in body]
        assert segments(desk_of(page)) == [(HOSTILE, "writer", None, None)]

    def test_who_wrote_what_is_listed_for_those_who_cannot_see_it(self, page: AppTest) -> None:
        desk = desk_of(page)
        desk.edit(HOSTILE)
        page.number_input(key="max_tokens").set_value(12)
        page.button(key="continue").click().run()
        assert over(page)
        assert not [body for body in bodies(page) if 'class="hands"' in body]
        page.session_state["hands"] = True
        page.run()
        assert not page.exception
        (listed,) = [body for body in bodies(page) if 'class="hands"' in body]
        assert listed.index("<b>You</b>") < listed.index("&lt;img src=x") < listed.index("<b>The model</b>")
        assert "<img" not in listed

    def test_while_nothing_has_come_it_says_that_it_waits_and_can_be_stopped(
        self, play: Play, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        url, script = play("hang")
        monkeypatch.setenv("VICTORIAN_URL", url)
        page = AppTest.from_file(str(Path(streamlit_app.__file__)), default_timeout=30).run()
        desk_of(page).edit("It was")
        page.button(key="continue").click().run()
        assert page.caption[0].value == "Waiting for the first word…"
        page.button(key="stop_writing").click().run()
        assert over(page)
        assert soon(lambda: script.left == 1)
        assert len(script.asked) == 1
        assert desk_of(page).manuscript.text == "It was"

    def test_two_pages_are_two_desks(self, page: AppTest) -> None:
        other = AppTest.from_file(str(Path(streamlit_app.__file__)), default_timeout=30).run()
        desk_of(page).edit("Mine")
        other.run()
        assert desk_of(other).manuscript.text == ""


def test_an_address_in_words_from_elsewhere_is_no_link() -> None:
    plain = literally("see http://example.org, www.example.org or a@example.org").replace("\\", "")
    assert "://" not in plain
    assert "www." not in plain
    assert "a@" not in plain
    assert plain.replace("\u2060", "") == "see http://example.org, www.example.org or a@example.org"


def test_nothing_in_words_from_elsewhere_is_markdown_or_markup() -> None:
    shown = literally(HOSTILE)
    for mark in "<>![]():$":
        assert shown.count(mark) == shown.count(f"\\{mark}")
    assert "<img" not in as_prose(HOSTILE, ended=True)
    assert "&lt;img" in as_prose(HOSTILE, ended=True)


@pytest.fixture
def desk(service: Service) -> Iterator[Desk]:
    desk = Desk()
    desk.service = Address(url=service.url)
    desk.sampling = SamplingParameters(max_tokens=12, seed=5)
    yield desk
    desk.stop()


def said(desk: Desk, number: int, text: str, **more: Any) -> dict[str, Any]:
    return {"epoch": desk.epoch, "number": number, "text": text, **more}


class TestSheet:
    def test_what_is_typed_is_taken_once_and_only_for_the_text_it_was_typed_in(self, desk: Desk) -> None:
        first = said(desk, 1, "It was")
        take(desk, first)
        desk.undo()
        take(desk, first)
        take(desk, {**first, "number": 2})
        assert desk.manuscript.text == ""
        take(desk, said(desk, 3, "It is"))
        assert desk.manuscript.text == "It is"

    @pytest.mark.parametrize(
        "nonsense", [None, 5, {}, {"epoch": "x"}, {"epoch": 0, "number": 9, "text": "x" * 4_000_001}]
    )
    def test_what_is_no_edit_changes_nothing(self, desk: Desk, nonsense: Any) -> None:
        assert take(desk, nonsense) is None
        assert not act(desk, nonsense)
        assert not act(desk, said(desk, 1, "x", name="explode"))
        assert desk.manuscript.text == ""

    def test_a_key_brings_along_what_was_typed_before_it(self, desk: Desk) -> None:
        assert act(desk, said(desk, 1, "It was", name="continue"))
        assert soon(lambda: bool(desk.job and desk.job.ended))
        desk.look()
        assert desk.manuscript.text.startswith("It was")
        assert act(desk, said(desk, 2, desk.manuscript.text, name="undo"))
        assert desk.manuscript.text == "It was"
        assert act(desk, said(desk, 3, "It was", name="redo"))
        assert act(desk, said(desk, 4, desk.manuscript.text, name="choose", index=1, alternative=0))
        assert desk.job

    def test_tokens_are_marked_with_their_probability_and_alternatives(self, desk: Desk) -> None:
        desk.edit("It was")
        desk.write()
        assert soon(lambda: bool(desk.job and desk.job.ended))
        for _ in ("while it is written", "and after"):
            given = sheet_data(desk, tokens=True, status="")
            assert given["segments"][0] == ("It was", "writer", None, None)
            assert [index for _, _, _, index in given["segments"][1:]] == list(range(12))
            assert all(hand == "model" and 0 < p <= 1 for _, hand, p, _ in given["segments"][1:])
            assert len(given["alternatives"]["11"]) == 5
            json.dumps(given)
            desk.look()
        assert "".join(text for text, *_ in given["segments"]) == desk.manuscript.text
        assert sheet_data(desk, tokens=False, status="")["alternatives"] == {}

    def test_of_a_long_text_only_a_page_is_given_and_less_while_it_is_written(self, desk: Desk) -> None:
        desk.edit("word " * 100_000)
        desk.turn_to(len(desk.manuscript.text))
        assert len(json.dumps(sheet_data(desk, tokens=True, status="")["segments"])) < 20_000
        desk.write()
        assert desk.job
        assert len(json.dumps(sheet_data(desk, tokens=True, status="")["segments"])) < 8_000
        assert sheet_data(desk, tokens=True, status="")["draft"] is None

    def test_a_page_that_is_loaded_again_brings_its_text_back(self, desk: Desk) -> None:
        desk.edit("It was")
        desk.memory = "Pip"
        draft = sheet_data(desk, tokens=False, status="")["draft"]
        assert draft == saved(desk.session)
        other = Desk()
        assert sheet_data(other, tokens=False, status="")["fresh"]
        assert act(other, said(other, 1, "", name="restore", draft=draft))
        assert (other.manuscript, other.memory) == (desk.manuscript, "Pip")
        assert act(other, said(other, 2, "It was", name="restore", draft="{"))
        assert other.manuscript.text == "It was"

    def test_a_damaged_draft_is_refused_in_words(self, desk: Desk) -> None:
        act(desk, said(desk, 1, "", name="restore", draft="{"))
        assert desk.notice
        assert "no saved session" in desk.notice.text
