"""Charts of followed runs: maps of singular values, cosines and overlaps, and overlap curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import altair as alt

from analyzer.views.view import View
from apps.charts.lines import levels, series
from reports import style
from reports.figures.emergence import DECADES

HEIGHT = 360


def spectrum_map(view: View) -> alt.TopLevelMixin:
    """Rows are steps, columns singular values, colour their size on a log scale."""
    positive = [s for s in view.column("sigma") if s > 0.0]
    high = max(positive, default=1.0)
    low = max(min(positive, default=0.1), high / 10.0**DECADES)
    ticks = [10.0**i for i in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)]
    ranks = sorted(set(view.column("k")))
    steps = sorted(set(view.column("step")))
    return (
        alt.Chart(view.table)
        .mark_rect()
        .encode(
            x=alt.X("k:O", title="rank k", axis=_few(ranks, 8)),
            y=alt.Y("step:O", title="step", sort="descending", axis=_few(steps, 10)),
            color=alt.Color(
                "sigma:Q",
                title="σ",
                scale=alt.Scale(
                    type="log", domain=[low, high], clamp=True, scheme=style.SEQUENTIAL
                ),
                legend=alt.Legend(
                    format=".1~e",
                    gradientLength=HEIGHT - 60,
                    values=ticks if len(ticks) > 1 else alt.Undefined,
                ),
            ),
            tooltip=[
                alt.Tooltip("step:Q"),
                alt.Tooltip("k:Q"),
                alt.Tooltip("sigma:Q", format=".4g", title="σ"),
            ],
        )
        .properties(height=HEIGHT)
    )  # fmt: skip


def cosine_map(view: View) -> alt.TopLevelMixin:
    """Steps against steps, colour the cosine."""
    low = min([0.0, *(v for v in view.column("cosine") if v is not None)])
    further = [
        alt.Tooltip("err:Q", format=".2g", title="error"),
        alt.Tooltip("disattenuated:Q", format=".3f", title="of the expected gradients"),
    ]
    return _square(view, "cosine", low, further)


def overlap_map(view: View) -> alt.TopLevelMixin:
    """Steps against steps, colour the overlap; chance is in the tooltip."""
    further = [alt.Tooltip("chance:Q", format=".3f"), alt.Tooltip("r:Q", title="directions")]
    return _square(view, "overlap", 0.0, further)


def overlap_curves(view: View) -> alt.TopLevelMixin:
    """Overlap by step with other steps, and the chance line."""
    lines = (
        alt.Chart(view.table)
        .mark_line(point=True)
        .encode(
            x=alt.X("step:Q", title="step"),
            y=alt.Y("overlap:Q", title="overlap", scale=alt.Scale(domain=[0, 1])),
            color=series("held_to", "overlap with", columns=2),
            strokeDash=alt.StrokeDash("held_to:N", title="overlap with"),
            tooltip=[
                alt.Tooltip("held_to:N", title="with"),
                alt.Tooltip("step:Q"),
                alt.Tooltip("overlap:Q", format=".3f"),
                alt.Tooltip("error:Q", format=".2g"),
                alt.Tooltip("chance:Q", format=".3f"),
            ],
        )
    )
    chance = view.parameters.get("chance")
    rules = [] if chance is None else levels((chance, "chance"))
    return alt.layer(lines, *rules).properties(height=HEIGHT)


def _square(view: View, value: str, low: float, further: list[alt.Tooltip]) -> alt.Chart:
    steps = sorted(set(view.column("step_a")))
    return (
        alt.Chart(view.table)
        .mark_rect()
        .encode(
            x=alt.X("step_a:O", title="step", axis=_few(steps, 8)),
            y=alt.Y("step_b:O", title="step", sort="descending", axis=_few(steps, 8)),
            color=alt.Color(
                f"{value}:Q",
                title=value,
                scale=alt.Scale(domain=[low, 1.0], scheme=style.SEQUENTIAL),
                legend=alt.Legend(gradientLength=HEIGHT - 60),
            ),
            tooltip=[
                alt.Tooltip("step_a:Q", title="step"),
                alt.Tooltip("step_b:Q", title="and step"),
                alt.Tooltip(f"{value}:Q", format=".3f"),
                *further,
            ],
        )
        .properties(height=HEIGHT)
    )


def _few(values: Sequence[Any], most: int) -> alt.Axis:
    """An axis that names about `most` of the values."""
    return alt.Axis(values=list(values[:: max(1, -(-len(values) // most))]), labelAngle=0)
