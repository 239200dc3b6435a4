"""The page that a writer stays on."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import streamlit as st

from victorian.client.desk.desk import Desk, Job
from victorian.client.desk.manuscript import Piece, pages
from victorian.client.desk.notices import BACK
from victorian.client.desk.passage import Passage
from victorian.client.desk.presets import OPENINGS
from victorian.client.desk.prompt import Sight
from victorian.client.desk.views.candidates import candidates
from victorian.client.desk.views.hands import hands
from victorian.client.desk.views.panel import blind, panel
from victorian.client.desk.views.sheet import mount, take_act, take_edit
from victorian.client.desk.views.widgets import keep, literally, show_settings
from victorian.errors import VictorianError

LOOK_SECONDS = 0.25
FIRST_SECONDS = 0.25
"""How long a look waits for the first token, so as to show it at once and not at the next one."""
STOP_SECONDS = 1.0
"""How long it waits for the end of what was stopped."""
AWAY_SECONDS = 3.0
"""How often it is looked whether a service that was out of reach is back."""
WAYS = 3


def write_page() -> None:
    desk: Desk = st.session_state.setdefault("desk", Desk())
    st.html(f"<style>{(Path(__file__).parent / 'page.css').read_text('utf-8')}</style>")
    take_edit(desk)
    desk.look()
    usable = panel(desk)
    _do(desk, usable)
    awaited = desk.job is not None and desk.job.awaited  # once for the whole run: it can end at any line of it
    st.title("The writing desk", anchor=False)
    place = st.container()
    _page_turner(desk)
    hands(desk)
    with st.bottom:  # what went wrong too: a writer is at any place of a long page
        away = desk.notice is not None and desk.notice.away
        st.fragment(_notice, run_every=AWAY_SECONDS if away else None)(desk)
        _actions(desk, usable, awaited)
    with place:
        if awaited:
            st.fragment(_written, run_every=LOOK_SECONDS)(desk)
        else:
            # Not as a fragment: a click that ends the typing would be lost, since the browser sends both at once, and
            # Streamlit runs but one fragment for what comes at once. The containers are what the fragments would have.
            with st.container(), st.container():
                _shown(desk)


@dataclass
class Press:
    """What a button was pressed for: it is done in the run's order, after typed text and panel have been taken.

    An object of its own, since Streamlit drops a callback that touches the session's state when the next run is due.
    """

    do: Callable[[], None] | None = None
    job: Job | None = None
    writes: bool = True
    """Whether that wants settings with which can be written."""

    def note(self, do: Callable[[], None], job: Job | None, writes: bool = True) -> None:
        self.do, self.job, self.writes = do, job, writes


def _press() -> Press:
    press: Press = st.session_state.setdefault("press", Press())
    return press


def _do(desk: Desk, usable: bool) -> None:
    """What was asked for with a button or a key, so that this run shows what comes of it."""
    press = _press()
    do, press.do = press.do, None
    about = desk.about
    if do is None:
        take_act(desk)
    elif desk.job is press.job and (usable or not press.writes):  # or the page was a moment behind
        do()
    if desk.about != about:
        show_settings()
        st.rerun()  # the panel was shown with what was before


def _stop(desk: Desk) -> None:
    desk.stop()
    for writing in desk.job.writings if desk.job else ():
        writing.wait(STOP_SECONDS)
    desk.look()


def _written(desk: Desk) -> None:
    """What is being written; runs again by itself, so that no run of the page is what a passage hangs on."""
    if desk.job:
        desk.job.writings[0].begun(FIRST_SECONDS)
    desk.look()
    if desk.job is None or not desk.job.awaited:
        st.rerun()
    # A fragment within: what a run has not sent yet of the fragment that is due again is dropped by Streamlit, which
    # would take the sheet away until the next look has made it anew.
    st.fragment(_shown)(desk)


def _shown(desk: Desk) -> None:
    mount(desk, st.session_state.get("shading", False), _status(desk))
    st.caption(_progress(desk))
    if desk.job and desk.job.choosing:
        candidates(desk)


def _notice(desk: Desk) -> None:
    notice = desk.notice
    if notice is None:
        return
    if notice.away and not desk.job and _back(desk):
        desk.notice = notice = BACK
        for known in ("blind", "no_models"):  # it can be asked again
            st.session_state.pop(known, None)
    show = {"error": st.error, "warning": st.warning, "info": st.info}[notice.kind]
    show(literally(notice.text))


def _back(desk: Desk) -> bool:
    try:
        return desk.service.hasty_client.ready()
    except VictorianError:  # such as of a key that can be none, which the panel tells
        return False


def _actions(desk: Desk, usable: bool, awaited: bool) -> None:
    with st.container(horizontal=True, gap="small", vertical_alignment="center", key="actions"):
        if desk.job:
            _while_writing(desk, desk.job, awaited)
        else:
            _before_writing(desk, usable)
        st.session_state.shading = st.toggle(
            "Token view",
            key=keep("tokens", st.session_state.get("shading", False)),
            help="Shades each word of the last passage by how unlikely it was; touch one to see others.",
        )


def _button(
    desk: Desk, label: str, key: str, do: Callable[[], None], able: bool = True, writes: bool = False, **other: Any
) -> None:
    st.button(label, key=key, disabled=not able, on_click=_press().note, args=(do, desk.job, writes), **other)


def _while_writing(desk: Desk, job: Job, awaited: bool) -> None:
    if awaited:
        _button(desk, "Stop", "stop_writing", partial(_stop, desk), type="primary", icon=":material/stop:")
    if job.choosing:
        # Here, and not beside the ways, which are a fragment as long as they are written: a press would be lost if that
        # ended meanwhile.
        for number in range(len(job.writings)):
            _button(desk, f"Take {number + 1}", f"take{number + 1}", partial(desk.take, number))
        _button(desk, "Take none", "dismiss", desk.dismiss, icon=":material/close:")


def _before_writing(desk: Desk, usable: bool) -> None:
    sentence, retry = partial(desk.write, "sentence"), partial(desk.write, "retry")
    _button(desk, "Continue", "continue", desk.write, usable, writes=True, type="primary", icon=":material/edit:")
    _button(desk, "Sentence", "sentence", sentence, usable, writes=True, help="Goes on to the sentence’s end.")
    _button(desk, "Retry", "retry", retry, usable and desk.can_retry, writes=True, help="The last passage, otherwise.")
    several = partial(desk.several, WAYS)
    _button(desk, "Three ways", "several", several, usable, writes=True, help="Three passages, to choose from.")
    _button(desk, "Undo", "undo", desk.undo, bool(desk.history.done), icon=":material/undo:")
    _button(desk, "Redo", "redo", desk.redo, bool(desk.history.undone), icon=":material/redo:")


def _page_turner(desk: Desk) -> None:
    """Pages of a long manuscript, or openings for an empty one."""
    text = desk.manuscript.text
    if not text and not desk.job:
        with st.container(horizontal=True, gap="small", key="openings"):
            for name, opening in OPENINGS.items():
                if st.button(name, key=f"opening {name}", type="tertiary"):
                    desk.replace_all((Piece(opening, "writer"),))
                    st.rerun()
    found = pages(text)
    if len(found) > 1 and not desk.job:
        now = next((n for n, (_, end) in enumerate(found) if desk.window[0] < end), len(found) - 1)
        st.session_state.page = now + 1
        st.pagination(len(found), key="page", on_change=_press().note, args=(partial(_turn, desk), None, False))


def _turn(desk: Desk) -> None:
    found = pages(desk.manuscript.text)
    desk.turn_to(found[min(st.session_state.page, len(found)) - 1][0])


def _status(desk: Desk) -> str:
    """For a screen reader: said once when it changes, so not with every token."""
    if desk.job:
        return "Three passages are being written." if desk.job.choosing else "The model is writing."
    return _ending(desk.passage) if desk.passage and desk.passage.complete else ""


def _progress(desk: Desk) -> str:
    if desk.job:
        return _pace(desk)
    parts = [_counted(desk.manuscript.words, "word")]
    if desk.passage and desk.passage.complete:
        parts.append(_account(desk.passage))
    parts.append(_room(desk))
    return " · ".join(part for part in parts if part)


def _pace(desk: Desk) -> str:
    writings = desk.job.writings if desk.job else []
    begun = [writing for writing in writings if writing.first_seconds is not None]
    if not begun:
        return "Waiting for the first word…"
    tokens = sum(len(writing.tokens) for writing in begun)
    speed = sum(writing.tokens_per_second for writing in begun)
    return f"{_counted(tokens, 'token')} · {speed:,.0f} tokens/s · first after {begun[0].first_seconds or 0:.2f} s"


def _account(passage: Passage) -> str:
    complete = passage.complete
    assert complete is not None
    parts = [_ending(passage), _counted(complete.usage.completion_tokens, "token")]
    if passage.first_seconds is not None:
        parts += [f"{complete.timings.tokens_per_second:,.0f} tokens/s", f"first after {passage.first_seconds:.2f} s"]
    return " · ".join([*parts, f"seed {complete.seed}"])


def _ending(passage: Passage) -> str:
    if passage.sentence_over:
        return "The sentence is finished"
    reasons = {"stop": "It came to its end", "length": "It reached its length", "cancelled": "It was stopped"}
    return reasons[passage.complete.reason] if passage.complete else "It broke off"


def _room(desk: Desk) -> str:
    """The room that is left in the context, in words."""
    until, why = st.session_state.get("blind", (0.0, ""))
    if monotonic() < until:
        return str(why)
    try:
        return _sight(desk.sight())
    except VictorianError as error:
        blind(error)
        return literally(str(error))


def _sight(seen: Sight) -> str:
    besides = "".join(f" and {n} of {what}" for n, what in ((seen.memory, "memory"), (seen.note, "note")) if n)
    if seen.hidden:
        hidden = f"the first {seen.hidden:,} characters, about, are out of its sight"
        return f"the model sees the last {_counted(seen.text, 'token')}{besides}; {hidden}"
    return f"the model sees {_counted(seen.text, 'token')}{besides}; {seen.left:,} more have room"


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")
