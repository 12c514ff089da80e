"""Figures of followed runs: maps of singular values, cosines and overlaps, and overlap curves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from analyzer.views.emergence_maps import FIRST, LAST, PREVIOUS
from analyzer.views.view import View
from reports import style
from reports.figures.axes import few_ticks
from reports.figures.legends import legend_above
from reports.figures.lines import colour, level

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DECADES = 6.0  # of a colour scale: smaller singular values are rounding or zero
_CURVES = {PREVIOUS: ("-", "o"), FIRST: ("--", "s"), LAST: (":", "^")}


def spectrum_map(view: View) -> Figure:
    """Rows are steps, columns singular values, colour their size on a log scale."""
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import MaxNLocator

    figure = style.new_figure()
    axes = figure.subplots()
    steps, ranks, grid = as_grid(view, "step", "k", "sigma")
    positive = [s for s in view.column("sigma") if s > 0.0]
    if positive:
        high = max(positive)
        low = max(min(positive), high / 10.0**DECADES)
        mesh = axes.pcolormesh(
            _edges(len(ranks)), _edges(len(steps)), grid, norm=LogNorm(low, high, clip=True),
            rasterized=True,
        )  # fmt: skip
        figure.colorbar(mesh, ax=axes, label="singular value σ")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    few_ticks(axes.yaxis, steps, 6, first=1)
    axes.set(xlabel="rank k", ylabel="step")
    return figure


def cosine_map(view: View) -> Figure:
    """Steps against steps, colour the cosine."""
    return _square(view, "cosine", "cosine", min([0.0, *_known(view, "cosine")]))


def overlap_map(view: View) -> Figure:
    """Steps against steps, colour the overlap; the colour bar marks chance."""
    figure = _square(view, "overlap", "overlap", 0.0)
    chance = view.parameters.get("chance")
    if chance is not None:
        bar = figure.axes[-1]
        bar.axhline(chance, color=style.INTRUDER, linewidth=1.0)
        bar.annotate(
            "chance", (0.0, chance), xytext=(-2, 0), textcoords="offset points", fontsize=6,
            ha="right", va="center", color=style.INTRUDER,
        )  # fmt: skip
    return figure


def overlap_curves(view: View) -> Figure:
    """Overlap by step with other steps, and the chance line."""
    figure = style.new_figure()
    axes = figure.subplots()
    for i, (name, part) in enumerate(view.groups("held_to")):
        dash, marker = _CURVES.get(name, ("-.", "D"))
        errors = [e or 0.0 for e in part["error"]]
        axes.errorbar(
            part["step"], part["overlap"], yerr=errors if any(errors) else None,
            color=colour(i), linestyle=dash, marker=marker,
            markersize=2.5, elinewidth=0.6, label=f"with {style.escaped(name)}",
        )  # fmt: skip
    chance = view.parameters.get("chance")
    if chance is not None:
        level(axes, chance, "chance")
    r = view.parameters.get("r", "r")
    axes.set(xlabel="step", ylabel=f"overlap, {r} directions", ylim=(0.0, 1.05))
    legend_above(figure, axes, columns=2)
    return figure


def as_grid(view: View, row: str, column: str, value: str) -> tuple[list[Any], list[Any], Any]:
    """Sorted values of `row` and `column`, and (rows, columns) of `value`, NaN where none is."""
    import numpy as np

    rows, columns = sorted(set(view.column(row))), sorted(set(view.column(column)))
    down, across = ({v: i for i, v in enumerate(one)} for one in (rows, columns))
    grid = np.full((len(rows), len(columns)), np.nan)
    for r, c, v in zip(view.column(row), view.column(column), view.column(value), strict=True):
        grid[down[r], across[c]] = np.nan if v is None else v
    return rows, columns, np.ma.masked_invalid(grid)


def _square(view: View, value: str, label: str, low: float) -> Figure:
    figure = style.new_figure(height=2.6)
    axes = figure.subplots()
    steps, _, grid = as_grid(view, "step_a", "step_b", value)
    if steps:
        edges = _edges(len(steps))
        mesh = axes.pcolormesh(edges, edges, grid, vmin=low, vmax=1.0, rasterized=True)
        axes.set_aspect("equal")
        figure.colorbar(mesh, ax=axes, label=label)
    few_ticks(axes.xaxis, steps, 6, first=1)
    few_ticks(axes.yaxis, steps, 6, first=1)
    axes.set(xlabel="step", ylabel="step")
    return figure


def _known(view: View, name: str) -> list[float]:
    return [v for v in view.column(name) if v is not None]


def _edges(n: int) -> list[float]:
    return [0.5 + i for i in range(n + 1)]
