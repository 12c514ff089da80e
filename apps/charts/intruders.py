"""Charts of intruder dimensions."""

from __future__ import annotations

import altair as alt

from analyzer.views.view import View
from reports import style


def count_against_epsilon(view: View, epsilon: float) -> alt.LayerChart:
    """One line a checkpoint, and a rule at the ε of the slider."""
    lines = (
        alt.Chart(alt.Data(values=view.rows()))
        .mark_line(point=True)
        .encode(
            x=alt.X("epsilon:Q", title="threshold ε", scale=alt.Scale(domain=[0, 1])),
            y=alt.Y("n_intruders:Q", title="intruder dimensions"),
            color=alt.Color("checkpoint:N", scale=alt.Scale(range=list(style.SERIES))),
            tooltip=["checkpoint:N", "epsilon:Q", "n_intruders:Q", "n_judged:Q"],
        )
    )
    rule = (
        alt.Chart(alt.Data(values=[{"epsilon": epsilon}]))
        .mark_rule(strokeDash=[4, 3], color=style.INTRUDER)
        .encode(x="epsilon:Q")
    )
    return alt.layer(lines, rule).properties(height=300)
