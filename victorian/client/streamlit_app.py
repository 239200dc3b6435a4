"""The writing desk, as `victorian app` or `streamlit run` opens it.

Streamlit runs this file again whenever something on the page is touched. What must outlive a run, the manuscript
and the passage that is being written, is in the session (`victorian.client.desk`).
"""

import streamlit as st

from victorian.client.desk.desk import Desk
from victorian.client.desk.views.runs_page import runs_page
from victorian.client.desk.views.write_page import write_page

LOOK_SECONDS = 1.0


def look(desk: Desk) -> None:
    """Keep what is being written going while another page is open."""
    desk.look()


def main() -> None:
    st.set_page_config(page_title="Victorian", page_icon="📖", layout="centered")
    desk = st.session_state.setdefault("desk", Desk())
    page = st.navigation(
        [
            st.Page(write_page, title="Write", icon=":material/edit_note:", default=True),
            st.Page(runs_page, title="Runs", icon=":material/show_chart:"),
        ],
        position="top",
    )
    if desk.job and page.title != "Write":
        st.fragment(look, run_every=LOOK_SECONDS)(desk)
    page.run()


if __name__ == "__main__":
    main()
