"""Pictures of several charts, which together have one title and one line below."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import streamlit as st

from analyzer.views.view import View
from apps.picture import Draw, about
from apps.text import literal


def side_by_side(
    view: View, charts: Mapping[str, Any], figure: Draw, *, key: str, width: int, heading: str = ""
) -> None:
    """Charts of `width` pixels under their labels, as many in a row as there is room for.

    `heading` is Markdown that stands in the place of the view's title.
    """
    st.markdown(heading or f"**{literal(view.title)}**")
    with st.container(horizontal=True):
        for label, chart in charts.items():
            with st.container(width=width):
                st.caption(literal(label))
                st.altair_chart(chart, width="stretch", key=f"{key}-{label}")
    about(view, figure, key=key)


def stacked(view: View, charts: Iterable[Any], figure: Draw, *, key: str) -> None:
    """Charts one below the other: a concatenated one does not fit the page's width."""
    st.markdown(f"**{literal(view.title)}**")
    for n, chart in enumerate(charts):
        st.altair_chart(chart, width="stretch", key=f"{key}-{n}")
    about(view, figure, key=key)
