"""Figures of intruder dimensions: counts against ε and against k."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from analyzer.views.view import View
from reports import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (8, 2)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

LEGEND_ROW = 0.15  # inches


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


def line_style(n: int, name: str, points: int) -> dict[str, Any]:
    """Keywords of the n-th line, which differs from others by more than its colour."""
    return {
        "label": style.escaped(name),
        "color": style.SERIES[n % len(style.SERIES)],
        "linestyle": DASHES[n % len(DASHES)],
        "marker": MARKERS[n % len(MARKERS)],
        "markevery": max(1, points // 8),
    }


def legend_below(figure: Figure, axes: Axes) -> None:
    """The legend under the axes, where it covers no data; none where nothing was drawn.

    The figure grows by the rows beyond the second, so that the axes keep their height.
    """
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        columns = 1 if max(map(len, labels)) > 24 else 2
        rows = -(-len(labels) // columns)
        figure.set_figheight(figure.get_figheight() + LEGEND_ROW * max(0, rows - 2))
        figure.legend(handles, labels, loc="outside lower left", ncols=columns, handlelength=2.6)
