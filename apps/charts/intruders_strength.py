"""Charts of how strong updates are against what makes an intruder."""

from __future__ import annotations

import altair as alt

from analyzer.views.view import View
from apps.charts.data import inline
from apps.charts.lines import Layers, checkpoint_colour, lines_with_bands, rule
from reports import style

_PLACE = [alt.Tooltip("checkpoint:N"), alt.Tooltip("matrix:N")]
_FOUND, _SHAPES = ["none found", "intruders found"], ["circle", "triangle-up"]
_LOG_AXIS = alt.Axis(format=".2~g", tickCount=6)


def predicted_against_strength(view: View) -> Layers:
    """σ₁(ΔW) against θ*, both logarithmic, with the diagonal; matrices with intruders in red."""
    rows = [row for row in view.rows() if row["theta_star"] > 0 and row["delta_spectral_norm"] > 0]
    thresholds = [row["theta_star"] for row in rows] or [1.0]
    ends = [{"theta_star": at, "y": at} for at in (min(thresholds), max(thresholds))]
    x = alt.X(
        "theta_star:Q", title="predicted threshold θ*", axis=_LOG_AXIS,
        scale=alt.Scale(type="log", nice=False, padding=8),
    )  # fmt: skip
    y = alt.Y(
        "delta_spectral_norm:Q", title="strength of the update σ₁(ΔW)", axis=_LOG_AXIS,
        scale=alt.Scale(type="log", nice=False, padding=8),
    )  # fmt: skip
    line = (
        alt.Chart(inline(ends))
        .mark_line(strokeDash=[4, 3], color=style.BASE)
        .encode(x=x, y=alt.Y("y:Q", title="strength of the update σ₁(ΔW)"))
    )
    points = (
        alt.Chart(inline(rows))
        .mark_point(filled=True, size=36, opacity=0.75)
        .transform_calculate(found="datum.has_intruders ? 'intruders found' : 'none found'")
        .encode(
            x=x, y=y,
            color=alt.Color(
                "found:N", title=None, legend=alt.Legend(orient="bottom"),
                scale=alt.Scale(domain=_FOUND, range=[style.TUNED, style.INTRUDER]),
            ),
            shape=alt.Shape(
                "found:N", title=None, scale=alt.Scale(domain=_FOUND, range=_SHAPES)
            ),
            tooltip=[
                *_PLACE, alt.Tooltip("theta_star:Q", title="θ*", format=".4g"),
                alt.Tooltip("delta_spectral_norm:Q", title="σ₁(ΔW)", format=".4g"),
                alt.Tooltip("n_intruders:Q", title="intruders"),
            ],
        )
    )  # fmt: skip
    return alt.layer(line, points).properties(height=420)


def critical_multipliers(view: View) -> Layers:
    """A strip a role: multiplier of every matrix, a rule at 1; one colour a checkpoint."""
    rows = [row for row in view.rows() if row["critical_multiplier"] is not None]
    points = (
        alt.Chart(inline(rows))
        .mark_point(filled=True, size=40, opacity=0.8)
        .encode(
            x=alt.X(
                "role:N", title=None, sort=list(dict.fromkeys(view.column("role"))),
                axis=alt.Axis(labelAngle=-45, labelOverlap=False),
            ),
            xOffset=alt.XOffset("checkpoint:N"),
            y=alt.Y(
                "critical_multiplier:Q", title="critical multiplier of ΔW", axis=_LOG_AXIS,
                scale=alt.Scale(type="log", nice=False, padding=8),
            ),
            color=checkpoint_colour(view),
            tooltip=[
                *_PLACE,
                alt.Tooltip("critical_multiplier:Q", title="multiplier", format=".4g"),
                alt.Tooltip("critical_limit:Q", title="largest tried", format=".4g"),
                alt.Tooltip("n_intruders:Q", title="intruders at 1"),
            ],
        )
    )  # fmt: skip
    one = rule("y", "critical_multiplier", 1.0)
    return alt.layer(one, points).properties(height=420)


def update_ranks(view: View) -> Layers:
    """Effective rank of ΔW by layer, one line a checkpoint, with the range over the layer."""
    x = alt.X("layer:Q", axis=alt.Axis(format="d", tickMinStep=1), scale=alt.Scale(nice=False))
    scale = alt.Scale(type="log", nice=False, padding=8)
    y = alt.Y("effective_rank:Q", scale=scale, axis=_LOG_AXIS)
    tooltip = [
        alt.Tooltip("layer:Q"),
        alt.Tooltip("effective_rank:Q", title="median", format=".3g"),
        alt.Tooltip("lo:Q", title="least", format=".3g"),
        alt.Tooltip("hi:Q", title="largest", format=".3g"),
        alt.Tooltip("n_matrices:Q", title="matrices"),
    ]
    layers = lines_with_bands(view, x, y, "effective rank of ΔW", tooltip)
    return alt.layer(*layers).properties(height=360)
