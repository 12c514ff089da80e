"""Charts of numbers by layer and role, and along training."""

from __future__ import annotations

from typing import Any

import altair as alt

from analyzer.views import heat as views
from analyzer.views.view import View
from apps.charts.data import inline
from reports import style
from reports.figures.heat import BANDS

CELL = "cell"  # name of the selection that a click makes
_ROW = 28  # pixels: height of a role
# PuOr (ColorBrewer), as in the paper's figures: Vega's own goes the other way.
_DIVERGING = ("#b35806", "#f1a340", "#fee0b6", "#f7f7f7", "#d8daeb", "#998ec3", "#542788")


def heat(view: View) -> alt.Chart:
    """Roles against layers; a click on a cell selects its `place` and `role`."""
    picked = alt.selection_point(name=CELL, fields=["place", "role"], on="click", empty=False)
    roles = views.roles(view)
    return (
        alt.Chart(inline(view.rows()))
        .mark_rect(cursor="pointer", strokeWidth=2)
        .encode(
            x=alt.X(
                "place:O", title="layer", sort=views.places(view),
                axis=alt.Axis(labelAngle=0, labelOverlap="parity"),
            ),
            y=alt.Y("role:N", title=None, sort=roles),
            color=alt.Color(
                "value:Q", title=None, scale=_colours(view),
                legend=alt.Legend(format=".3~g", tickCount=5, gradientLength=_ROW * len(roles)),
            ),
            stroke=alt.condition(picked, alt.value(style.INTRUDER), alt.value(None)),
            tooltip=[
                alt.Tooltip("role:N"),
                alt.Tooltip("place:N", title="layer"),
                alt.Tooltip("value:Q", format=".4g", title=views.label(view)),
                alt.Tooltip("n:Q", title="matrices"),
                alt.Tooltip("low:Q", format=".4g", title="least"),
                alt.Tooltip("high:Q", format=".4g", title="largest"),
                alt.Tooltip("matrices:N", title="names"),
            ],
        )
        .add_params(picked)
        .properties(height=_ROW * max(len(roles), 3) + 60)
    )  # fmt: skip


def _colours(view: View) -> alt.Scale:
    kind, found = views.scale(view), view.column("value")
    if kind == "diverging":
        most = max(map(abs, found), default=0.0) or 1.0
        return alt.Scale(domain=[-most, most], range=list(_DIVERGING))
    if kind == "log":
        return alt.Scale(type="log", scheme=style.SEQUENTIAL, nice=False)
    return alt.Scale(scheme=style.SEQUENTIAL, zero=False, nice=False)


def clicked(view: View, picked: Any) -> dict[str, Any] | None:
    """The row of the cell that was clicked, None where none is."""
    chosen = (picked or {}).get("selection", {}).get(CELL) or []
    if not chosen:
        return None
    place, role = str(chosen[0].get("place")), chosen[0].get("role")
    return next((r for r in view.rows() if (r["place"], r["role"]) == (place, role)), None)


def history(view: View) -> alt.TopLevelMixin:
    """One line a run with its quartiles; the base as a grey line across."""
    name = view.title.partition(" along ")[0]
    runs = alt.Chart(inline([row for row in view.rows() if row["run"] is not None]))
    colour = alt.Color("run:N", title="run", scale=alt.Scale(range=list(style.SERIES)))
    x = alt.X("step:Q", title="step")
    y = alt.Y("value:Q", title=name, scale=alt.Scale(zero=False))
    band = runs.mark_area(opacity=0.15).encode(x=x, y=alt.Y("low:Q"), y2="high:Q", color=colour)
    lines = runs.mark_line(point=True).encode(
        x=x, y=y, color=colour,
        tooltip=[
            alt.Tooltip("checkpoint:N"), alt.Tooltip("step:Q"),
            alt.Tooltip("value:Q", format=".4g", title=name),
            alt.Tooltip("low:Q", format=".4g", title="lower quartile"),
            alt.Tooltip("high:Q", format=".4g", title="upper quartile"),
            alt.Tooltip("n:Q", title="matrices"),
        ],
    )  # fmt: skip
    base = (
        alt.Chart(inline([row for row in view.rows() if row["run"] is None]))
        .mark_rule(color=style.BASE, strokeWidth=1.5)
        .encode(
            y="value:Q",
            tooltip=[
                alt.Tooltip("checkpoint:N", title="base"), alt.Tooltip("value:Q", format=".4g"),
            ],
        )
    )  # fmt: skip
    shown = [base, lines] if len(set(view.column("run")) - {None}) > BANDS else [band, base, lines]
    return alt.layer(*shown).properties(height=300)
