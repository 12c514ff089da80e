"""What charts of lines share: colours with their legend, bands, and rules across the plot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import altair as alt
import pyarrow as pa

from analyzer.views.view import View
from apps.charts.data import inline
from reports import style

Layers = alt.LayerChart | alt.FacetChart  # what alt.layer may return

GREY = "#8A8A8A"  # of rules and their words: reads on light and dark


def checkpoint_colour(view: View) -> alt.Color:
    """A colour a checkpoint, in the order of the view; the legend below, where names have room."""
    names = list(dict.fromkeys(view.column("checkpoint")))
    return alt.Color(
        "checkpoint:N", title=None,
        scale=alt.Scale(
            domain=names, range=[style.SERIES[n % len(style.SERIES)] for n in range(len(names))]
        ),
        legend=alt.Legend(
            orient="bottom", columns=2, labelLimit=260, symbolLimit=24, symbolOpacity=1
        ),
    )  # fmt: skip


def series(
    name: str, title: str, order: Sequence[str] | None = None, columns: int = 4
) -> alt.Color:
    """The colour of a line, its legend below the chart where it takes no width."""
    return alt.Color(
        f"{name}:N",
        title=title,
        sort=list(order) if order else None,
        scale=alt.Scale(range=list(style.SERIES)),
        legend=alt.Legend(
            orient="bottom", columns=columns, labelLimit=240, symbolOpacity=1, symbolLimit=16
        ),
    )


def lines_with_bands(
    view: View, x: alt.X, y: alt.Y, title: str, tooltip: Sequence[alt.Tooltip]
) -> list[alt.Chart]:
    """A line a checkpoint along `x`, and the band from the view's `lo` to its `hi` behind it.

    `y` and the band's axis are both called `title`: an axis of layers has all their titles.
    """
    base = alt.Chart(inline(view.rows())).encode(x=x, color=checkpoint_colour(view))
    band = base.mark_area(opacity=0.12).encode(y=alt.Y("lo:Q", title=title), y2="hi:Q")
    lines = base.mark_line(point=True).encode(
        y=y.title(title), tooltip=[alt.Tooltip("checkpoint:N"), *tooltip]
    )
    return [band, lines]


def rule(
    axis: Literal["x", "y"], name: str, *values: Any, colour: str = style.INTRUDER
) -> alt.Chart:
    """Dashed lines across the plot at `values` of the column `name`, which `axis` shows."""
    return (
        alt.Chart(inline([{name: value} for value in values]))
        .mark_rule(strokeDash=[4, 3], color=colour)
        .encode(**{axis: f"{name}:Q"})
    )


def named_rule(
    axis: Literal["x", "y"], value: float, colour: str, dash: tuple[int, int], name: str
) -> alt.Chart:
    """A line across the plot at one value of `axis`, named in its tooltip."""
    return (
        alt.Chart(inline([{axis: value, "what": name}]))
        .mark_rule(color=colour, strokeDash=list(dash), size=1.5)
        .encode(
            **{axis: f"{axis}:Q"},
            tooltip=["what:N", alt.Tooltip(f"{axis}:Q", title="value", format=".4~g")],
        )
    )


def levels(*found: tuple[float, str]) -> list[alt.Chart]:
    """Horizontal grey lines with a word each."""
    if not found:
        return []
    base = alt.Chart(pa.table({"level": [y for y, _ in found], "word": [w for _, w in found]}))
    y = alt.Y("level:Q")
    return [
        base.mark_rule(strokeDash=[4, 3], color=GREY).encode(y=y),
        base.mark_text(align="right", dx=-4, dy=-6, color=GREY).encode(
            x=alt.value("width"), y=y, text="word:N"
        ),
    ]
