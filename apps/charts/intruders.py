"""Charts of intruder dimensions: counts against ε and against k."""

from __future__ import annotations

import altair as alt

from analyzer.views.view import View
from apps.charts.data import inline
from apps.charts.lines import Layers, checkpoint_colour, rule


def count_against_epsilon(view: View, epsilon: float) -> Layers:
    """One line a checkpoint, and a rule at the ε of the slider."""
    x = alt.X("epsilon:Q", title="threshold ε", scale=alt.Scale(domain=[0, 1]))
    return _count_lines(view, "epsilon", x, epsilon)


def count_against_k(view: View, k: int) -> Layers:
    """One line a checkpoint, and a rule at the k of the slider."""
    x = alt.X(
        "k:Q", title="leading vectors k",
        axis=alt.Axis(tickMinStep=1, format="d"), scale=alt.Scale(nice=False),
    )  # fmt: skip
    return _count_lines(view, "k", x, k)


def _count_lines(view: View, name: str, x: alt.X, at: float) -> Layers:
    lines = (
        alt.Chart(inline(view.rows()))
        .mark_line(point=True)
        .encode(
            x=x,
            y=alt.Y("n_intruders:Q", title="intruder dimensions", axis=alt.Axis(tickMinStep=1)),
            color=checkpoint_colour(view),
            tooltip=[
                alt.Tooltip("checkpoint:N"), alt.Tooltip(f"{name}:Q"),
                alt.Tooltip("n_intruders:Q", title="intruders"),
                alt.Tooltip("n_judged:Q", title="vectors judged"),
            ],
        )
    )  # fmt: skip
    return alt.layer(lines, rule("x", name, at)).properties(height=360)
