"""Charts of heads against the threshold as the text and alpha grow."""

from __future__ import annotations

import altair as alt
import pyarrow as pa

from analyzer.views.view import View
from apps.charts.limits import where
from apps.charts.lines import GREY, levels, rule, series
from reports import style
from reports.figures.limits_curves import RATIOS, STATES

HEIGHT = 360


def length_sweep(view: View) -> alt.TopLevelMixin:
    """Ratio against the length of the text, a line a head or layer, and the line 1."""
    names = list(dict.fromkeys(view.column("line")))
    ratio = view.parameters.get("ratio", "")
    base = alt.Chart(view.table).encode(
        x=alt.X("L:Q", title="length of the text L (tokens)", scale=alt.Scale(type="log", base=2)),
        color=series("line", "", names),
    )
    lines = base.mark_line(point=True).encode(
        y=alt.Y("ratio:Q", title=RATIOS.get(ratio, ratio)),
        tooltip=[
            alt.Tooltip("line:N"),
            alt.Tooltip("L:Q"),
            alt.Tooltip("ratio:Q", format=".4g"),
            alt.Tooltip("low:Q", format=".4g", title="least"),
            alt.Tooltip("high:Q", format=".4g", title="largest"),
        ],
    )
    band = base.mark_area(opacity=0.1).encode(y="low:Q", y2="high:Q")
    return alt.layer(band, lines, *levels((1.0, "threshold"))).properties(height=HEIGHT)


def phase(view: View) -> alt.TopLevelMixin:
    """The threshold over L, the heads as points, their range over prefixes as a band."""
    largest = "√(β·d_h)·max entry" if view.parameters["source"] == "spherical" else "√max|S|"
    x = alt.X("L:Q", title="length L (tokens)", scale=alt.Scale(type="log", base=2))
    curve = alt.Chart(where(view, "threshold")).encode(x=x)
    swept = alt.Chart(where(view, "swept")).encode(x=x)
    heads = (
        alt.Chart(where(view, "heads"))
        .mark_point(color=style.TUNED, size=50)
        .encode(
            x=x,
            y="norm:Q",
            tooltip=[
                alt.Tooltip("place:N", title="layer"),
                alt.Tooltip("head:Q"),
                alt.Tooltip("L:Q"),
                alt.Tooltip("norm:Q", format=".4g", title=largest),
                alt.Tooltip("verdict:N"),
            ],
        )
    )
    return alt.layer(
        curve.mark_area(color=GREY, opacity=0.15).encode(y=alt.Y("norm:Q", title=largest)),
        curve.mark_line(color=GREY).encode(y="norm:Q"),
        swept.mark_area(color=style.DELTA, opacity=0.2).encode(y="low:Q", y2="high:Q"),
        swept.mark_line(color=style.DELTA, strokeDash=[5, 3]).encode(
            y="norm:Q", tooltip=["L:Q", alt.Tooltip("norm:Q", format=".4g", title="median")]
        ),
        heads,
    ).properties(height=HEIGHT)


def alpha_intervals(view: View) -> alt.TopLevelMixin:
    """A bar a head: the alpha within the threshold, over the adapter's own."""
    order = view.column("line")
    base = alt.Chart(view.table).encode(
        y=alt.Y("line:N", title="layer.head", sort=order, axis=alt.Axis(labelOverlap=True)),
        color=alt.Color(
            "state:N",
            title="with its own alpha",
            scale=alt.Scale(domain=list(STATES), range=list(STATES.values())),
            legend=alt.Legend(orient="bottom"),
        ),
        tooltip=[
            alt.Tooltip("place:N", title="layer"),
            alt.Tooltip("head:Q"),
            alt.Tooltip("state:N"),
            alt.Tooltip("headroom:Q", format=".4g"),
            alt.Tooltip("alpha_max:Q", format=".4g"),
            alt.Tooltip("lora_alpha:Q", format=".4g"),
            alt.Tooltip("ratio_base:Q", format=".3f", title="base over √(ln L)"),
            alt.Tooltip("ratio_adapted:Q", format=".3f", title="adapted over √(ln L)"),
        ],
    )
    bars = base.mark_bar(opacity=0.6).encode(
        x=alt.X("low:Q", title="alpha over the adapter's own"), x2="high:Q"
    )
    none = (
        base.transform_filter("datum.high === null")
        .mark_text(align="left", dx=4)
        .encode(
            x=alt.value(0),
            text=alt.condition(
                "datum.state == 'unbounded'", alt.value("∞ every alpha"), alt.value("× none")
            ),
        )
    )
    own = rule("x", "own", 1.0)
    height = max(260, min(800, 130 + 16 * len(order)))
    return alt.layer(bars, none, own).properties(height=height)


def alpha_curve(view: View) -> alt.TopLevelMixin:
    """What is known of the largest query entry against alpha; the exact interval shaded."""
    right = max(view.column("alpha"), default=1.0)
    base = alt.Chart(view.table).encode(
        x=alt.X("alpha:Q", title="alpha", scale=alt.Scale(domain=[0.0, right], nice=False))
    )
    band = base.mark_area(color=style.DELTA, opacity=0.5).encode(
        y=alt.Y("lower:Q", title="largest query entry over √(ln L)"),
        y2="upper:Q",
        tooltip=[
            alt.Tooltip("alpha:Q", format=".4g"),
            alt.Tooltip("lower:Q", format=".4g", title="at least"),
            alt.Tooltip("upper:Q", format=".4g", title="at most"),
        ],
    )
    edges = [base.mark_line(color=style.TUNED).encode(y=f"{name}:Q") for name in ("lower", "upper")]
    layers: list[alt.Chart] = []
    low, high = (next(iter(view.column(name)), None) for name in ("low", "high"))
    if low is not None and high is not None and high > 0.0:
        span = {"low": max(low, 0.0), "high": min(high, right)}
        layers.append(
            alt.Chart(pa.Table.from_pylist([span]))
            .mark_rect(color=GREY, opacity=0.2)
            .encode(x="low:Q", x2="high:Q")
        )
    own = rule("x", "lora_alpha", *view.column("lora_alpha")[:1])
    return alt.layer(*layers, band, *edges, own, *levels((1.0, "threshold"))).properties(
        height=HEIGHT
    )
