"""Figures of weight manifolds: total variation, smoothness, orders, errors of fits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from analyzer.views.manifold import RULE_OF_THUMB
from analyzer.views.manifold_fits import METHODS
from analyzer.views.view import View
from reports import style
from reports.figures.axes import few_ticks, panels
from reports.figures.legends import legend_above
from reports.figures.lines import MARKERS, colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKS: dict[str, dict[str, Any]] = {
    "before": {"color": style.BASE, "marker": "o", "label": "as stored"},
    "after": {"color": style.TUNED, "marker": "s", "label": "best order found"},
    "null_ratio": {"color": "black", "marker": "_", "markersize": 7, "label": "chance"},
    "bound": {"color": style.DELTA, "marker": "^", "label": "lower bound"},
}
LOOKS: dict[str, dict[str, Any]] = {
    METHODS[0]: {"color": style.TUNED, "marker": "o", "linestyle": "-"},
    METHODS[1]: {"color": style.BASE, "marker": "s", "linestyle": "--"},
    METHODS[2]: {"color": style.DELTA, "marker": "^", "linestyle": ":"},
}


def total_variation(view: View) -> Figure:
    """One panel a kind of group: path lengths over a random order's mean, along the blocks."""
    kinds = list(view.groups("kind"))
    figure = style.new_figure(style.PAGE, 2.6)
    row = figure.subplots(
        1, max(1, len(kinds)), sharey=True, squeeze=False,
        width_ratios=[1 + len(set(part["block"])) for _, part in kinds] or None,
    )  # fmt: skip
    for axes, (kind, part) in zip(row[0], kinds, strict=False):
        at = _blocks(axes, part["block"])
        axes.vlines(at, part["after"], part["before"], color=style.NOISE, zorder=1)
        for column, look in MARKS.items():
            axes.plot(at, part[column], linestyle="none", zorder=2, **look)
        axes.axhline(1.0, color=style.BASE, linestyle=":", linewidth=0.8, zorder=0)
        axes.set_xlabel(f"block ({style.escaped(kind)})")
        axes.margins(x=0.3 if len(set(at)) == 1 else 0.08)
    row[0][0].set_ylabel("total variation / random order's")
    legend_above(figure, row[0][0], columns=4)
    return figure


def smoothness(view: View) -> Figure:
    """How much of every group's order is not chance; rules at chance and at the rule of thumb."""
    figure = style.new_figure(height=2.5)
    axes = figure.subplots()
    at = _blocks(axes, view.column("block"))
    for n, kind in enumerate(dict.fromkeys(view.column("kind"))):
        own = [i for i, row in enumerate(view.rows()) if row["kind"] == kind]
        axes.plot(
            [at[i] for i in own], [view.column("smoothness")[i] for i in own], linestyle="none",
            marker=MARKERS[n % len(MARKERS)], color=colour(n), label=style.escaped(kind),
        )  # fmt: skip
    for y in (0.0, RULE_OF_THUMB):
        axes.axhline(y, color=style.BASE, linestyle="--", linewidth=0.8, zorder=0)
    axes.set(xlabel="block", ylabel="smoothness (0 = chance)")
    legend_above(figure, axes, columns=3)
    return figure


def order(view: View) -> Figure:
    """Place in the file against place in the order."""
    figure = style.new_figure(height=2.8)
    axes = figure.subplots()
    axes.plot(
        view.column("pos"), view.column("idx"), linestyle="none", marker=".", color=style.TUNED
    )
    axes.set(xlabel="place in the order", ylabel="unit as stored")
    return figure


def fit_errors(view: View) -> Figure:
    """One panel a role: the error of each way to keep as many numbers, along the blocks."""
    roles = list(view.groups("role"))
    figure, grid = panels(len(roles), 4, 0.5, 1.45, sharey=True)
    for axes, (role, part) in zip(grid.flat, roles, strict=False):
        at = _blocks(axes, part["block"])
        for method, look in LOOKS.items():
            chosen = [i for i, name in enumerate(part["method"]) if name == method]
            axes.plot(
                [at[i] for i in chosen], [part["rel_fro"][i] for i in chosen], label=method, **look
            )
        axes.annotate(style.escaped(role), (0.04, 0.05), xycoords="axes fraction")
        axes.margins(y=0.25)
    figure.supxlabel("block", fontsize=8)
    figure.supylabel("relative error of the weights", fontsize=8)
    legend_above(figure, grid.flat[0], columns=3)
    return figure


def _blocks(axes: Axes, names: list[str]) -> list[int]:
    """Places of blocks in their order, with at most eight of them named."""
    distinct = list(dict.fromkeys(names))
    few_ticks(axes.xaxis, distinct, 8)
    return [distinct.index(name) for name in names]
