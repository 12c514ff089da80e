"""Choosing a number of the matrices: which table and column, and of which spectrum or side."""

from __future__ import annotations

import streamlit as st

from analyzer.views import heat
from analyzer.views.heat import Fixed
from apps import choose
from apps.answers import ask

TABLES = ("intruder", "tail", "spectrum_info", "welore")  # one row a matrix, once these are fixed:
_FIXES = {"intruder": "side", "tail": "kind", "spectrum_info": "kind"}
FIRST = (
    "intruder.delta_fro_ratio", "intruder.n_intruders", "intruder.delta_effective_rank",
    "intruder.delta_stable_rank", "intruder.critical_multiplier", "intruder.theta_star",
    "tail.alpha", "tail.num_spikes", "tail.null_q", "spectrum_info.stable_rank",
    "spectrum_info.effective_rank", "spectrum_info.numerical_rank", "welore.rank_kept",
    "welore.param_ratio", "welore.energy_kept",
)  # fmt: skip
_WEIGHTS_FIRST = ("left", "weight", "delta")


def metric(checkpoint: str) -> tuple[str, Fixed] | None:
    """A number of the checkpoint's matrices (`?metric=`, `?side=`, `?kind=`).

    None where the store holds none.
    """
    known = ask(heat.metrics, checkpoint, TABLES)
    options = [m for m in FIRST if m in known] + [m for m in known if m not in FIRST]
    left, right = st.columns([2, 1])
    with left:
        chosen = choose.one("Number", options, "metric")
    if chosen is None:
        return None
    fixed: Fixed = ()
    table = chosen.partition(".")[0]
    if table in _FIXES:
        column = _FIXES[table]
        found = ask(heat.kinds, checkpoint, table, column)
        found.sort(key=lambda kind: _WEIGHTS_FIRST.index(kind) if kind in _WEIGHTS_FIRST else 9)
        with right:
            value = choose.segment(column.capitalize(), found, column)
        fixed = ((column, value),)
    return chosen, fixed
