"""Charts of where checkpoints lie in weight space."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import altair as alt

from analyzer.views.view import View
from apps.charts.data import inline
from reports import style


def embedding(view: View) -> alt.LayerChart | alt.FacetChart:
    """The plane of the first two components; arrowheads point along the steps of a run."""
    runs = list(dict.fromkeys(view.column("run")))
    base_runs = {row["run"] for row in view.rows() if row["kind"] == "base"}
    series = iter(list(style.SERIES) * (1 + len(runs) // len(style.SERIES)))
    colours = [style.BASE if run in base_runs else next(series) for run in runs]
    colour = alt.Color(
        "run:N",
        title=None,
        scale=alt.Scale(domain=runs, range=colours),
        legend=alt.Legend(orient="top", columns=3),
    )
    shares = list(view.parameters.values())
    names = [
        f"component {i + 1} ({shares[i]})" if i < len(shares) else f"component {i + 1}"
        for i in range(2)
    ]
    base = alt.Chart(view.table).encode(
        x=alt.X("x:Q", title=names[0]), y=alt.Y("y:Q", title=names[1]), color=colour
    )
    lines = base.mark_line(strokeWidth=1.2).encode(order="step:Q", detail="run:N")
    points = base.mark_point(filled=True, size=50, opacity=1).encode(
        shape=alt.Shape(
            "kind:N",
            title=None,
            scale=alt.Scale(
                domain=["base", "full", "adapter"], range=["diamond", "circle", "square"]
            ),
            legend=None,
        ),
        tooltip=["checkpoint:N", "run:N", "step:Q", "kind:N"],
    )
    heads = (
        alt.Chart(inline(_heads(view)))
        .mark_point(filled=True, size=110, opacity=1, shape="triangle-up")
        .encode(
            x="x:Q", y="y:Q", color=colour,
            angle=alt.Angle("angle:Q", scale=alt.Scale(domain=[0, 360], range=[0, 360])),
        )
    )  # fmt: skip
    return alt.layer(lines, points, heads).properties(height=420)


def _heads(view: View) -> list[dict[str, Any]]:
    """Middle and direction (degrees clockwise from up) of every run's longest stretch.

    Angles are those of a plot as wide and as high as the data's extent.
    """
    rows = view.rows()
    spans = [max(r[c] for r in rows) - min(r[c] for r in rows) or 1.0 for c in "xy"] if rows else []
    heads = []
    for run, part in view.groups("run"):
        steps = list(zip(part["x"], part["y"], strict=True))
        moves = [
            (x0, y0, (x1 - x0) / spans[0], (y1 - y0) / spans[1])
            for (x0, y0), (x1, y1) in pairwise(steps)
        ]
        if moves:
            x, y, dx, dy = max(moves, key=lambda m: math.hypot(m[2], m[3]))
            heads.append(
                {
                    "run": run, "x": x + 0.55 * dx * spans[0], "y": y + 0.55 * dy * spans[1],
                    "angle": math.degrees(math.atan2(dx, dy)) % 360,
                }
            )  # fmt: skip
    return heads


def explained(view: View) -> alt.LayerChart | alt.FacetChart:
    """Bars of explained variance, and a random walk's as ticks."""
    base = alt.Chart(view.table).encode(
        x=alt.X("component:O", title="principal component", axis=alt.Axis(labelAngle=0)),
        tooltip=[
            "component:O",
            alt.Tooltip("explained:Q", format=".2%"),
            alt.Tooltip("random_walk:Q", format=".2%"),
        ],
    )
    bars = base.mark_bar(color=style.TUNED).encode(
        y=alt.Y("explained:Q", title="share of variance", axis=alt.Axis(format="%"))
    )
    ticks = base.mark_tick(color=style.INTRUDER, thickness=3, size=26).encode(y="random_walk:Q")
    return alt.layer(bars, ticks).properties(height=300)


def distances(view: View) -> alt.Chart:
    """The matrix as a map, checkpoints by run and step."""
    places = {row["a"]: row["i"] for row in view.rows()} | {
        row["b"]: row["j"] for row in view.rows()
    }
    order = sorted(places, key=lambda name: places[name])
    measure = str(view.parameters["measure"])
    signed = measure.startswith("cosine_from")
    scale = (
        alt.Scale(scheme="purpleorange", reverse=True, domain=[-1, 1])
        if signed
        else alt.Scale(scheme=style.SEQUENTIAL, zero=False)
    )
    axis = alt.Axis(labelLimit=150, labelOverlap=len(order) > 40)
    return (
        alt.Chart(view.table)
        .mark_rect()
        .encode(
            x=alt.X("b:N", sort=order, title=None, axis=axis),
            y=alt.Y("a:N", sort=order, title=None, axis=axis),
            color=alt.Color(
                "value:Q",
                title=measure.replace("_", " "),
                scale=scale,
                legend=alt.Legend(orient="top", gradientLength=220),
            ),
            tooltip=["a:N", "b:N", alt.Tooltip("value:Q", title=measure, format=".5~g")],
        )
        .properties(height=max(320, 230 + 14 * len(order)))
    )


def dimensions(view: View) -> alt.LayerChart | alt.FacetChart:
    """One line an estimate, with its interval where it has one; refusals in words."""
    rows = [row | {"label": f"{row['of']}, {row['method']}"} for row in view.rows()]
    y = alt.Y(
        "label:N", sort=[row["label"] for row in rows], title=None,
        axis=alt.Axis(labelLimit=240, labelOverlap=False),
    )  # fmt: skip
    tooltip = ["of:N", "method:N", "n:Q"] + [
        alt.Tooltip(f"{c}:Q", format=".3~g") for c in ("d", "lo", "hi")
    ]
    told = [row for row in rows if row["d"] is not None]
    base = alt.Chart(inline(told)).encode(y=y, tooltip=[*tooltip, "warnings:N"])
    points = base.mark_point(filled=True, size=70, opacity=1, color=style.TUNED).encode(
        x=alt.X("d:Q", title="intrinsic dimension", scale=alt.Scale(zero=True))
    )
    bars = (
        base.transform_filter("isValid(datum.lo) && isValid(datum.hi)")
        .mark_rule(color=style.TUNED, strokeWidth=2)
        .encode(x="lo:Q", x2="hi:Q")
    )
    refused = [row | {"zero": 0} for row in rows if row["d"] is None]
    words = (
        alt.Chart(inline(refused))
        .mark_text(align="left", color=style.INTRUDER, dx=4)
        .encode(y=y, x="zero:Q", text="status:N", tooltip=["of:N", "status:N", "n:Q"])
    )
    return alt.layer(bars, points, words).properties(height=90 + 22 * max(3, len(rows)))
