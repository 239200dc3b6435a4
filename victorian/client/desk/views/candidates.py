"""Several passages side by side, while they are written and after, for the writer to take one."""

from html import escape

import streamlit as st

from victorian.client.desk.desk import Desk
from victorian.client.desk.notices import notice_of
from victorian.client.desk.views.widgets import literally


def candidates(desk: Desk) -> None:
    job = desk.job
    assert job is not None
    for number, (column, writing) in enumerate(zip(st.columns(len(job.writings)), job.writings, strict=True), start=1):
        with column.container(border=True, key=f"way{number}"):
            st.caption(f"Way {number}")
            st.html(as_prose(writing.text, writing.ended))
            if writing.error:
                st.caption(literally(notice_of(writing.error).text))


def as_prose(text: str, ended: bool) -> str:
    """A passage as HTML in which nothing of it is markup."""
    return f'<div class="way" dir="auto">{escape(text) or "…"}{"" if ended else "<span> ▍</span>"}</div>'
