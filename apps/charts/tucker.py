"""Charts of functional Tucker fits as a whole: errors, restarts, anomalies."""

from __future__ import annotations

import altair as alt

from analyzer.views.view import View
from apps.charts.data import inline
from apps.charts.lines import rule
from reports import style

METHODS = alt.Scale(
    domain=["functional Tucker", "linear interpolation"], range=[style.TUNED, style.BASE]
)


def errors(view: View) -> alt.LayerChart | alt.FacetChart:
    """Two lines a fit: its held-out error joined to that of linear interpolation."""
    rows = [row | {"row": f"{row['fit']}, {row['quantiles']}"} for row in view.rows()]
    names = list(dict.fromkeys(row["row"] for row in rows))
    base = alt.Chart(inline(rows)).encode(
        y=alt.Y(
            "row:N",
            title="fit, quantiles",
            sort=names,
            axis=alt.Axis(labelLimit=260, labelOverlap=False),
        ),
        x=alt.X(
            "rmse:Q", title="error of log σ", scale=alt.Scale(zero=True), axis=alt.Axis(tickCount=6)
        ),
    )
    points = base.mark_point(filled=True, size=80, opacity=1).encode(
        color=alt.Color("method:N", title=None, scale=METHODS, legend=alt.Legend(orient="top")),
        shape=alt.Shape("method:N", title=None),
        tooltip=[
            "fit:N",
            "method:N",
            "quantiles:N",
            alt.Tooltip("rmse:Q", format=".3~g"),
            alt.Tooltip("coverage:Q", format=".3f"),
            "holdout:N",
        ],
    )
    lines = base.mark_line(color=style.NOISE).encode(detail="row:N")
    return alt.layer(lines, points).properties(height=100 + 20 * max(2, len(names)))


def restarts(view: View) -> alt.Chart:
    """How far every restart's bound is below the best."""
    return (
        alt.Chart(view.table)
        .mark_bar(size=28)
        .encode(
            x=alt.X("restart:O", title="restart", axis=alt.Axis(labelAngle=0)),
            y=alt.Y("below_best:Q", title="below the best (nats)"),
            color=alt.condition("datum.chosen", alt.value(style.TUNED), alt.value(style.BASE)),
            tooltip=["restart:O", alt.Tooltip("elbo:Q", format=",.5~g"), "below_best:Q"],
        )
        .properties(height=240)
    )


def anomalies(view: View) -> alt.LayerChart | alt.FacetChart:
    """Bars, the oddest matrix on top; the rule is what noise alone gives."""
    bars = (
        alt.Chart(view.table)
        .mark_bar(color=style.INTRUDER)
        .encode(
            y=alt.Y(
                "matrix:N",
                sort=view.column("matrix"),
                title=None,
                axis=alt.Axis(labelOverlap=False),
            ),
            x=alt.X("score:Q", title="r.m.s. distance from the fit (sd)"),
            tooltip=["role:N", "depth:Q", alt.Tooltip("score:Q", format=".4~g"), "place:Q", "n:Q"],
        )
    )
    noise = rule("x", "one", 1, colour=style.BASE)
    return alt.layer(bars, noise).properties(height=70 + 17 * max(4, view.table.num_rows))
