"""Charts of weight manifolds: total variation, smoothness, orders, errors of fits."""

from __future__ import annotations

from typing import Any

import altair as alt

from analyzer.views.manifold import RULE_OF_THUMB
from analyzer.views.manifold_fits import METHODS
from analyzer.views.view import View
from apps.charts.data import inline
from apps.charts.lines import rule
from reports import style

MARKS = {
    "before": ("as stored", style.BASE, "circle"),
    "after": ("best order found", style.TUNED, "square"),
    "null_ratio": ("chance", style.SERIES[2], "cross"),
    "bound": ("lower bound", style.DELTA, "triangle-up"),
}
PANEL = 310  # pixels: panels among others cannot take the width of the page


def total_variation(view: View) -> alt.FacetChart:
    """One panel a kind of group: path lengths over a random order's mean, along the blocks."""
    rows: list[dict[str, Any]] = [
        row | {"what": said, "value": row[column]}
        for row in view.rows()
        for column, (said, _, _) in MARKS.items()
        if row[column] is not None
    ]
    said = [text for text, _, _ in MARKS.values()]
    base = alt.Chart().encode(x=_blocks(view))
    lines = base.mark_rule(color=style.NOISE).encode(
        y=alt.Y("after:Q", title="over a random order", scale=alt.Scale(zero=False)), y2="before:Q"
    )
    points = base.mark_point(filled=True, size=60, opacity=1, strokeWidth=2).encode(
        y=alt.Y("value:Q", scale=alt.Scale(zero=False)),
        color=alt.Color(
            "what:N",
            title=None,
            scale=alt.Scale(domain=said, range=[c for _, c, _ in MARKS.values()]),
            legend=alt.Legend(orient="top", columns=4),
        ),
        shape=alt.Shape(
            "what:N",
            title=None,
            scale=alt.Scale(domain=said, range=[s for _, _, s in MARKS.values()]),
        ),
        tooltip=[
            "group:N",
            "what:N",
            alt.Tooltip("value:Q", format=".4f"),
            alt.Tooltip("smoothness:Q", format=".3~g"),
            alt.Tooltip("gap:Q", format=".2~%"),
            "n:Q",
            "d:Q",
            "solver:N",
        ],
    )
    return (
        alt.layer(lines, points, data=inline(rows))
        .properties(height=150, width=PANEL)
        .facet(row=alt.Row("kind:N", title=None), spacing=10)
        .resolve_scale(x="independent", y="independent")
    )


def smoothness(view: View) -> alt.LayerChart | alt.FacetChart:
    """How much of every group's order is not chance; the rule is the rule of thumb."""
    points = (
        alt.Chart(view.table)
        .mark_point(filled=True, size=60, opacity=0.9)
        .encode(
            x=_blocks(view),
            y=alt.Y("smoothness:Q", title="smoothness (0 = chance)"),
            color=alt.Color(
                "kind:N",
                title=None,
                scale=alt.Scale(range=list(style.SERIES)),
                legend=alt.Legend(orient="top"),
            ),
            shape=alt.Shape("kind:N", title=None),
            tooltip=["group:N", alt.Tooltip("smoothness:Q", format=".3~g"), "n:Q"],
        )
    )
    rules = rule("y", "y", 0.0, RULE_OF_THUMB, colour=style.BASE)
    return alt.layer(points, rules).properties(height=300)


def order(view: View) -> alt.Chart:
    """Place in the file against place in the order."""
    return (
        alt.Chart(view.table)
        .mark_circle(size=20, color=style.TUNED, opacity=0.9)
        .encode(
            x=alt.X("pos:Q", title="place in the order", axis=alt.Axis(tickMinStep=1)),
            y=alt.Y("idx:Q", title="unit as stored", axis=alt.Axis(tickMinStep=1)),
            tooltip=["pos:Q", "idx:Q"],
        )
        .properties(height=320)
    )


def fit_errors(view: View) -> alt.FacetChart:
    """One panel a role: the error of each way to keep as many numbers, along the blocks."""
    colours = alt.Scale(domain=list(METHODS), range=[style.TUNED, style.BASE, style.DELTA])
    return (
        alt.Chart()
        .mark_line(point=alt.OverlayMarkDef(size=45))
        .encode(
            x=_blocks(view),
            y=alt.Y(
                "rel_fro:Q",
                title=None,
                scale=alt.Scale(zero=False, padding=8),
                axis=alt.Axis(tickCount=4),
            ),
            color=alt.Color(
                "method:N",
                title=None,
                scale=colours,
                legend=alt.Legend(orient="top", columns=2, labelLimit=200),
            ),
            strokeDash=alt.StrokeDash("method:N", title=None, sort=list(METHODS)),
            tooltip=[
                "role:N",
                "block:N",
                "method:N",
                alt.Tooltip("rel_fro:Q", title="relative error", format=".4~g"),
                alt.Tooltip("kept:Q", title="numbers kept", format=".3~%"),
                "n:Q",
            ],
        )
        .properties(height=90, width=150)
        .facet(
            facet=alt.Facet("role:N", title=None),
            data=view.table,
            columns=2,
            spacing=12,
        )
        .resolve_scale(x="independent")
    )


def _blocks(view: View) -> alt.X:
    order = sorted(
        set(view.column("block")), key=lambda b: (b == "all", int(b) if b != "all" else 0)
    )
    return alt.X(
        "block:N", title="block", sort=order, axis=alt.Axis(labelAngle=0, labelOverlap=True)
    )
