"""The page that is written on: what it is given, and what it says back.

It is a component of a few files beside this one, with no build step and no other host. Texts reach it as JSON and are
only ever set as text.
"""

from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import streamlit as st
from pydantic import Field, ValidationError

from victorian.client.desk.desk import Desk
from victorian.client.desk.manuscript import MAX_CHARACTERS
from victorian.client.desk.notices import notice_of
from victorian.client.desk.passage import Token
from victorian.client.desk.session import loaded, saved
from victorian.client.desk.views.widgets import show_settings
from victorian.config import Section
from victorian.errors import RequestError

KEY = "sheet"
SCRIPTS = ("typed.js", "choices.js", "place.js", "sheet.js")
"""In the order in which they stand in the page's one module."""
TAIL_CHARACTERS = 3_000
"""What of the manuscript is shown before a passage while it is written."""
TAIL_TOKENS = 1_200
"""Tokens of a passage that are shown with their marks: what is before them is out of sight anyway."""

Segment = tuple[str, Literal["writer", "model"], float | None, int | None]
"""Text, whose it is, and of a token how likely it was and its number in the passage."""


class Edit(Section):
    """What stands on the page, as the browser says."""

    epoch: int
    number: int
    """Each is said once; a page that runs again finds the last one still there."""
    text: str = Field(max_length=MAX_CHARACTERS)


class Act(Edit):
    """A key or a button of the page itself."""

    name: Literal["continue", "retry", "stop", "undo", "redo", "choose", "restore"]
    index: int = Field(0, ge=0)
    alternative: int = Field(0, ge=0)
    draft: str = ""


def segments(desk: Desk) -> list[Segment]:
    """The page as it is to be shown."""
    start, end = desk.window
    base, tokens = desk.live
    if base is None:
        return _plain(desk, start, end)
    first = max(0, len(tokens) - TAIL_TOKENS)
    begin = base + sum(len(token.text) for token in tokens[:first])
    if desk.job:
        tail = _plain(desk, max(start, base - TAIL_CHARACTERS), base) if not first else []
        return tail + [_segment(token, number) for number, token in enumerate(tokens[first:], first)]
    ends = list(accumulate((len(token.text) for token in tokens[first:]), initial=begin))
    shown = [(n, token) for n, token in enumerate(tokens[first:]) if start <= ends[n] and ends[n + 1] <= end]
    if not shown:
        return _plain(desk, start, end)
    before, after = ends[shown[0][0]], ends[shown[-1][0] + 1]
    marked = [_segment(token, first + n) for n, token in shown if token.text]
    return _plain(desk, start, before) + marked + _plain(desk, after, end)


def sheet_data(desk: Desk, tokens: bool, status: str) -> dict[str, Any]:
    """What the page is given."""
    shown = segments(desk)
    _, live = desk.live
    known = {index: live[index].alternatives for _, _, _, index in shown if index is not None} if tokens else {}
    return {
        "segments": shown,
        "epoch": desk.epoch,
        "start": desk.window[0],
        "heard": desk.heard,
        "acted": desk.acted,
        "writing": desk.job is not None,
        "coming": desk.job is not None and not desk.job.choosing,
        "choosing": desk.job is not None and desk.job.choosing,
        "tokens": tokens,
        "alternatives": {str(index): [(a.text, a.probability) for a in found] for index, found in known.items()},
        "to_end": desk.window[1] == len(desk.manuscript.text),
        "fresh": desk.revision == 0,
        "draft": _draft(desk),
        "status": status,
    }


def mount(desk: Desk, tokens: bool, status: str) -> None:
    """Show the page, and do what was asked for on it."""
    folder = Path(__file__).parent
    component = st.components.v2.component(
        "victorian.sheet",
        html=(folder / "sheet.html").read_text("utf-8"),
        css=(folder / "sheet.css").read_text("utf-8"),
        js="\n".join((folder / name).read_text("utf-8") for name in SCRIPTS),
    )
    said = component(
        key=KEY,
        data=sheet_data(desk, tokens, status),
        on_edit_change=_nothing,
        on_act_change=_nothing,
    )
    if said.get("act") and act(desk, said["act"]):
        st.rerun()


def take_act(desk: Desk) -> None:
    """Do what a key of the page asked for."""
    state = st.session_state.get(KEY) or {}
    said = state.get("act")
    if said:
        act(desk, said)


def take_edit(desk: Desk) -> None:
    """Put what was typed into the manuscript, before anything else is done with it."""
    state = st.session_state.get(KEY) or {}
    for said, shape in ((state.get("edit"), Edit), (state.get("act"), Act)):
        if said:
            take(desk, said, shape)


def take(desk: Desk, said: Any, shape: type[Edit] = Edit) -> Edit | None:
    """Take what stands on the page, once; None for what is old, or no such thing."""
    try:
        edit = shape.model_validate(said)
    except ValidationError:
        return None
    if edit.epoch == desk.epoch and edit.number > desk.heard and not desk.job:
        desk.heard = edit.number
        desk.edit(edit.text)
    return edit


def act(desk: Desk, said: Any) -> bool:
    """Do what was asked for on the page; whether anything was."""
    asked = take(desk, said, Act)
    about = desk.about
    if not isinstance(asked, Act) or asked.number <= desk.acted:
        return False
    desk.acted = asked.number
    match asked.name:
        case "continue" | "retry":
            if not desk.job:
                desk.write(asked.name)
        case "stop":
            desk.stop()
        case "undo":
            desk.undo()
        case "redo":
            desk.redo()
        case "choose":
            desk.choose(asked.index, asked.alternative)
        case "restore":
            if desk.revision == 0:
                _restore(desk, asked.draft, asked.index)
    if desk.about != about:
        show_settings()
    return True


def _restore(desk: Desk, draft: str, start: int) -> None:
    """Go on with a draft, on the page that begins there; 0 for the last."""
    try:
        desk.open(loaded(draft))
        if start:
            desk.turn_to(start)
    except RequestError as error:
        desk.notice = notice_of(error)


def _draft(desk: Desk) -> str | None:
    """For the browser to keep; empty where it should keep nothing, None where it should leave what it has."""
    if desk.revision == 0 or desk.job:
        return None
    return saved(desk.session) if desk.manuscript.text else ""


def _plain(desk: Desk, start: int, end: int) -> list[Segment]:
    return [(piece.text, piece.author, None, None) for piece in desk.manuscript.between(start, end)]


def _segment(token: Token, number: int) -> Segment:
    return (token.text, "model", token.probability, number)


def _nothing() -> None:
    """Streamlit wants to call something for each thing that a component says."""
