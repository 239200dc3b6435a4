"""Who wrote what, as a list: for whoever cannot see what is underlined on the sheet."""

from collections.abc import Iterable
from html import escape

import streamlit as st

from victorian.client.desk.desk import Desk
from victorian.client.desk.manuscript import Piece

NAMES = {"writer": "You", "model": "The model"}


def hands(desk: Desk) -> None:
    """Of the page before the writer; made only while it is open."""
    if desk.job or not desk.manuscript.text:
        return
    shown = st.expander("Who wrote what", key="hands", type="compact", on_change="rerun")
    if shown.open:
        shown.html(as_list(desk.manuscript.between(*desk.window)))


def as_list(pieces: Iterable[Piece]) -> str:
    """Pieces as HTML in which nothing of them is markup."""
    items = (
        f'<li dir="auto"><b>{NAMES[piece.author]}</b><br>{escape(text)}</li>'
        for piece in pieces
        if (text := piece.text.strip())
    )
    return f'<ol class="hands">{"".join(items)}</ol>'
