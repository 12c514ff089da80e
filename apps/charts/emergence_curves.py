"""Charts of followed runs: curves by role, the noise ceiling, correlations and memory."""

from __future__ import annotations

import altair as alt
import pyarrow as pa

from analyzer.views.emergence_curves import ENERGIES, SIGNAL
from analyzer.views.view import View
from apps.charts.emergence import HEIGHT
from apps.charts.lines import levels, series
from reports import style
from reports.figures.emergence_curves import NAMES, memory_label, memory_unit

TALL = HEIGHT + 40  # with a legend below
_BARS = pa.schema([("bar", pa.string()), ("part", pa.string()), ("size", pa.float64())])


def rank_curves(view: View) -> alt.TopLevelMixin:
    """Median by role and step with quartiles; dotted, the first value."""
    energy = view.name == "gradient_energy_curves"
    title = f"energy in {view.parameters.get('r', 'r')} directions" if energy else "stable rank"
    first = (
        alt.Chart(view.table)
        .mark_rule(strokeDash=[1, 4])
        .encode(y="min(first):Q", color=series("role", "role"))
    )
    return alt.layer(_bands(view, "role", "step", title), first).properties(height=TALL)


def signal_fraction(view: View) -> alt.TopLevelMixin:
    """Signal in the minibatch gradient by role, and the line below which noise dominates."""
    bands = _bands(view, "role", "step", "signal fraction")
    return alt.layer(bands, *levels((SIGNAL, "mostly noise below"))).properties(height=TALL)


def noise_ceiling(view: View) -> alt.TopLevelMixin:
    """Energy of one batch's leading directions in itself, in another batch, in the expectation."""
    words = pa.array([ENERGIES[name] for name in view.column("measure")], pa.string())
    named = view.table.set_column(view.table.column_names.index("measure"), "measure", words)
    title = f"energy in {view.parameters.get('r', 'r')} directions"
    return _bands(view, "measure", "step", title, named, "energy").properties(height=TALL)


def staleness(view: View) -> alt.TopLevelMixin:
    """Energy still captured some steps after the subspace was computed."""
    return _bands(view, "role", "lag", "captured energy").properties(height=TALL)


def correlation_scatter(view: View) -> alt.TopLevelMixin:
    """A point a matrix, coloured by role; hover for its name."""
    facts = view.parameters
    axes = {
        name: NAMES.get(facts[name], str(facts[name]))
        for name in ("x", "y")
    }  # fmt: skip
    return (
        alt.Chart(view.table)
        .mark_point(filled=True, size=60, opacity=0.85)
        .encode(
            x=alt.X("x:Q", title=axes["x"], scale=alt.Scale(zero=False)),
            y=alt.Y("y:Q", title=axes["y"], scale=alt.Scale(zero=False)),
            color=series("type", "role"),
            shape=alt.Shape("type:N", title="role"),
            tooltip=[
                alt.Tooltip("matrix:N"),
                alt.Tooltip("x:Q", format=".4g", title=axes["x"]),
                alt.Tooltip("y:Q", format=".4g", title=axes["y"]),
            ],
        )
        .properties(height=TALL)
    )


def memory(view: View) -> alt.TopLevelMixin:
    """Stacked bars: weights, and what the optimizer adds."""
    unit, size = memory_unit(view)
    rows = [
        {"bar": memory_label(row), "part": row["part"], "size": row["bytes"] / size}
        for row in view.rows()
    ]
    return (
        alt.Chart(pa.Table.from_pylist(rows, schema=_BARS))
        .mark_bar()
        .encode(
            x=alt.X("size:Q", title=f"bfloat16 ({unit})"),
            y=alt.Y(
                "bar:N", title=None, sort=None, axis=alt.Axis(labelLimit=200, labelOverlap=False)
            ),
            color=alt.Color(
                "part:N",
                title=None,
                sort=["weights", "optimizer"],
                scale=alt.Scale(domain=["weights", "optimizer"], range=[style.BASE, style.TUNED]),
                legend=alt.Legend(orient="bottom"),
            ),
            order=alt.Order("part:N", sort="descending"),
            tooltip=["bar:N", "part:N", alt.Tooltip("size:Q", format=".4g", title=unit)],
        )
        .properties(height=290)
    )


def _bands(
    view: View,
    group: str,
    across: str,
    title: str,
    table: pa.Table | None = None,
    legend: str = "role",
) -> alt.LayerChart | alt.FacetChart:
    """Medians as lines, quartiles as bands."""
    base = alt.Chart(view.table if table is None else table).encode(
        x=alt.X(f"{across}:Q", title="lag (steps)" if across == "lag" else across),
        color=series(group, legend, columns=4 if group == "role" else 2),
    )
    lines = base.mark_line(point=alt.OverlayMarkDef(size=20)).encode(
        y=alt.Y("median:Q", title=title, scale=alt.Scale(zero=False)),
        tooltip=[
            alt.Tooltip(f"{group}:N"),
            alt.Tooltip(f"{across}:Q"),
            alt.Tooltip("median:Q", format=".4g"),
            alt.Tooltip("low:Q", format=".4g", title="lower quartile"),
            alt.Tooltip("high:Q", format=".4g", title="upper quartile"),
            alt.Tooltip("n:Q", title="matrices"),
        ],
    )
    band = base.mark_area(opacity=0.12).encode(y="low:Q", y2="high:Q")
    return alt.layer(band, lines)
