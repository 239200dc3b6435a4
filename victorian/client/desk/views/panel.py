"""The sidebar: how it writes, what it always knows, where it comes from, and files."""

from time import monotonic
from typing import Any

import streamlit as st
from pydantic import ValidationError

from victorian.client.desk.desk import SEED_BITS, Desk
from victorian.client.desk.presets import DRAWING, KNOBS, PRESETS, parameters_of, preset_of
from victorian.client.desk.service import Service
from victorian.client.desk.session import MAX_NOTE
from victorian.client.desk.views.files import files
from victorian.client.desk.views.widgets import keep, literally
from victorian.config import SamplingParameters, bounds, first_problem, service_url
from victorian.errors import AuthenticationError, VictorianError

BLIND_SECONDS = 15.0
"""A service that did not say what the page would like to know is not asked for it again for so long."""


def blind(error: VictorianError) -> None:
    """Note why the service is not asked for a while."""
    st.session_state.blind = monotonic() + BLIND_SECONDS, literally(str(error))


def panel(desk: Desk) -> bool:
    """Show it, and set the desk as it says; whether that can be written with."""
    with st.sidebar:
        usable = _sampling(desk)
        _memory(desk)
        files(desk)
        _service(desk)
    return usable


def _sampling(desk: Desk) -> bool:
    st.subheader("How it writes")
    now = desk.sampling
    st.segmented_control(
        "Manner",
        list(PRESETS),
        key=keep("preset", preset_of(now)),
        on_change=_take_preset,
        args=(desk,),
        width="stretch",
        help="Cautious stays with what is likely, fanciful wanders; none is chosen where the settings are your own.",
    )
    said: dict[str, Any] = {"max_tokens": _number(now, "max_tokens")}
    if st.toggle("Advanced", key=keep("advanced", False)):
        for name in DRAWING:
            said[name] = _slider(now, name, desk)
        # One that came in a file may be more than a browser counts: it stays until another is typed.
        large = now.seed is not None and now.seed >= 2**SEED_BITS
        seed = st.number_input(
            KNOBS["seed"].label,
            min_value=0,
            max_value=2**SEED_BITS - 1,
            step=1,
            placeholder=str(now.seed) if large else "drawn anew",
            key=keep("seed", None if large else now.seed),
            help=KNOBS["seed"].prose,
        )
        if seed is not None or not large:
            said["seed"] = seed
        lines = "\n".join(now.stop)
        stops = st.text_area(KNOBS["stop"].label, key=keep("stop", lines), help=KNOBS["stop"].prose, height=80)
        if stops != lines:  # or they stay: one that was opened with a session may hold a line end, which no line can
            said["stop"] = tuple(line for line in stops.split("\n") if line)
    try:
        desk.sampling = SamplingParameters.model_validate(now.model_dump() | said)
    except ValidationError as error:
        st.error(f"These settings cannot be: {literally(first_problem(error))}", icon=":material/error:")
        return False
    return True


def _number(now: SamplingParameters, name: str) -> int:
    low, high = bounds(name)
    knob = KNOBS[name]
    value: int = st.number_input(
        knob.label,
        min_value=int(low),
        max_value=int(high),
        step=int(knob.step),
        key=keep(name, getattr(now, name)),
        help=knob.prose,
    )
    return value


def _slider(now: SamplingParameters, name: str, desk: Desk) -> float:
    low, high = bounds(name)
    knob, value = KNOBS[name], getattr(now, name)
    kind = type(SamplingParameters.model_fields[name].default) if name == "top_k" else float
    moved: float = st.slider(
        knob.label,
        min_value=kind(low),
        max_value=kind(high),
        step=kind(knob.step),
        key=keep(name, kind(value)),
        help=knob.prose,
        on_change=_own,
        args=(desk,),
    )
    return moved


def _take_preset(desk: Desk) -> None:
    if st.session_state.preset in PRESETS:
        desk.sampling = parameters_of(st.session_state.preset, desk.sampling)
        for name in DRAWING:
            st.session_state.pop(name, None)


def _own(desk: Desk) -> None:
    said = {name: st.session_state[name] for name in DRAWING if name in st.session_state}
    st.session_state.preset = preset_of(desk.sampling.model_copy(update=said))


def _memory(desk: Desk) -> None:
    st.subheader("What it keeps in mind")
    desk.memory = st.text_area(
        "Memory",
        key=keep("memory", desk.memory),
        height=110,
        max_chars=MAX_NOTE,
        placeholder="Who is who, and where they are.",
        help="Always stands in front of what the model reads, however long the text becomes.",
    )
    desk.note = st.text_area(
        "Author’s note",
        key=keep("note", desk.note),
        height=80,
        max_chars=MAX_NOTE,
        placeholder="What this scene is about.",
        help="Stands in brackets a few lines before the end of what the model reads, where it is felt most.",
    )
    desk.note_lines = st.number_input(
        "Lines between the note and the end", 1, 20, step=1, key=keep("note_lines", desk.note_lines)
    )


def _service(desk: Desk) -> None:
    with st.expander("Service", icon=":material/dns:"):
        st.text(service_url())
        key = st.text_input(
            "API key",
            key="api_key",
            type="password",
            autocomplete="off",
            help="Only for services that ask for one. It is neither saved nor shown.",
        )
        if (key or None) != desk.service.key:  # it may say now what it would not
            st.session_state.pop("blind", None)
        models = _models(desk, key or None)
        model = st.selectbox("Model", models, key="model") if len(models) > 1 else None
        service = Service(key=key or None, model=model)
        if service != desk.service:  # which keeps its connections
            desk.service = service


def _models(desk: Desk, key: str | None) -> list[str]:
    """What the service serves, asked once for each key; nothing where it does not say."""
    known: dict[str | None, list[str]] = st.session_state.setdefault("models", {})
    failed: dict[str | None, tuple[float, str]] = st.session_state.setdefault("no_models", {})
    at, _ = failed.get(key, (-BLIND_SECONDS, ""))
    if key not in known and monotonic() - at >= BLIND_SECONDS:  # each question may take seconds
        try:
            service = Service(key=key)  # which closes its clients when nobody has it any more
            known[key] = service.hasty_client.models()
        except AuthenticationError as error:
            failed[key] = monotonic(), literally(str(error))
        except VictorianError as error:  # the desk says so where it matters: beside the text
            failed[key] = monotonic(), ""
            blind(error)
    if key not in known and failed[key][1]:
        st.caption(failed[key][1])
    return known.get(key, [])
