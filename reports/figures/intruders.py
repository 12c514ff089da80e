"""Figures of intruder dimensions: counts against ε and against k."""

from __future__ import annotations

from typing import TYPE_CHECKING

from analyzer.views.view import View
from reports import style
from reports.figures.legends import legend_below
from reports.figures.lines import line_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def count_against_epsilon(view: View) -> Figure:
    """One line a checkpoint: intruders against ε."""
    figure = _count_lines(view, "epsilon")
    figure.axes[0].set(xlabel="threshold ε", xlim=(0, 1))
    return figure


def count_against_k(view: View) -> Figure:
    """One line a checkpoint: intruders among the k leading vectors."""
    from matplotlib.ticker import MaxNLocator

    figure = _count_lines(view, "k")
    figure.axes[0].set(xlabel="leading vectors k")
    figure.axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def _count_lines(view: View, x: str) -> Figure:
    figure = style.new_figure(height=2.5)
    axes = figure.subplots()
    for n, (name, part) in enumerate(view.groups("checkpoint")):
        axes.plot(part[x], part["n_intruders"], **line_style(n, name, len(part[x])))
    axes.set(ylabel="intruder dimensions")
    axes.set_ylim(bottom=0)
    legend_below(figure, axes)
    return figure
