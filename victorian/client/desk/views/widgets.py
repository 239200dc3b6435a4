"""What Streamlit's widgets need to be told: their values when it forgot them, and texts that are no markup."""

import re
from typing import Any

import streamlit as st

from victorian.client.desk.presets import KNOBS

SETTINGS = ("preset", *KNOBS, "memory", "note", "note_lines", "title")
"""Widgets that show what a desk is set to."""


def keep(key: str, value: Any) -> str:
    """A widget's key, with its value put back: Streamlit forgets those of widgets that were not on the last page."""
    st.session_state.setdefault(key, value)
    return key


def show_settings() -> None:
    """Have the widgets show, at the next run, what the desk was set to otherwise than by them."""
    for name in SETTINGS:
        st.session_state.pop(name, None)


def literally(text: str) -> str:
    """A text from elsewhere as Markdown that shows it as it is: no link, no picture, no formula."""
    escaped = re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", " ".join(text.split()))
    # Addresses become links even so, unless something that nobody sees stands within them.
    return re.sub(r"(?<=:)(?=\\/)|(?<=www)(?=\\\.)|(?=\\@)", "\u2060", escaped, flags=re.IGNORECASE)
