"""Charts of random matrices, power-law tails and Matérn processes."""

from __future__ import annotations

from typing import Any

import altair as alt

from analyzer.views.view import View
from apps.charts.lines import named_rule
from reports import style

HEIGHT = 320
_VALUE = ".4~g"


def density(view: View) -> alt.LayerChart | alt.FacetChart:
    """The Marchenko-Pastur density, with the 99 % edge of the largest eigenvalue."""
    area = (
        alt.Chart(view.table)
        .mark_area(line={"color": style.BASE}, color=style.NOISE, opacity=0.5)
        .encode(
            x=alt.X("x:Q", title="eigenvalue λ of WWᵀ/n"),
            y=alt.Y("y:Q", title="density"),
            tooltip=[alt.Tooltip("x:Q", format=_VALUE), alt.Tooltip("y:Q", format=_VALUE)],
        )
    )
    edges = [
        named_rule("x", float(view.parameters["λ+"]), style.BASE, (4, 3), "edge λ+"),
        named_rule("x", float(view.parameters["99 % edge"]), style.INTRUDER, (4, 3), "99 % edge"),
    ]
    return alt.layer(area, *edges).properties(height=HEIGHT)


def edge_law(view: View) -> alt.LayerChart | alt.FacetChart:
    """Density of the largest eigenvalue, with its median and 99 % quantile."""
    line = (
        alt.Chart(view.table)
        .mark_line(color=style.BASE)
        .encode(
            x=alt.X(
                "x:Q", title="largest eigenvalue of WWᵀ/n", scale=alt.Scale(zero=False, nice=False)
            ),
            y=alt.Y("density:Q", title="density"),
            tooltip=[alt.Tooltip(f"{c}:Q", format=_VALUE) for c in ("x", "cdf", "density")],
        )
    )
    rules = [
        named_rule("x", float(view.parameters[level]), style.INTRUDER, dash, f"{level} quantile")
        for level, dash in (("50%", (1, 3)), ("99%", (4, 3)))
    ]
    return alt.layer(line, *rules).properties(height=HEIGHT)


def own_edges(view: View, aspect: float) -> alt.LayerChart | alt.FacetChart:
    """Largest eigenvalue over the edge against the aspect ratio; rules at 1 and at the slider."""
    points = (
        alt.Chart(view.table)
        .mark_point(filled=True, size=40, opacity=0.7)
        .encode(
            x=alt.X(
                "aspect:Q", title="aspect ratio m/n", scale=alt.Scale(domain=[0, 1.02], nice=False)
            ),
            y=alt.Y(
                "ratio:Q", title="λ₁ / 99 % random edge", scale=alt.Scale(type="log", nice=False)
            ),
            color=alt.Color(
                "kind:N",
                title=None,
                scale=alt.Scale(
                    domain=["base", "full", "adapter"],
                    range=[style.BASE, style.TUNED, style.DELTA],
                ),
                legend=alt.Legend(orient="top"),
            ),
            shape=alt.Shape("kind:N", title=None),
            tooltip=[
                "checkpoint:N",
                "matrix:N",
                "rows:Q",
                "cols:Q",
                alt.Tooltip("ratio:Q", format=_VALUE),
                "num_spikes:Q",
            ],
        )
    )
    rules = [
        named_rule("y", 1.0, style.INTRUDER, (4, 3), "random edge"),
        named_rule("x", aspect, style.BASE, (1, 3), "aspect ratio of the slider"),
    ]
    return alt.layer(points, *rules).properties(height=HEIGHT)


def drawn_tail(view: View) -> alt.LayerChart | alt.FacetChart:
    """Share of values of at least x, and the fitted law."""
    base = alt.Chart(view.table).encode(
        x=alt.X("x:Q", title="x / xmin", scale=alt.Scale(type="log", nice=False))
    )
    points = base.mark_circle(color=style.TUNED, size=30, opacity=0.9).encode(
        y=alt.Y("ccdf:Q", title="share ≥ x", scale=alt.Scale(type="log")),
        tooltip=[alt.Tooltip(f"{c}:Q", format=_VALUE) for c in ("x", "ccdf", "law")],
    )
    line = base.mark_line(color=style.INTRUDER, strokeDash=[4, 3]).encode(
        y=alt.Y("law:Q", scale=alt.Scale(type="log"))
    )
    return alt.layer(points, line).properties(height=HEIGHT)


def interval_by_size(view: View, own: View) -> alt.LayerChart | alt.FacetChart:
    """The funnel of the exponent's interval, and the store's tails."""
    x = alt.X("n:Q", title="values in the tail", scale=alt.Scale(type="log", nice=False))
    y = alt.Y("lo:Q", title="exponent α", scale=alt.Scale(zero=False))
    base = alt.Chart(view.table).encode(x=x)
    band = base.mark_area(color=style.NOISE, opacity=0.6).encode(y=y, y2="hi:Q")
    line = base.mark_line(color=style.BASE, strokeDash=[4, 3]).encode(y="alpha:Q")
    tails = alt.Chart(own.table).encode(
        x=x,
        tooltip=["checkpoint:N", "matrix:N", "n:Q"]
        + [alt.Tooltip(f"{c}:Q", format=_VALUE) for c in ("alpha", "lo", "hi")],
    )
    bars = tails.mark_rule(color=style.TUNED, opacity=0.15).encode(y="lo:Q", y2="hi:Q")
    points = tails.mark_circle(color=style.TUNED, size=26, opacity=0.8).encode(y="alpha:Q")
    return alt.layer(band, line, bars, points).properties(height=HEIGHT)


def samples(view: View) -> alt.FacetChart:
    """One panel a smoothness, all draws."""
    return (
        alt.Chart()
        .mark_line(strokeWidth=1.3)
        .encode(
            x=alt.X("x:Q", title="x"),
            y=alt.Y("f:Q", title="f(x)"),
            color=alt.Color("draw:N", scale=alt.Scale(range=list(style.SERIES)), legend=None),
        )
        .properties(height=120, width=310)
        .facet(row=alt.Row("nu:N", title="ν"), data=view.table, spacing=8)
    )


def correlation(view: View) -> alt.Chart:
    """One line a smoothness."""
    return (
        alt.Chart(view.table)
        .mark_line()
        .encode(
            x=alt.X("d:Q", title="distance d"),
            y=alt.Y("correlation:Q", title="correlation of f(0) and f(d)"),
            color=alt.Color(
                "nu:N",
                title="ν",
                scale=alt.Scale(range=list(style.SERIES)),
                legend=alt.Legend(orient="top"),
            ),
            strokeDash=alt.StrokeDash("nu:N", title="ν"),
            tooltip=["nu:N"] + [alt.Tooltip(f"{c}:Q", format=_VALUE) for c in ("d", "correlation")],
        )
        .properties(height=HEIGHT)
    )


def titled(rows: list[dict[str, Any]], names: dict[str, str], x: str) -> list[dict[str, Any]]:
    """Long form of the columns in `names`, for one coloured line each."""
    return [
        {x: row[x], "what": said, "value": row[column]}
        for column, said in names.items()
        for row in rows
        if row[column] is not None
    ]
