"""Charts of singular values before and after tuning, and of the update."""

from __future__ import annotations

import altair as alt

from analyzer.views import spectra as views
from analyzer.views.view import View
from apps.charts.data import inline
from reports import style

_PARTS = {views.BASE: style.BASE, views.TUNED: style.TUNED, views.DELTA: style.DELTA}
_CURVES = {
    views.SPECTRUM: [1, 0], views.FIT: [6, 4], views.EDGE: [2, 3], views.FLOOR: [8, 3, 2, 3],
}  # fmt: skip


def spectra(view: View) -> alt.TopLevelMixin:
    """σ against rank, both logarithmic: base, tuned, ΔW with error bands, and helping lines."""
    least = views.lowest(view) or 0.0
    rows = [row for row in view.rows() if row["sigma"] >= least]
    shown = [part for part in _PARTS if any(row["part"] == part for row in rows)]
    colour = alt.Color(
        "part:N", title=None, sort=shown, legend=alt.Legend(orient="top", symbolOpacity=1),
        scale=alt.Scale(domain=shown, range=[_PARTS[part] for part in shown]),
    )  # fmt: skip
    x = alt.X("k:Q", title="rank k", scale=alt.Scale(type="log", nice=False))
    y = alt.Y(
        "sigma:Q", title="singular value σ",
        scale=alt.Scale(type="log", nice=False), axis=alt.Axis(format="~g", tickCount=6),
    )  # fmt: skip
    values = [row for row in rows if row["curve"] == views.SPECTRUM]
    band = (
        alt.Chart(inline([row for row in values if row["low"] is not None]))
        .mark_area(opacity=0.25)
        .encode(x=x, y=alt.Y("low:Q"), y2="high:Q", color=colour)
    )
    lines = (
        alt.Chart(inline(values))
        .mark_line()
        .encode(
            x=x, y=y, color=colour,
            strokeWidth=alt.StrokeWidth(
                "part:N", legend=None, scale=alt.Scale(domain=shown, range=_widths(shown))
            ),
        )
    )  # fmt: skip
    points = (
        alt.Chart(inline(values))
        .mark_point(size=60, opacity=0)
        .encode(
            x=x, y=y, color=colour,
            tooltip=[
                alt.Tooltip("part:N"), alt.Tooltip("k:Q", title="rank"),
                alt.Tooltip("sigma:Q", format=".4g", title="σ"),
                alt.Tooltip("low:Q", format=".6g", title="at least"),
                alt.Tooltip("high:Q", format=".6g", title="at most"),
            ],
        )
    )  # fmt: skip
    helping = [curve for curve in _CURVES if any(row["curve"] == curve for row in rows)][1:]
    help = (
        alt.Chart(inline([row for row in rows if row["curve"] != views.SPECTRUM]))
        .mark_line(strokeWidth=1.3)
        .encode(
            x=x, y=y, color=colour,
            strokeDash=alt.StrokeDash(
                "curve:N", title=None,
                legend=alt.Legend(orient="top", symbolType="stroke", symbolSize=400),
                scale=alt.Scale(domain=helping, range=[_CURVES[curve] for curve in helping]),
            ),
            tooltip=["part:N", "curve:N", alt.Tooltip("sigma:Q", format=".4g", title="σ")],
        )
    )  # fmt: skip
    return alt.layer(band, lines, help, points).properties(height=420)


def _widths(shown: list[str]) -> list[float]:
    return [4.0 if part == views.BASE else 1.8 for part in shown]
