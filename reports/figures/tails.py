"""Figures of heavy tails of whole checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from analyzer.views.view import View
from reports import style
from reports.figures.axes import panels
from reports.figures.legends import legend_above

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ACROSS = 4
_LOOKS: dict[str, dict[str, Any]] = {
    "base": {"color": style.BASE, "marker": "s", "linestyle": "--"},
    "tuned": {"color": style.TUNED, "marker": "o", "linestyle": "-"},
}


def alpha_by_depth(view: View) -> Figure:
    """One panel a role: α with its interval against the layer, base grey and tuned blue."""
    from matplotlib.ticker import MaxNLocator

    roles = list(dict.fromkeys(view.column("role")))
    if not roles:
        return style.new_figure()
    figure, grid = panels(len(roles), _ACROSS, 0.6, 1.25, sharex=True, sharey=True)
    for axes, (role, part) in zip(grid.flat, view.groups("role"), strict=False):
        for n, series in enumerate(s for s in _LOOKS if s in part["series"]):
            rows = [i for i, name in enumerate(part["series"]) if name == series]
            column = {name: [values[i] for i in rows] for name, values in part.items()}
            _intervals(axes, column, series, 0.12 * n)
        axes.set_title(style.escaped(role), fontsize=7)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    _robust_limits(view, grid[0, 0])
    figure.supxlabel("layer", fontsize=8)
    figure.supylabel("tail exponent α", fontsize=8)
    legend_above(figure, grid[0, 0], columns=2, at_right=True)
    return figure


def _intervals(axes: Any, column: dict[str, list[Any]], series: str, beside: float) -> None:
    alpha = column["alpha"]
    below = [_gap(a, low) for a, low in zip(alpha, column["lo"], strict=True)]
    above = [_gap(high, a) for a, high in zip(alpha, column["hi"], strict=True)]
    axes.errorbar(
        [layer + beside for layer in column["layer"]], alpha, yerr=[below, above], label=series,
        elinewidth=0.6, linewidth=0.9, markersize=2.5, **_LOOKS[series],
    )  # fmt: skip


def _gap(upper: float | None, lower: float | None) -> float:
    return 0.0 if upper is None or lower is None else max(upper - lower, 0.0)


def _robust_limits(view: View, axes: Any) -> None:
    """One interval of a few values would squeeze all others: none goes far beyond the values."""
    alpha = view.column("alpha")
    ends = [end for end in view.column("hi") if end is not None]
    if ends and max(ends) > 3 * max(alpha):
        axes.set_ylim(1.0, 1.5 * max(alpha))


def alpha_histogram(view: View) -> Figure:
    """Matrices by α: base and tuned as steps, random matrices of the same shapes as a line."""
    figure = style.new_figure(height=2.4)
    axes = figure.subplots()
    looks: dict[str, dict[str, Any]] = {
        "random": {"color": "#444444", "linestyle": ":", "label": "random matrices"},
        "base": {"color": style.BASE, "linestyle": "--", "label": "base"},
        "tuned": {"color": style.TUNED, "linestyle": "-", "label": "tuned"},
    }
    for series, part in view.groups("series"):
        width = view.parameters["bin width"]
        first, last = round(part["low"][0] / width), round(part["low"][-1] / width)
        counts = [0.0] * (last - first + 1)
        for low, n in zip(part["low"], part["n"], strict=True):
            counts[round(low / width) - first] = n
        edges = [(first + i) * width for i in range(len(counts) + 1)]
        axes.stairs(counts, edges, linewidth=1.2, **looks[series])
        if series == "tuned":
            axes.stairs(counts, edges, fill=True, color=style.TUNED, alpha=0.2)
    axes.set(xlabel="tail exponent α", ylabel="matrices")
    axes.set_ylim(bottom=0)
    legend_above(figure, axes, columns=3, at_right=True)
    return figure
