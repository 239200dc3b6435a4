"""The writing desk: a prompt, the parameters, and prose that streams onto the page. Run by `victorian app`.

Streamlit runs this file again whenever something on the page is touched, and ends the run that was streaming. What
has come so far is therefore kept in the session while it comes, and ending the run closes the stream, which is what
stops the service from generating.
"""

import re
from collections.abc import Generator
from contextlib import closing
from html import escape
from time import perf_counter
from typing import Any

import streamlit as st
from pydantic import ValidationError

from victorian.client.client import Client
from victorian.config import SamplingParameters, bounds, first_problem
from victorian.errors import VictorianError

OPENING = "It was a dark and stormy night"
TICK_SECONDS = 0.2
# Each redraw sends the whole text to the browser; more of them would be seen by nobody.
REDRAW_SECONDS = 0.05
# (Comments and no docstrings under constants here: Streamlit writes lone strings onto the page.)


def label(parameter: str) -> dict[str, Any]:
    """Name, range and help of a parameter's widget, from its definition."""
    field = SamplingParameters.model_fields[parameter]
    return {"label": parameter.replace("_", " ").capitalize(), "help": field.description, "key": parameter}


def slider(parameter: str, step: float) -> float:
    low, high = bounds(parameter)
    default = SamplingParameters.model_fields[parameter].default
    if isinstance(default, int):
        low, high, step = int(low), int(high), int(step)
    chosen: float = st.slider(min_value=low, max_value=high, value=default, step=step, **label(parameter))
    return chosen


def chosen_parameters() -> SamplingParameters | None:
    """The sliders, and what they are set to; None, and a word about it, where that cannot be."""
    with st.sidebar:
        st.header("How it writes")
        temperature = slider("temperature", 0.05)
        top_k = slider("top_k", 1)
        top_p = slider("top_p", 0.01)
        repetition_penalty = slider("repetition_penalty", 0.05)
        default = SamplingParameters.model_fields["max_tokens"].default
        low, high = (int(value) for value in bounds("max_tokens"))
        max_tokens = st.number_input(min_value=low, max_value=high, value=default, step=16, **label("max_tokens"))
        seed = st.number_input(min_value=0, value=None, step=1, placeholder="drawn", **label("seed"))
        stop = st.text_input(label="Stop at", key="stop", help="Texts that end the passage, separated by |")
    try:
        return SamplingParameters(
            temperature=temperature,
            top_k=int(top_k),
            top_p=top_p,
            repetition_penalty=repetition_penalty,
            max_tokens=int(max_tokens),
            seed=None if seed is None else int(seed),
            stop=tuple(text for text in stop.split("|") if text),
        )
    except ValidationError as error:
        st.error(first_problem(error), icon=":material/error:")
        return None


def passage(client: Client, prompt: str, parameters: SamplingParameters) -> Generator[str, None, None]:
    """The pieces of a passage, each kept in the session before it is shown; how it ended and how fast, at the end.

    Empty pieces come while there is nothing to show: Streamlit can end a run only when it touches the page.
    """
    began = perf_counter()
    pieces = 0
    stream = client.stream(prompt, parameters, tick=TICK_SECONDS)
    try:
        for piece in stream:
            st.session_state.text += piece
            pieces += bool(piece)
            st.session_state.speed = pieces / max(perf_counter() - began, 1e-6)
            yield piece
    finally:  # also where the run is ended by a click on Stop
        stream.close()
    if stream.complete:
        st.session_state.speed = stream.complete.timings.tokens_per_second
        st.session_state.reason = stream.complete.reason


def main() -> None:
    st.set_page_config(page_title="Victorian", page_icon=":material/menu_book:")
    st.title("Victorian")
    st.session_state.setdefault("text", "")
    st.session_state.setdefault("written_prompt", "")
    st.session_state.setdefault("speed", None)
    st.session_state.setdefault("reason", None)
    parameters = chosen_parameters()
    prompt = st.text_area("Beginning", OPENING, key="prompt", help="The model goes on from here.", height=110)
    write_column, stop_column, _ = st.columns([1, 1, 4])
    write = write_column.button("Write", type="primary", key="write", width="stretch", disabled=parameters is None)
    stop_column.button("Stop", key="halt", width="stretch", help="Keeps what has been written.")
    place = st.container(border=True).empty()
    place.caption("Nothing is written yet.")
    if write and parameters:
        drawn = 0.0
        st.session_state.update(text="", written_prompt=prompt, speed=None, reason=None)
        try:
            with Client() as client, closing(passage(client, prompt, parameters)) as pieces:
                for _ in pieces:
                    if perf_counter() - drawn >= REDRAW_SECONDS:
                        drawn = perf_counter()
                        place.html(as_prose(prompt, st.session_state.text))
        except VictorianError as error:
            st.error(str(error), icon=":material/error:")
    if st.session_state.text:
        place.html(as_prose(st.session_state.written_prompt, st.session_state.text))
    if st.session_state.speed:
        ended = {"stop": "came to its end", "length": "reached its length"}.get(
            st.session_state.reason or "", "stopped"
        )
        st.caption(f"{st.session_state.speed:,.0f} tokens/s, {ended}")


def as_prose(prompt: str, text: str) -> str:
    """Prompt and continuation as HTML, in which nothing of theirs is read as markup.

    Single line breaks are the printer's, learned from books wrapped at 72 columns, and are shown as spaces.
    """
    style = "white-space: pre-wrap; font-family: Georgia, serif; font-size: 1.1rem; line-height: 1.6"
    whole = re.sub(r"(?<!\n)\n(?!\n)", " ", prompt + text)  # as long as before, so the prompt's end stays its end
    first, rest = escape(whole[: len(prompt)]), escape(whole[len(prompt) :])
    return f'<div style="{style}"><span style="opacity: 0.6">{first}</span>{rest}</div>'


if __name__ == "__main__":
    main()
