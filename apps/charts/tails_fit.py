"""Charts of the tail of one spectrum."""

from __future__ import annotations

import altair as alt

from analyzer.views.tails_fit import most_alpha, shown_range
from analyzer.views.view import View
from apps.charts.data import inline
from apps.charts.lines import Layers
from reports import style
from reports.figures.tails_fit import COLOURS, LABELS

_POINTS = ("base", "tuned", "update")
_LINES = ("bulk", "fit")


def tail_fit(view: View) -> Layers:
    """Share of eigenvalues at or above x, log-log, with fit, bulk, noise band and edges."""
    (left, right), (bottom, _) = shown_range(view)
    rows = [
        row | {"label": LABELS[row["curve"]]}
        for row in view.rows()
        if left <= row["x"] <= right and (row["curve"] in ("noise", "update") or row["y"] >= bottom)
    ]
    x, y, colour = _channels(view, {row["curve"] for row in rows})
    tooltip = [
        alt.Tooltip("label:N", title="curve"), alt.Tooltip("x:Q", title="λ", format=".4g"),
        alt.Tooltip("y:Q", title="share ≥ λ", format=".4g"),
    ]  # fmt: skip

    def part(*names: str) -> alt.Chart:
        return alt.Chart(inline([row for row in rows if row["curve"] in names]))

    band = (
        part("noise").mark_area(opacity=0.4, clip=True).encode(x=x, y=y, y2="y_hi:Q", color=colour)
    )
    points = (
        part(*_POINTS)
        .mark_point(filled=True, size=16, opacity=0.9)
        .encode(x=x, y=y, color=colour, tooltip=tooltip)
    )
    lines = (
        part(*_LINES)
        .mark_line(clip=True)
        .encode(
            x=x, y=y, color=colour, tooltip=tooltip,
            strokeDash=alt.condition(
                "datum.curve == 'fit'", alt.value([6, 4]), alt.value([6, 3, 1, 3])
            ),
        )
    )  # fmt: skip
    return alt.layer(band, points, lines, _edges(view)).properties(height=440)


def _channels(view: View, found: set[str]) -> tuple[alt.X, alt.Y, alt.Color]:
    (left, right), (bottom, top) = shown_range(view)
    shown = [name for name in COLOURS if name in found]
    colour = alt.Color(
        "label:N", title=None,
        legend=alt.Legend(orient="bottom", columns=3, symbolOpacity=1),
        scale=alt.Scale(
            domain=[LABELS[name] for name in shown], range=[COLOURS[name] for name in shown]
        ),
    )  # fmt: skip
    x = alt.X(
        "x:Q", title="eigenvalue λ = σ²", axis=alt.Axis(format=".0e", tickCount=6),
        scale=alt.Scale(type="log", domain=[left, right], nice=False),
    )  # fmt: skip
    y = alt.Y(
        "y:Q", title="share of eigenvalues ≥ λ", axis=alt.Axis(format="~g", tickCount=5),
        scale=alt.Scale(type="log", domain=[bottom, top], nice=False),
    )  # fmt: skip
    return x, y, colour


def _edges(view: View) -> Layers:
    """Rules where the tail starts and where the bulk ends, with their names."""
    marks = [
        {"x": view.parameters[name], "name": label}
        for name, label in (("xmin", "xmin"), ("edge_tw99", "Tracy-Widom 99 %"))
        if name in view.parameters
    ]
    base = alt.Chart(inline(marks)).encode(x="x:Q")
    rules = base.mark_rule(color=style.BASE, strokeDash=[2, 3], strokeWidth=1.2).encode(
        tooltip=["name:N", alt.Tooltip("x:Q", title="λ", format=".4g")]
    )
    words = base.mark_text(
        color=style.BASE, align="left", baseline="top", angle=90, dx=4, dy=-12, fontSize=11
    ).encode(text="name:N", y=alt.value(0))
    return alt.layer(rules, words)


def xmin_scan(view: View) -> tuple[Layers, Layers]:
    """α with its interval, and D, against the start of the tail; the fit's start is marked."""
    data = inline(view.rows())
    x = alt.X(
        "xmin:Q", title="start of the tail xmin (σ²)",
        axis=alt.Axis(format=".0e", tickCount=6), scale=alt.Scale(type="log", nice=False),
    )  # fmt: skip
    tooltip = [
        alt.Tooltip("xmin:Q", format=".4g"), alt.Tooltip("alpha:Q", title="α", format=".3f"),
        alt.Tooltip("lo:Q", title="from", format=".3f"),
        alt.Tooltip("hi:Q", title="to", format=".3f"),
        alt.Tooltip("ks_d:Q", title="D", format=".4f"),
        alt.Tooltip("n_tail:Q", title="eigenvalues in the tail"),
    ]  # fmt: skip
    base = alt.Chart(data).encode(x=x, tooltip=tooltip)
    scale = alt.Scale(domain=[1.0, most_alpha(view)], nice=False)
    extent = alt.Axis(minExtent=40, tickCount=5)
    band = base.mark_area(opacity=0.2, color=style.TUNED, clip=True).encode(
        y=alt.Y("lo:Q", scale=scale, title="α", axis=extent), y2="hi:Q"
    )
    alpha = base.mark_line(color=style.TUNED, clip=True).encode(y=alt.Y("alpha:Q", scale=scale))
    distance = base.mark_line(color=style.TUNED).encode(
        y=alt.Y("ks_d:Q", title="distance D", axis=extent, scale=alt.Scale(zero=True))
    )
    chosen = alt.Chart(inline([dict(view.parameters)])).encode(x="xmin:Q")
    rule = chosen.mark_rule(color=style.BASE, strokeDash=[2, 3])
    point = chosen.mark_point(filled=True, size=70, color=style.INTRUDER)
    return (
        alt.layer(band, alpha, rule, point.encode(y="alpha:Q")).properties(height=220),
        alt.layer(distance, rule, point.encode(y="ks_d:Q")).properties(height=220),
    )
