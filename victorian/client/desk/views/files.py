"""Saving, opening and taking a text along."""

from collections.abc import Callable
from functools import partial

import streamlit as st

from victorian.client.desk.desk import Desk
from victorian.client.desk.export import EXPORTS, file_name
from victorian.client.desk.manuscript import clean
from victorian.client.desk.notices import Notice
from victorian.client.desk.session import loaded, saved
from victorian.client.desk.views.widgets import keep, show_settings
from victorian.errors import RequestError


def files(desk: Desk) -> None:
    st.subheader("Files")
    title = st.text_input("Title", key=keep("title", desk.title), max_chars=200, placeholder="Untitled")
    desk.title = clean(title)
    with st.container(horizontal=True, gap="small"):
        st.download_button(
            "Save",
            lambda: saved(desk.session).encode(),
            file_name(desk.title, "json"),
            "application/json",
            key="save",
            on_click="ignore",
            icon=":material/save:",
            help="Text, memory, note and settings in one file, to be opened here again.",
        )
        for name, (ending, media_type, write) in EXPORTS.items():
            st.download_button(
                name,
                partial(_written, desk, write),
                file_name(desk.title, ending),
                media_type,
                key=f"export_{ending}",
                on_click="ignore",
                icon=":material/download:",
            )
    given = st.file_uploader("Open a saved session", type="json", key="open", max_upload_size=24)
    if given is None or given.file_id == st.session_state.get("opened"):
        return
    st.session_state.opened = given.file_id
    try:
        desk.open(loaded(given.getvalue()))
    except RequestError as error:
        desk.notice = Notice("error", str(error))
    else:
        desk.notice = None
        show_settings()
    st.rerun()


def _written(desk: Desk, write: Callable[[str, str], bytes]) -> bytes:
    return write(desk.title, desk.manuscript.text)
