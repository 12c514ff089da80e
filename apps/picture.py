"""A picture on a page: the chart, how it was computed, and its files for a paper."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, cast

import altair as alt
import streamlit as st

from analyzer.views.view import View
from apps.text import literal
from reports import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Draw = Callable[[View], "Figure"]


def picture(
    view: View,
    chart: alt.TopLevelMixin,
    figure: Draw | None,
    *,
    key: str,
    on_select: Literal["rerun", "ignore"] = "ignore",
) -> Any:
    """Draw `chart` under the view's title, with its data, figures, method and source.

    `figure` draws the same view for paper; files are made when they are asked for. Returns the
    chart's selection.
    """
    st.markdown(f"**{literal(view.title)}**")
    picked = st.altair_chart(
        cast("alt.Chart", chart),  # any chart will do; Streamlit lists the kinds it knows
        width="stretch",
        key=f"{key}-chart",
        on_select=cast("Literal['rerun']", on_select),
        alt=view.title,
    )
    about(view, figure, key=key)
    return picked


def about(view: View, figure: Draw | None, *, key: str) -> None:
    """The line below a picture or table: parameters, method and source, and the downloads."""
    with st.container(horizontal=True, vertical_alignment="top"):
        with st.container(width="stretch"):
            words = " · ".join(p for p in (view.facts(), view.method, view.source) if p)
            st.caption(literal(words))
        with st.popover("Save", icon=":material/download:", width="content"):
            files(view, figure, key=key)


def files(view: View, figure: Draw | None, *, key: str) -> None:
    """Download buttons: the data, the figure, and what to cite."""
    _button("Data (CSV)", view.csv, f"{view.name}.csv", "text/csv", key)
    if figure is not None:
        for kind in ("pdf", "svg"):
            _button(
                f"Figure ({kind.upper()})",
                lambda kind=kind: figure_bytes(view, figure, kind),
                f"{view.name}.{kind}",
                style.MIME[kind],
                key,
            )
    _button(
        "Citation and parameters",
        lambda: citation(view).encode(),
        f"{view.name}.txt",
        "text/plain",
        key,
    )


def figure_bytes(view: View, figure: Draw, kind: style.Format) -> bytes:
    """The view drawn for paper."""
    with style.paper():
        return style.to_bytes(figure(view), kind)


def citation(view: View) -> str:
    """Title, parameters, method, source and the program's version, a line each."""
    from importlib.metadata import version

    lines = [
        view.title,
        f"Parameters: {view.facts() or 'none'}",
        f"Method: {view.method}",
        f"Source: {view.source}" if view.source else "",
        f"Computed with spectral-workbench {version('spectral-workbench')}.",
    ]
    return "\n".join(line for line in lines if line) + "\n"


def _button(label: str, data: Callable[[], bytes], name: str, mime: str, key: str) -> None:
    st.download_button(
        label, data, file_name=name, mime=mime, key=f"{key}-{name}", on_click="ignore",
        type="tertiary",
    )  # fmt: skip
