"""Legends outside the axes, where they cover no data."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROW = 0.15  # inches: one more row of a legend
_LONG = 24  # letters from which on a name needs a row of its own


def legend_above(figure: Figure, axes: Axes, columns: int, *, at_right: bool = False) -> None:
    """The legend of `axes` over the figure; none where nothing was drawn."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        place = "outside upper right" if at_right else "outside upper center"
        figure.legend(handles, labels, loc=place, ncols=columns)


def legend_below(figure: Figure, axes: Axes) -> None:
    """The legend of `axes` under the figure; none where nothing was drawn.

    The figure grows by the rows beyond the second, so that the axes keep their height.
    """
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        columns = 1 if max(map(len, labels)) > _LONG else 2
        rows = -(-len(labels) // columns)
        figure.set_figheight(figure.get_figheight() + ROW * max(0, rows - 2))
        figure.legend(handles, labels, loc="outside lower left", ncols=columns, handlelength=2.6)
