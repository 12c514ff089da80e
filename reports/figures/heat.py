"""Figures of numbers by layer and role, and along training."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from analyzer.views import heat as views
from analyzer.views.cells import OUTSIDE
from analyzer.views.view import View
from reports import style
from reports.figures.legends import legend_above
from reports.figures.lines import marker

if TYPE_CHECKING:
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

COLUMN_PLACES = 16  # layers that fit a column of a paper
BANDS = 2  # runs whose quartile bands can still be told apart
_CELL = 0.17  # inches: height of a row
_DASHES = ("-", "--", "-.", ":")


def heat(view: View) -> Figure:
    """Roles against layers, a cell a place; darker is smaller, around white for changes."""
    import numpy as np

    places, roles = views.places(view), views.roles(view)
    grid = np.full((len(roles), len(places)), math.nan)
    for row in view.rows():
        grid[roles.index(row["role"]), places.index(row["place"])] = row["value"]
    is_narrow = len(places) <= COLUMN_PLACES
    figure = style.new_figure(
        style.COLUMN if is_narrow else style.PAGE, max(1.4, 0.6 + _CELL * len(roles))
    )
    axes = figure.subplots()
    kind = views.scale(view)
    axes.set_facecolor("white")
    mesh = axes.pcolormesh(
        np.ma.masked_invalid(grid),
        norm=_norm(view, kind),
        cmap=style.DIVERGING if kind == "diverging" else style.SEQUENTIAL,
        edgecolors="white",
        linewidth=0.4,
    )
    step = max(1, math.ceil(len(places) / (12 if is_narrow else 28)))
    axes.set_xticks([i + 0.5 for i in range(0, len(places), step)], _ticks(places[::step]))
    axes.set_yticks([i + 0.5 for i in range(len(roles))], [style.escaped(r) for r in roles])
    axes.invert_yaxis()
    axes.set_xlabel("layer")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure.colorbar(mesh, ax=axes, label=style.escaped(views.label(view)), pad=0.02)
    return figure


def _ticks(places: list[str]) -> list[str]:
    return [style.escaped("–" if place == OUTSIDE else place) for place in places]


def _norm(view: View, kind: str) -> Normalize | None:
    from matplotlib.colors import LogNorm, Normalize

    found = view.column("value")
    if not found:
        return None
    if kind == "diverging":
        most = max(map(abs, found)) or 1.0
        return Normalize(-most, most)
    return LogNorm(min(found), max(found)) if kind == "log" else None


def history(view: View) -> Figure:
    """One line a run with its quartiles; the base as a grey line across."""
    figure = style.new_figure()
    axes = figure.subplots()
    runs = [(run, part) for run, part in view.groups("run") if run is not None]
    for i, (run, part) in enumerate(runs):
        (line,) = axes.plot(
            part["step"], part["value"], marker=marker(i),
            linestyle=_DASHES[i % len(_DASHES)], label=style.escaped(run),
        )  # fmt: skip
        if len(runs) <= BANDS:
            axes.fill_between(
                part["step"], part["low"], part["high"], color=line.get_color(), alpha=0.15,
                linewidth=0,
            )  # fmt: skip
    for run, part in view.groups("run"):
        if run is None:
            axes.axhline(part["value"][0], color=style.BASE, label="base")
    axes.set(xlabel="step", ylabel=style.escaped(view.title.partition(" along ")[0]))
    legend_above(figure, axes, columns=3)
    return figure
