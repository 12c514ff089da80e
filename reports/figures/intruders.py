"""Figures of intruder dimensions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from analyzer.views.view import View
from reports import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def count_against_epsilon(view: View) -> Figure:
    """One line a checkpoint: intruders against ε."""
    figure = style.new_figure()
    axes = figure.subplots()
    for name, part in view.groups("checkpoint"):
        axes.plot(part["epsilon"], part["n_intruders"], label=style.escaped(name))
    axes.set(xlabel="threshold ε", ylabel="intruder dimensions", xlim=(0, 1))
    axes.set_ylim(bottom=0)
    axes.legend()
    return figure
