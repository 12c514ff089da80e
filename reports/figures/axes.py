"""Grids of panels, and ticks that can be read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from reports import style

if TYPE_CHECKING:
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure


def panels(
    count: int,
    across: int,
    heading: float,
    row: float,
    *,
    sharex: bool = False,
    sharey: bool = False,
) -> tuple[Figure, Any]:
    """A page's figure and its grid of axes, at most `across` in a row, those beyond `count` hidden.

    `heading` (legend, labels) and `row` are heights in inches.
    """
    columns = min(across, max(1, count))
    rows = max(1, -(-count // columns))
    figure = style.new_figure(style.PAGE, heading + row * rows)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=sharex, sharey=sharey)
    for n, axes in enumerate(grid.flat):
        axes.set_visible(n < count)
        if sharex:
            # without a panel below, the ticks of a shared axis would be missing
            axes.tick_params(labelbottom=n + columns >= count)
    return figure, grid


def few_ticks(axis: Axis, names: Sequence[object], most: int, first: float = 0) -> None:
    """About `most` of the `names`, which stand at `first`, `first` + 1, …"""
    at = range(0, len(names), max(1, -(-len(names) // most)))
    axis.set_ticks([first + i for i in at], labels=[style.escaped(names[i]) for i in at])


def plain_log_ticks(*found: Axis) -> None:
    """1, 2 and 5 of every decade as plain numbers, for ranges of a decade or two."""
    from matplotlib.ticker import LogLocator, NullFormatter

    for axis in found:
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())


def short_log_ticks(axis: Axis) -> None:
    """Fewer than two decades have no power of ten of their own: plain ticks there."""
    low, high = axis.get_view_interval()
    if high < 100 * low:
        plain_log_ticks(axis)
