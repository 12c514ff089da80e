"""Figures of heads against the threshold: the map of their ratios, norms, bounds, condensation."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from analyzer.views.view import View
from reports import style
from reports.figures.axes import few_ticks
from reports.figures.emergence import as_grid
from reports.figures.legends import legend_above
from reports.figures.lines import GREY

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKS = (("below", True, 0.15), ("near", False, 1.0), ("above", True, 1.0))
_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)
PARTS = {"base": style.BASE, "update alone": style.DELTA, "adapted": style.TUNED}
_HATCHES = {"base": "", "update alone": "////", "adapted": "...."}
_PANELS = (("ratio_logit", "band_logit", "logits"), ("ratio_as", "band_as", "entries"))


def head_map(view: View) -> Figure:
    """Layer × head of ratio_logit, and of ratio_as beside it; marks tell the band in grey."""
    places = list(dict.fromkeys(view.column("place")))
    heads = sorted(set(view.column("head")))
    figure = style.new_figure(style.PAGE, min(6.5, max(1.9, 1.0 + 0.17 * len(places))))
    panels = figure.subplots(1, 2, sharey=True)
    ratios = [v for name, _, _ in _PANELS for v in view.column(name) if v]
    reach = max([1.25, *ratios, *(1.0 / r for r in ratios)])
    for axes, (ratio, band, what) in zip(panels, _PANELS, strict=True):
        if places:
            _panel(axes, view, (ratio, band), (places, heads), reach)
        axes.set(xlabel="head", title=f"{what}: {ratio}")
    panels[0].set_ylabel("layer")
    if places:
        panels[0].invert_yaxis()  # the first layer above; the panels share the axis
        shown = [t for t in _TICKS if 1.0 / reach <= t <= reach]
        bar = figure.colorbar(
            panels[1].collections[0], ax=panels, label="over √(ln L)", ticks=shown
        )
        bar.ax.set_yticklabels([f"{t:g}" for t in shown])
        bar.ax.minorticks_off()
    return figure


def norms(view: View) -> Figure:
    """Bars by layer: base, update alone and adapted, of queries and of keys; the threshold."""
    import numpy as np

    figure = style.new_figure(style.PAGE, 2.2)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, side in zip(panels, ("queries", "keys"), strict=True):
        rows = [row for row in view.rows() if row["side"] == side]
        places = list(dict.fromkeys(row["place"] for row in rows))
        at = {place: i for i, place in enumerate(places)}
        for i, (part, color) in enumerate(PARTS.items()):
            own = [row for row in rows if row["part"] == part]
            axes.bar(
                np.array([at[row["place"]] for row in own]) + 0.27 * (i - 1),
                [row["value"] for row in own], 0.25, color=color, hatch=_HATCHES[part],
                edgecolor="white", linewidth=0.0, label=part,
            )  # fmt: skip
        limit = view.parameters.get("threshold")
        if limit is not None:
            axes.axhline(limit, color=GREY, linewidth=0.8, linestyle="--", label="√(ln L)")
        few_ticks(axes.xaxis, places, 16)
        axes.set(xlabel="layer", title=side)
    panels[0].set_ylabel("largest entry")
    legend_above(figure, panels[0], columns=4)
    return figure


def bounds(view: View) -> Figure:
    """Bounds of the weights over measured norms, and the line where a text reaches its bound."""
    figure = style.new_figure(height=2.6)
    axes = figure.subplots()
    for (norm, part), marker, color in zip(view.groups("norm"), "os^", style.SERIES, strict=False):
        axes.plot(
            part["measured"], part["bound"], marker, color=color, label=norm, fillstyle="none"
        )
    largest = max([0.0, *view.column("measured")])
    axes.plot([0.0, largest], [0.0, largest], color=GREY, linewidth=0.8, label="reached")
    axes.set_xlim(left=0.0)
    axes.set_ylim(bottom=0.0)
    axes.set(xlabel="measured on the text", ylabel="bound for every text")
    legend_above(figure, axes, columns=4)
    return figure


def condensation(view: View) -> Figure:
    """ipr of every head over the spread of its logits, the hypercube curve, even attention."""
    figure = style.new_figure()
    axes = figure.subplots()
    for kind, part in view.groups("kind"):
        if kind == "hypercube":
            axes.plot(
                part["rem_ratio"], part["ipr"], color=GREY, label=f"hypercube, L = {part['L'][0]}"
            )
        else:
            axes.plot(part["rem_ratio"], part["ipr"], "o", color=style.TUNED, label="heads")
    if "uniform" in view.parameters:
        axes.axhline(
            view.parameters["uniform"], color=style.NOISE, linestyle="--", label="even attention"
        )
    if not view.is_empty:
        axes.set_yscale("log")
    axes.set(xlabel="rem_ratio: spread of logits over √(2 ln L)", ylabel="ipr")
    legend_above(figure, axes, columns=3)
    return figure


def _panel(
    axes: Axes, view: View, names: tuple[str, str], order: tuple[list[str], list[int]], reach: float
) -> None:
    import numpy as np
    from matplotlib.colors import LogNorm

    ratio, band = names
    places, heads = order
    _, _, grid = as_grid(view, "place", "head", ratio)
    # as_grid sorts its rows by name
    grid = grid[[sorted(places).index(place) for place in places]]
    edges = (np.arange(len(heads) + 1) - 0.5, np.arange(len(places) + 1) - 0.5)
    axes.pcolormesh(
        *edges, grid, norm=LogNorm(1.0 / reach, reach), cmap=style.DIVERGING, rasterized=True
    )
    size = 12.0 if len(heads) <= 16 and len(places) <= 16 else 3.0
    for name, filled, scale in _MARKS:
        rows = [row for row in view.rows() if row[band] == name]
        colors = [_ink(row[ratio], reach) for row in rows]
        axes.scatter(
            [heads.index(row["head"]) for row in rows],
            [places.index(row["place"]) for row in rows],
            s=size * scale, facecolors=colors if filled else "none", edgecolors=colors,
            linewidths=0.6,
        )  # fmt: skip
    few_ticks(axes.yaxis, places, 12)
    few_ticks(axes.xaxis, [str(head) for head in heads], 8)


def _ink(ratio: float, reach: float) -> str:
    """What can be read on the colour of a ratio: both ends of the scale are dark."""
    return "white" if abs(math.log(ratio)) > 0.55 * math.log(reach) else "black"
