"""Looks of lines that differ by more than their colour, and lines with bands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from analyzer.views.view import View
from reports import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GREY = "#555555"  # of levels
DASHES: tuple[Any, ...] = (
    "-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 2)), (0, (6, 3)),
)  # fmt: skip
MARKERS = "os^Dv<>Pp*"
# Of checkpoints: seven and eight have no factor in common, so that 56 lines all differ.
_CHECKPOINT_DASHES: tuple[Any, ...] = (
    "-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (8, 2)),
)  # fmt: skip
_CHECKPOINT_MARKERS = "os^DvPX*"


def colour(n: int) -> str:
    """The colour of the n-th line."""
    return style.SERIES[n % len(style.SERIES)]


def marker(n: int) -> str:
    """The marker of the n-th checkpoint or run."""
    return _CHECKPOINT_MARKERS[n % len(_CHECKPOINT_MARKERS)]


def line_style(n: int, name: str, points: int) -> dict[str, Any]:
    """Keywords of the n-th checkpoint's line of `points` values."""
    return {
        "label": style.escaped(name),
        "color": colour(n),
        "linestyle": _CHECKPOINT_DASHES[n % len(_CHECKPOINT_DASHES)],
        "marker": marker(n),
        "markevery": max(1, points // 8),
    }


def quartile_bands(
    axes: Axes, view: View, group: str, across: str, names: Mapping[str, str] | None = None
) -> None:
    """A line of medians with its quartile band for each value of `group`, called by `names`."""
    for n, (name, part) in enumerate(view.groups(group)):
        axes.plot(
            part[across], part["median"], color=colour(n), linestyle=DASHES[n % len(DASHES)],
            marker=MARKERS[n % len(MARKERS)], markersize=2.5,
            markevery=max(1, len(part[across]) // 8),
            label=style.escaped((names or {}).get(name, name)),
        )  # fmt: skip
        axes.fill_between(
            part[across], part["low"], part["high"], color=colour(n), alpha=0.12, linewidth=0
        )


def level(axes: Axes, at: float, name: str) -> None:
    """A dotted grey line across the plot."""
    axes.axhline(at, color=GREY, linewidth=0.8, linestyle=(0, (1, 1)), label=name)
