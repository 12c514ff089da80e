"""Charts of WeLore ranks."""

from __future__ import annotations

from typing import Any

import altair as alt

from analyzer.views.heat import places
from analyzer.views.view import View
from apps.charts.data import inline
from apps.charts.lines import Layers, rule
from reports import style
from reports.figures.welore import LRC, N_LRC

PANEL = 210  # pixels: width of a role's panel with its axis
KINDS = {"LRC": LRC, "no LRC": N_LRC}


def rank_bars(view: View) -> dict[str, alt.Chart]:
    """One chart a role, to be set side by side: share of the rank kept by layer."""
    every = places(view)
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in view.rows():
        extra = {"kind": "LRC" if row["is_lrc"] else "no LRC"}
        rows.setdefault(row["role"], []).append(
            row | extra | {"share": row["rank_kept"] / row["full_rank"]}
        )
    return {role: _role_panel(part, every) for role, part in rows.items()}


def _role_panel(rows: list[dict[str, Any]], every: list[str]) -> alt.Chart:
    return (
        alt.Chart(inline(rows))
        .mark_bar()
        .encode(
            x=alt.X(
                "place:O", title="layer", sort=every, scale=alt.Scale(domain=every),
                axis=alt.Axis(labelAngle=0, labelOverlap="greedy"),
            ),
            y=alt.Y(
                "share:Q", title="rank kept", scale=alt.Scale(domain=[0, 1]),
                axis=alt.Axis(format=".0%", tickCount=3),
            ),
            color=_colour(None),
            tooltip=[
                alt.Tooltip("role:N"), alt.Tooltip("place:N", title="layer"),
                alt.Tooltip("kind:N", title="component"),
                alt.Tooltip("rank_kept:Q", title="rank kept"),
                alt.Tooltip("full_rank:Q", title="of"),
                alt.Tooltip("param_ratio:Q", title="parameters of the factors", format=".1%"),
                alt.Tooltip("energy_kept:Q", title="energy kept", format=".2%"),
                alt.Tooltip("n:Q", title="matrices"),
            ],
        )
        .properties(height=170)
    )  # fmt: skip


def _colour(legend: alt.Legend | None) -> alt.Color:
    return alt.Color(
        "kind:N", title=None, legend=legend,
        scale=alt.Scale(domain=list(KINDS), range=list(KINDS.values())),
    )  # fmt: skip


def normalised_spectra(view: View) -> Layers:
    """z against k/p, a line a matrix, and the threshold below which all is pruned."""
    rows = [row | {"kind": "LRC" if row["is_lrc"] else "no LRC"} for row in view.rows()]
    lines = (
        alt.Chart(inline(rows))
        .mark_line(strokeWidth=1.2, opacity=0.6)
        .encode(
            x=alt.X("q:Q", title="relative rank k/p"),
            y=alt.Y("z:Q", title="normalised singular value"),
            detail="name:N",
            color=_colour(alt.Legend(orient="bottom", symbolOpacity=1)),
            tooltip=[
                alt.Tooltip("name:N", title="matrix"), alt.Tooltip("kind:N", title="component"),
                alt.Tooltip("q:Q", title="k/p", format=".3f"), alt.Tooltip("z:Q", format=".4f"),
            ],
        )
    )  # fmt: skip
    threshold = rule("y", "z", *view.column("threshold")[:1], colour=style.BASE)
    return alt.layer(lines, threshold).properties(height=360)
