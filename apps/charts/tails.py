"""Charts of heavy tails of whole checkpoints."""

from __future__ import annotations

from typing import Any

import altair as alt

from analyzer.views.view import View
from apps.charts.data import inline
from apps.charts.lines import Layers
from reports import style

PANEL = 210  # pixels: width of a role's panel with its axis
SERIES = {"base": style.BASE, "tuned": style.TUNED}
_HISTOGRAM = SERIES | {"random matrices": style.NOISE}


def alpha_by_depth(view: View) -> dict[str, Layers]:
    """One chart a role, to be set side by side: α with its interval against the layer."""
    alpha, ends = view.column("alpha"), [end for end in view.column("hi") if end is not None]
    top = max(alpha, default=2.0)
    # one interval of a few values would squeeze all others
    domain = [1.0, 1.5 * top if ends and max(ends) > 3 * top else 1.05 * max([top, *ends])]
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in view.rows():
        rows.setdefault(row["role"], []).append(row)
    return {role: _role_panel(part, domain) for role, part in rows.items()}


def _role_panel(rows: list[dict[str, Any]], domain: list[float]) -> Layers:
    base = alt.Chart(inline(rows)).encode(
        x=alt.X(
            "layer:Q", axis=alt.Axis(format="d", tickMinStep=1, tickCount=6),
            scale=alt.Scale(nice=False, padding=6),
        ),
        color=alt.Color(
            "series:N", title=None, legend=None,
            scale=alt.Scale(domain=list(SERIES), range=list(SERIES.values())),
        ),
        tooltip=[
            alt.Tooltip("series:N"), alt.Tooltip("role:N"), alt.Tooltip("layer:Q"),
            alt.Tooltip("alpha:Q", title="α", format=".3f"),
            alt.Tooltip("lo:Q", title="from", format=".3f"),
            alt.Tooltip("hi:Q", title="to", format=".3f"),
            alt.Tooltip("n_matrices:Q", title="matrices"),
        ],
    )  # fmt: skip
    scale = alt.Scale(domain=domain, nice=False)
    bars = base.mark_rule(clip=True, opacity=0.6, strokeWidth=1.5).encode(
        y=alt.Y("lo:Q", title="α", scale=scale), y2="hi:Q"
    )
    y = alt.Y("alpha:Q", title="α", scale=scale, axis=alt.Axis(tickCount=5))
    # the base is drawn below and wider, so that it shows where both are equal
    lines = base.mark_line().encode(
        y=y,
        strokeWidth=alt.condition("datum.series == 'base'", alt.value(4.5), alt.value(1.6)),
        opacity=alt.condition("datum.series == 'base'", alt.value(0.6), alt.value(1)),
    )
    points = base.mark_point(filled=True, size=22, opacity=1).encode(y=y)
    return alt.layer(lines, bars, points).properties(height=200)


def alpha_histogram(view: View) -> Layers:
    """Matrices by α: tuned as bars, base as steps, random matrices of the same shapes as a line."""
    rows = [
        row | {"series": "random matrices" if row["series"] == "random" else row["series"]}
        for row in view.rows()
    ]
    width = view.parameters["bin width"]
    shown = [name for name in _HISTOGRAM if any(row["series"] == name for row in rows)]
    colour = alt.Color(
        "series:N", title=None, legend=alt.Legend(orient="bottom", symbolOpacity=1),
        scale=alt.Scale(domain=shown, range=[_HISTOGRAM[name] for name in shown]),
    )  # fmt: skip
    tooltip = [
        alt.Tooltip("series:N"), alt.Tooltip("low:Q", title="α from", format=".3g"),
        alt.Tooltip("high:Q", title="to", format=".3g"),
        alt.Tooltip("n:Q", title="matrices", format=".3g"),
    ]  # fmt: skip
    bars = (
        alt.Chart(inline([row for row in rows if row["series"] == "tuned"]))
        .mark_rect(opacity=0.45)
        .encode(
            x=alt.X("low:Q", title="tail exponent α", scale=alt.Scale(zero=False)), x2="high:Q",
            y=alt.Y("n:Q", title="matrices", axis=alt.Axis(tickMinStep=1)), y2=alt.datum(0),
            color=colour, tooltip=tooltip,
        )
    )  # fmt: skip
    others = (
        alt.Chart(inline(_steps(rows, width)))
        .mark_line(interpolate="step-after", strokeWidth=2)
        .encode(
            x="low:Q", y="n:Q", color=colour, tooltip=tooltip,
            strokeDash=alt.condition(
                "datum.series == 'base'", alt.value([1, 0]), alt.value([3, 3])
            ),
        )
    )  # fmt: skip
    return alt.layer(bars, others).properties(height=320)


def _steps(rows: list[dict[str, Any]], width: float) -> list[dict[str, Any]]:
    """Bins of base and random with the empty ones between, and an end for the last."""
    found: list[dict[str, Any]] = []
    for name in ("base", "random matrices"):
        counts = {round(r["low"] / width): r["n"] for r in rows if r["series"] == name}
        for bin in range(min(counts, default=0), max(counts, default=-1) + 2):
            low = bin * width
            found.append({"series": name, "low": low, "high": low + width, "n": counts.get(bin, 0)})
    return found
