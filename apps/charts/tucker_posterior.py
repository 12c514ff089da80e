"""Charts of what a functional Tucker fit predicts."""

from __future__ import annotations

import altair as alt

from analyzer.views.view import View
from apps.charts.data import inline
from reports import style

_VALUE = ".4~g"
WIDTH = 330  # pixels: panels among others cannot take the width of the page
PLACES = alt.Scale(
    domain=["scanned", "between scans", "extrapolated"],
    range=[style.BASE, style.TUNED, style.INTRUDER],
)
SHAPES = alt.Scale(
    domain=["scanned", "between scans", "extrapolated"], range=["circle", "diamond", "cross"]
)


def _x_label(view: View) -> str:
    return "block" if view.name.endswith("depth") else "training step"


def _tooltip(view: View) -> list[alt.Tooltip]:
    names = {
        "x": _x_label(view), "quantile": "quantile", "mean": "mean", "lo": "95 % from",
        "hi": "95 % to", "observed": "scanned",
    }  # fmt: skip
    fields = [alt.Tooltip(f"{c}:Q", title=t, format=_VALUE) for c, t in names.items()]
    return [*fields, alt.Tooltip("place:N")]


def surface(view: View) -> alt.LayerChart | alt.FacetChart:
    """A map of the mean; marked cells were not scanned."""
    qs = sorted(set(view.column("quantile")))
    unscanned = set(view.column("place")) - {"scanned"}
    base = alt.Chart(view.table).encode(
        x=alt.X("x:O", title=_x_label(view), axis=alt.Axis(labelAngle=0, labelOverlap=True)),
        y=alt.Y(
            "quantile:O",
            title="quantile of singular values",
            axis=alt.Axis(format=".2f", values=qs[:: max(1, -(-len(qs) // 6))]),
        ),
        tooltip=_tooltip(view),
    )
    cells = base.mark_rect().encode(
        color=alt.Color(
            "mean:Q",
            title="mean of log σ",
            scale=alt.Scale(scheme=style.SEQUENTIAL),
            legend=alt.Legend(orient="top", gradientLength=200),
        )
    )
    marks = (
        base.transform_filter("datum.place != 'scanned'")
        .mark_point(color="white", size=14, opacity=0.9)
        .encode(
            shape=alt.Shape(
                "place:N",
                title="not scanned",
                legend=alt.Legend(orient="bottom") if unscanned else None,
                scale=alt.Scale(
                    domain=["between scans", "extrapolated"], range=["circle", "cross"]
                ),
            )
        )
    )
    return alt.layer(cells, marks).properties(height=320)


def slices(view: View) -> alt.FacetChart:
    """One panel a quantile: mean, 95 % interval, and what was scanned."""
    depth = view.name.endswith("depth")
    x = alt.X(
        "x:Q",
        title=_x_label(view),
        scale=alt.Scale(type="linear" if depth else "symlog", zero=False, nice=False),
        axis=alt.Axis(
            values=sorted(set(view.column("x"))), format=",~r", labelOverlap=True, grid=False
        ),
    )
    scale, few = alt.Scale(zero=False), alt.Axis(title="log σ", tickCount=4)
    base = alt.Chart().encode(x=x)
    band = base.mark_area(color=style.TUNED, opacity=0.25).encode(
        y=alt.Y("lo:Q", scale=scale, axis=few), y2="hi:Q"
    )
    mean = base.mark_line(color=style.TUNED).encode(y=alt.Y("mean:Q", scale=scale, axis=few))
    points = (
        base.transform_calculate(shown="isValid(datum.observed) ? datum.observed : datum.mean")
        .mark_point(filled=True, size=55, opacity=1)
        .encode(
            y=alt.Y("shown:Q", scale=scale, axis=few),
            color=alt.Color("place:N", title=None, scale=PLACES, legend=alt.Legend(orient="top")),
            shape=alt.Shape("place:N", title=None, scale=SHAPES),
            tooltip=_tooltip(view),
        )
    )
    return (
        alt.layer(band, mean, points, data=view.table)
        .properties(height=90, width=WIDTH)
        .facet(
            row=alt.Row("quantile:Q", title="quantile", header=alt.Header(format=".2f")), spacing=8
        )
        .resolve_scale(y="independent")
    )


def predicted_against_scanned(view: View) -> alt.LayerChart | alt.FacetChart:
    """Mean against scanned value with intervals; the dashed line is equality."""
    ends = [min(view.column("observed"), default=0), max(view.column("observed"), default=1)]
    base = alt.Chart(view.table).encode(
        x=alt.X("observed:Q", title="scanned log σ", scale=alt.Scale(zero=False))
    )
    bars = base.mark_rule(color=style.TUNED, opacity=0.35).encode(
        y=alt.Y("lo:Q", title="predicted log σ", scale=alt.Scale(zero=False)), y2="hi:Q"
    )
    points = base.mark_circle(size=16, opacity=0.9).encode(
        y=alt.Y("mean:Q", scale=alt.Scale(zero=False)),
        color=alt.condition("datum.inside", alt.value(style.TUNED), alt.value(style.INTRUDER)),
        tooltip=["role:N", "depth:Q", "step:Q"]
        + [
            alt.Tooltip(f"{c}:Q", format=_VALUE)
            for c in ("quantile", "observed", "mean", "lo", "hi", "z")
        ],
    )
    line = (
        alt.Chart(inline([{"x": v} for v in ends]))
        .mark_line(color=style.BASE, strokeDash=[4, 3])
        .encode(x="x:Q", y="x:Q")
    )
    return alt.layer(bars, points, line).properties(height=320)


def noise_by_quantile(view: View) -> alt.Chart:
    """Residual, noise and uncertainty of the function along the quantiles."""
    names = {
        "sd": ("observation sd", style.TUNED),
        "sd_function": ("function sd", style.BASE),
        "residual": ("residual", style.DELTA),
    }
    rows = [
        {"quantile": row["quantile"], "what": said, "value": row[c], "coverage": row["coverage"]}
        for row in view.rows()
        for c, (said, _) in names.items()
    ]
    scale = alt.Scale(domain=[t for t, _ in names.values()], range=[c for _, c in names.values()])
    return (
        alt.Chart(inline(rows))
        .mark_line(point=True)
        .encode(
            x=alt.X("quantile:Q", title="quantile of singular values"),
            y=alt.Y("value:Q", title="log σ", scale=alt.Scale(type="log")),
            color=alt.Color("what:N", title=None, scale=scale, legend=alt.Legend(orient="top")),
            strokeDash=alt.StrokeDash("what:N", title=None),
            tooltip=[
                "what:N",
                alt.Tooltip("quantile:Q", format=".3f"),
                alt.Tooltip("value:Q", format=_VALUE),
                alt.Tooltip("coverage:Q", format=".3f"),
            ],
        )
        .properties(height=320)
    )
