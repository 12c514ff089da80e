"""The dashboard's frame: pages, the store's name, and one-line errors.

Started by `analyzer dashboard`, which binds it to this machine alone.
"""

from __future__ import annotations

import traceback
from pathlib import Path

import streamlit as st

from analyzer.errors import WorkbenchError, printable
from apps.answers import store
from apps.text import literal

PAGES = (
    ("collection", "Collection", ":material/folder_open:"),
    ("compare", "Compare", ":material/compare_arrows:"),
    ("intruders", "Intruders", ":material/person_alert:"),
    ("tails", "Tails", ":material/stacked_line_chart:"),
    ("emergence", "Emergence", ":material/trending_down:"),
    ("limits", "LoRA limits", ":material/speed:"),
    ("tucker", "Tucker", ":material/deployed_code:"),
    ("manifold", "Manifold", ":material/waves:"),
    ("theory", "Theory", ":material/function:"),
    ("sql", "SQL", ":material/database:"),
)


def main() -> None:
    """Draw the page that the address names."""
    st.set_page_config(page_title="Analyzer", page_icon=":material/analytics:", layout="wide")
    # not called pages/: Streamlit would serve such files by themselves, without this frame
    folder = Path(__file__).parent / "screens"
    pages = [
        st.Page(folder / f"{name}.py", title=title, icon=icon, default=name == "collection")
        for name, title, icon in PAGES
        if (folder / f"{name}.py").exists()
    ]
    chosen = st.navigation(pages)
    try:
        st.sidebar.caption(literal(printable(store().db.name)))
        chosen.run()
    except WorkbenchError as error:
        st.error(literal(error))
    except Exception:
        # for whoever started the dashboard, not for the browser
        traceback.print_exc()
        st.error("This page could not be drawn; the terminal has the details.")


main()
