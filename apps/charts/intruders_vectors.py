"""Charts of intruder dimensions, vector by vector."""

from __future__ import annotations

from typing import Any

import altair as alt

from analyzer.views.intruders_vectors import panel_label
from analyzer.views.view import View
from apps.charts.data import inline
from apps.charts.lines import Layers, lines_with_bands, rule
from reports import style

PANEL = 210  # pixels: width of a map with its axis
_TRACKS = 190  # pixels: height of a panel of tracks
# ColorBrewer's Blues as in the paper's figures; Vega's own begins too dark for an empty column.
_BLUES = (
    "#f7fbff", "#deebf7", "#c6dbef", "#9ecae1", "#6baed6", "#4292c6", "#2171b5", "#08519c",
    "#08306b",
)  # fmt: skip


def cosine_maps(view: View) -> dict[str, Layers]:
    """One chart a matrix by its label, to be set side by side."""
    panels: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in view.rows():
        panels.setdefault((row["checkpoint"], row["matrix"]), []).append(row)
    return {panel_label(list(panels), place): _cosine_map(rows) for place, rows in panels.items()}


def _cosine_map(rows: list[dict[str, Any]]) -> Layers:
    """Base vectors down, tuned vectors across, intruder columns in red."""
    x = alt.X("j:O", title="tuned vector, rank j", axis=alt.Axis(labelAngle=0, labelOverlap=True))
    cells = (
        alt.Chart()
        .mark_rect()
        .encode(
            x=x,
            y=alt.Y("i:O", title="base vector, rank i", axis=alt.Axis(labelOverlap=True)),
            color=alt.Color(
                "cosine:Q", title=None,
                scale=alt.Scale(range=list(_BLUES), domain=[0, 1]),
                legend=alt.Legend(orient="bottom", gradientLength=PANEL - 60, tickCount=3),
            ),
            tooltip=[
                alt.Tooltip("i:O", title="base rank"), alt.Tooltip("j:O", title="tuned rank"),
                alt.Tooltip("cosine:Q", title="|cosine|", format=".3f"),
                alt.Tooltip("maxcos:Q", title="largest over all base vectors", format=".3f"),
                alt.Tooltip("argmax_base:Q", title="at base rank"),
                alt.Tooltip("is_intruder:N", title="intruder"),
            ],
        )
    )  # fmt: skip
    outline = (
        alt.Chart()
        .mark_rect(fillOpacity=0, stroke=style.INTRUDER, strokeWidth=2.5)
        .encode(x=x)
        .transform_filter("datum.is_intruder && datum.i == 1")
    )
    # the height has room for the legend, so that cells are about square
    return alt.layer(cells, outline, data=inline(rows)).properties(width=PANEL, height=PANEL + 60)


def maxcos_against_rank(view: View) -> Layers:
    """One line a checkpoint with its band, and a rule at ε."""
    x = alt.X(
        "j:Q", title="rank j of the tuned vector",
        axis=alt.Axis(tickMinStep=1, format="d"), scale=alt.Scale(nice=False),
    )  # fmt: skip
    y = alt.Y("maxcos:Q", scale=alt.Scale(domain=[0, 1]))
    tooltip = [
        alt.Tooltip("j:Q", title="rank"),
        alt.Tooltip("maxcos:Q", title="largest |cosine|", format=".3f"),
        alt.Tooltip("lo:Q", title="from", format=".3f"),
        alt.Tooltip("hi:Q", title="to", format=".3f"),
        alt.Tooltip("n_matrices:Q", title="matrices"),
    ]
    layers = lines_with_bands(view, x, y, "largest |cosine|", tooltip)
    epsilon = rule("y", "maxcos", view.parameters["epsilon"])
    return alt.layer(*layers, epsilon).properties(height=360)


def dynamics(view: View) -> tuple[Layers, ...]:
    """σ, rank and largest |cosine| of every track against the step, one below the other.

    Three charts, because a concatenated one does not fit the page's width.
    """
    epsilon = rule("y", "maxcos", view.parameters["epsilon"])
    cosines = _track_panel(view, "maxcos", "largest |cosine|", alt.Scale(domain=[0, 1]))
    return (
        _track_panel(view, "sigma", "singular value σ", alt.Scale(zero=False)),
        _track_panel(view, "j", "rank j", alt.Scale(reverse=True, zero=False)),
        (cosines + epsilon).properties(height=_TRACKS + 40),
    )


def _track_panel(view: View, name: str, title: str, scale: alt.Scale) -> Layers:
    is_last = name == "maxcos"
    hovered = alt.selection_point(
        fields=["track"], on="pointerover", nearest=True, empty=False, name=f"track_{name}"
    )
    base = alt.Chart(inline(view.rows())).encode(
        x=alt.X(
            "step:Q", title="training step" if is_last else None, scale=alt.Scale(nice=False),
            axis=alt.Axis(labels=is_last, format="d", tickMinStep=1),
        ),
        y=alt.Y(f"{name}:Q", title=title, scale=scale, axis=alt.Axis(tickCount=5, minExtent=44)),
        detail="track:N",
        color=alt.condition(
            "datum.ever_intruder", alt.value(style.INTRUDER), alt.value(style.BASE)
        ),
        tooltip=[
            alt.Tooltip("step:Q"), alt.Tooltip("j:Q", title="rank"),
            alt.Tooltip("sigma:Q", title="σ", format=".4g"),
            alt.Tooltip("maxcos:Q", title="largest |cosine|", format=".3f"),
            alt.Tooltip("cosine:Q", title="|cosine| with the step before", format=".3f"),
            alt.Tooltip("is_intruder:N", title="intruder"),
        ],
    )  # fmt: skip
    lines = base.mark_line().encode(
        strokeWidth=alt.condition(hovered, alt.value(3.5), alt.value(1.4)),
        opacity=alt.condition("datum.ever_intruder", alt.value(1), alt.value(0.6)),
    )
    points = base.mark_point(filled=True).encode(
        size=alt.condition("datum.is_intruder", alt.value(60), alt.value(14))
    )
    return alt.layer(lines, points.add_params(hovered)).properties(height=_TRACKS)
