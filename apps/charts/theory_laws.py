"""Charts of outliers, GaLore's bounds and attention's thresholds."""

from __future__ import annotations

import altair as alt
import pyarrow as pa

from analyzer.views.view import View
from apps.charts.data import inline
from apps.charts.lines import named_rule
from apps.charts.theory import HEIGHT, titled
from reports import style

_VALUE = ".4~g"
_TOP = alt.Legend(orient="top", columns=2, labelLimit=220)


def _theta() -> alt.X:
    return alt.X("theta:Q", title="strength θ", scale=alt.Scale(type="log", nice=False))


def _coloured(names: list[str], colours: list[str]) -> alt.Color:
    return alt.Color(
        "what:N", title=None, scale=alt.Scale(domain=names, range=colours), legend=_TOP
    )


def positions(view: View, theta: float) -> alt.LayerChart | alt.FacetChart:
    """Where the singular value lies, against the strength of the update."""
    names = {"rho": "this spectrum", "limit": "infinite size"}
    rows = titled(view.rows(), names, "theta")
    lines = (
        alt.Chart(inline(rows))
        .mark_line()
        .encode(
            x=_theta(),
            y=alt.Y("value:Q", title="singular value ρ", scale=alt.Scale(type="log", nice=False)),
            color=_coloured(list(names.values()), [style.TUNED, style.BASE]),
            strokeDash=alt.StrokeDash("what:N", title=None, sort=list(names.values())),
            tooltip=["what:N"] + [alt.Tooltip(f"{c}:Q", format=_VALUE) for c in ("theta", "value")],
        )
    )
    base = named_rule("y", view.parameters["σ₁(W0)"], style.BASE, (4, 3), "σ₁ of the base")
    return alt.layer(lines, base, *_strengths(view, theta)).properties(height=HEIGHT)


def cosines(view: View, theta: float) -> alt.LayerChart | alt.FacetChart:
    """What its left vector resembles: the update, or a base vector."""
    names = {"alignment": "with the update", "maxcos": "largest with the base (median)"}
    lines = (
        alt.Chart(inline(titled(view.rows(), names, "theta")))
        .mark_line()
        .encode(
            x=_theta(),
            y=alt.Y("value:Q", title="|cosine|", scale=alt.Scale(domain=[0, 1])),
            color=_coloured(list(names.values()), [style.DELTA, style.BASE]),
            strokeDash=alt.StrokeDash("what:N", title=None, sort=list(names.values())),
            tooltip=["what:N"] + [alt.Tooltip(f"{c}:Q", format=_VALUE) for c in ("theta", "value")],
        )
    )
    epsilon = named_rule("y", view.parameters["ε"], style.INTRUDER, (1, 3), "ε")
    return alt.layer(lines, epsilon, *_strengths(view, theta)).properties(height=HEIGHT)


def _strengths(view: View, theta: float) -> list[alt.Chart]:
    known = {"theta": (theta, style.TUNED), "star": (view.parameters["θ*"], style.INTRUDER)}
    return [
        alt.Chart(inline([{"theta": value, "what": name}]))
        .mark_rule(color=colour, strokeDash=[6, 2])
        .encode(x="theta:Q", tooltip=["what:N", alt.Tooltip("theta:Q", format=_VALUE)])
        for (value, colour), name in zip(
            known.values(), ("θ of the slider", "threshold θ*"), strict=True
        )
        if value is not None
    ]


def own_thresholds(view: View) -> alt.LayerChart | alt.FacetChart:
    """Strength against threshold; red squares are matrices with an intruder."""
    both = view.column("theta_star") + view.column("delta_spectral_norm")
    log = alt.Scale(type="log", nice=False)
    rows = [
        row | {"what": "intruder found" if row["has_intruder"] else "none found"}
        for row in view.rows()
    ]
    points = (
        alt.Chart(pa.Table.from_pylist(rows))
        .mark_point(filled=True, size=55, opacity=0.8)
        .encode(
            x=alt.X("theta_star:Q", title="predicted threshold θ*", scale=log),
            y=alt.Y("delta_spectral_norm:Q", title="σ₁(ΔW)", scale=log),
            color=_coloured(["none found", "intruder found"], [style.BASE, style.INTRUDER]),
            shape=alt.Shape("what:N", title=None),
            tooltip=["checkpoint:N", "matrix:N", "n_intruders:Q"]
            + [alt.Tooltip(f"{c}:Q", format=_VALUE) for c in ("theta_star", "delta_spectral_norm")],
        )
    )
    ends = [min(both, default=0.1), max(both, default=1.0)]
    line = (
        alt.Chart(inline([{"x": v} for v in ends]))
        .mark_line(color=style.BASE, strokeDash=[4, 3])
        .encode(x="x:Q", y="x:Q")
    )
    return alt.layer(points, line).properties(height=HEIGHT)


def stable_rank(view: View) -> alt.Chart:
    """Exact curve and bounds."""
    names = ["exact", "printed bound", "gap-aware bound"]
    return (
        alt.Chart(view.table)
        .mark_line()
        .encode(
            x=alt.X(
                "step:Q",
                title="step",
                scale=alt.Scale(type="symlog", nice=False),
                axis=alt.Axis(values=[0, 1, 3, 10, 30, 100, 300, 1000, 3000], format=",d"),
            ),
            y=alt.Y("value:Q", title="stable rank", scale=alt.Scale(zero=True)),
            color=alt.Color(
                "curve:N",
                title=None,
                legend=_TOP,
                scale=alt.Scale(domain=names, range=[style.TUNED, style.INTRUDER, style.DELTA]),
            ),
            strokeDash=alt.StrokeDash("curve:N", title=None, sort=names),
            tooltip=["curve:N", "step:Q", alt.Tooltip("value:Q", format=_VALUE)],
        )
        .properties(height=HEIGHT)
    )


def own_gradients(view: View) -> alt.LayerChart | alt.FacetChart:
    """Median and middle 80 % by run."""
    base = alt.Chart(view.table).encode(
        x=alt.X("step:Q", title="training step"),
        color=alt.Color(
            "run:N", title=None, scale=alt.Scale(range=list(style.SERIES)), legend=_TOP
        ),
    )
    band = base.mark_area(opacity=0.15).encode(
        y=alt.Y("low:Q", title="stable rank of the gradient"), y2="high:Q"
    )
    line = base.mark_line(point=True).encode(
        y="median:Q",
        tooltip=["run:N", "step:Q", "n:Q"]
        + [alt.Tooltip(f"{c}:Q", format=_VALUE) for c in ("median", "low", "high")],
    )
    return alt.layer(band, line).properties(height=HEIGHT)


def attention_phase(view: View, heads: View) -> alt.LayerChart | alt.FacetChart:
    """The threshold with its band, and heads at their lengths."""
    rows = heads.rows()
    largest = max([row["norm"] for row in rows] + [6.0])
    scale = alt.Scale(type="log", domain=[0.5, 1.1 * largest], nice=False, clamp=True)
    x = alt.X("norm:Q", title="norm Γ", scale=scale)
    y = alt.Y("log10_L:Q", title="log₁₀ of the length L", scale=alt.Scale(zero=False, nice=False))
    base = alt.Chart(view.table).encode(y=y)
    band = base.mark_area(color=style.NOISE, opacity=0.6, orient="horizontal").encode(
        x=alt.X("near_from:Q", title="norm Γ", scale=scale), x2="near_to:Q"
    )
    line = base.mark_line(color=style.BASE).encode(
        x="threshold:Q",
        order="log10_L:Q",
        tooltip=[alt.Tooltip(f"{c}:Q", format=_VALUE) for c in ("log10_L", "threshold")],
    )
    # the base's last, on top
    said = [row | {"what": "base" if row["is_base"] else "tuned"} for row in reversed(rows)]
    points = (
        alt.Chart(pa.Table.from_pylist(said))
        .mark_tick(orient="vertical", thickness=1.5, size=24, opacity=0.6)
        .encode(
            x=x,
            y=y,
            color=_coloured(["base", "tuned"], [style.BASE, style.TUNED]),
            tooltip=[
                *("name:N", "layer:Q", "head:Q", "L:Q", "verdict:N"),
                alt.Tooltip("norm:Q", format=_VALUE),
            ],
        )
    )
    return alt.layer(band, line, points).properties(height=HEIGHT)


def hypercube(view: View, heads: View) -> alt.LayerChart | alt.FacetChart:
    """Concentration of attention against ρ, and measured heads."""
    line = (
        alt.Chart(view.table)
        .mark_line(color=style.BASE)
        .encode(
            x=alt.X("rho:Q", title="ρ = Γ/√ln L"),
            y=alt.Y("ipr:Q", title="concentration Σ F²", scale=alt.Scale(type="log")),
            tooltip=[alt.Tooltip(f"{c}:Q", format=_VALUE) for c in ("rho", "ipr", "exponent")],
        )
    )
    rows = [row for row in heads.rows() if row["ipr"] is not None and row["rho"] is not None]
    points = (
        alt.Chart(pa.Table.from_pylist(rows))
        .mark_circle(color=style.TUNED, size=30, opacity=0.7)
        .encode(
            x="rho:Q",
            y="ipr:Q",
            tooltip=["name:N", "layer:Q", "head:Q"]
            + [alt.Tooltip(f"{c}:Q", format=_VALUE) for c in ("rho", "ipr")],
        )
    )
    return alt.layer(line, points).properties(height=HEIGHT)
