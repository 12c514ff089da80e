"""Figures of heavy tails of whole checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from analyzer.views.view import View
from reports import style

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
    across = min(_ACROSS, len(roles))
    down = -(-len(roles) // across)
    figure = style.new_figure(style.PAGE, 0.6 + 1.25 * down)
    panels = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    for axes in panels.flat[len(roles) :]:
        axes.set_visible(False)
    for axes, (role, part) in zip(panels.flat, view.groups("role"), strict=False):
        for n, series in enumerate(s for s in _LOOKS if s in part["series"]):
            rows = [i for i, name in enumerate(part["series"]) if name == series]
            column = {name: [values[i] for i in rows] for name, values in part.items()}
            _intervals(axes, column, series, 0.12 * n)
        axes.set_title(style.escaped(role), fontsize=7)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    for n, axes in enumerate(panels.flat[: len(roles)]):
        # without a panel below, the ticks of a shared axis would be missing
        axes.tick_params(labelbottom=n + across >= len(roles))
    _robust_limits(view, panels[0, 0])
    figure.supxlabel("layer", fontsize=8)
    figure.supylabel("tail exponent α", fontsize=8)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=2)
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
    if not view.is_empty:
        figure.legend(loc="outside upper right", ncols=3)
    return figure
