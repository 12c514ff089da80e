"""Figures of intruder dimensions, vector by vector."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from analyzer.views.intruders_vectors import panel_label
from analyzer.views.view import View
from reports import style
from reports.figures.legends import legend_below
from reports.figures.lines import colour, line_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COSINES = "Blues"  # 0 is white, so that an intruder's column is empty; Vega knows it as well
_ACROSS = 3  # panels in a row of a page


def cosine_maps(view: View) -> Figure:
    """One panel a matrix: base vectors down, tuned vectors across, intruder columns in red."""
    panels: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in view.rows():
        panels.setdefault((row["checkpoint"], row["matrix"]), []).append(row)
    if not panels:
        return style.new_figure()
    across = min(len(panels), _ACROSS)
    down = -(-len(panels) // across)
    width = style.COLUMN if across == 1 else style.PAGE
    figure = style.new_figure(width, down * (width - 0.9) / across + 0.5)
    grid = figure.subplots(down, across, squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    mesh = None
    for axes, (place, rows) in zip(grid.flat, panels.items(), strict=False):
        mesh = _cosine_map(axes, rows)
        if len(panels) > 1:
            axes.set_title(style.escaped(panel_label(list(panels), place)), fontsize=6.5)
    figure.supxlabel("tuned vector, rank j", fontsize=8)
    figure.supylabel("base vector, rank i", fontsize=8)
    if mesh is not None:
        figure.colorbar(mesh, ax=grid, label="|cosine|", shrink=0.8, pad=0.02)
    return figure


def _cosine_map(axes: Axes, rows: list[dict[str, Any]]) -> Any:
    import numpy as np
    from matplotlib.patches import Rectangle

    k = max(row["j"] for row in rows)
    grid = np.zeros((k, k))
    for row in rows:
        grid[row["i"] - 1, row["j"] - 1] = row["cosine"]
    edges = np.arange(k + 1) + 0.5
    mesh = axes.pcolormesh(edges, edges, grid, cmap=COSINES, vmin=0.0, vmax=1.0)
    for j in sorted({row["j"] for row in rows if row["is_intruder"]}):
        outline = Rectangle(
            (j - 0.5, 0.5), 1, k, fill=False, edgecolor=style.INTRUDER, linewidth=1.3, zorder=3,
            clip_on=False,
        )  # fmt: skip
        axes.add_patch(outline)
    axes.set_aspect("equal")
    axes.invert_yaxis()
    ticks = range(1, k + 1, 1 if k <= 10 else -(-k // 10))
    axes.set_xticks(ticks)
    axes.set_yticks(ticks)
    axes.tick_params(length=0, labelsize=6)
    axes.spines[:].set_visible(True)
    axes.spines[:].set_color("#BBBBBB")
    return mesh


def maxcos_against_rank(view: View) -> Figure:
    """One line a checkpoint, with quartiles or error bound as a band."""
    from matplotlib.ticker import MaxNLocator

    figure = style.new_figure(height=2.5)
    axes = figure.subplots()
    for n, (name, part) in enumerate(view.groups("checkpoint")):
        axes.plot(part["j"], part["maxcos"], **line_style(n, name, len(part["j"])))
        axes.fill_between(part["j"], part["lo"], part["hi"], color=colour(n), alpha=0.12, lw=0)
    epsilon = view.parameters.get("epsilon")
    if epsilon is not None and not view.is_empty:
        axes.axhline(epsilon, color=style.INTRUDER, linestyle="--", linewidth=0.8)
        axes.annotate(
            f"ε = {epsilon:g}", (1, epsilon), xycoords=("axes fraction", "data"), ha="right",
            va="bottom", color=style.INTRUDER, fontsize=7,
        )  # fmt: skip
    axes.set(xlabel="rank j of the tuned vector", ylabel="largest |cosine|", ylim=(0, 1.02))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend_below(figure, axes)
    return figure


def dynamics(view: View) -> Figure:
    """σ, rank and largest |cosine| of every track against the step; intruders red."""
    from matplotlib.ticker import MaxNLocator

    figure = style.new_figure(style.COLUMN, 4.2)
    panels = figure.subplots(3, sharex=True)
    for _, part in sorted(view.groups("track"), key=lambda one: one[1]["ever_intruder"][0]):
        _draw_track(panels, part)
    panels[0].set_ylabel("singular value σ")
    panels[1].set_ylabel("rank j")
    panels[1].yaxis.set_major_locator(MaxNLocator(integer=True))
    panels[1].invert_yaxis()
    panels[2].set(ylabel="largest |cosine|", ylim=(0, 1.04), xlabel="training step")
    panels[2].xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    if not view.is_empty:
        panels[2].axhline(view.parameters["epsilon"], color="#444444", linestyle=":", linewidth=0.8)
        panels[0].legend(
            handles=_track_legend(), loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3,
            handlelength=1.6, columnspacing=1.2, borderaxespad=0.2,
        )  # fmt: skip
    return figure


def _track_legend() -> list[Any]:
    from matplotlib.lines import Line2D

    return [
        Line2D([], [], color=style.INTRUDER, marker="o", label="intruder"),
        Line2D([], [], color=style.INTRUDER, linestyle="--", label="before or after"),
        Line2D([], [], color=style.NOISE, label="others"),
    ]


def _draw_track(panels: Any, part: dict[str, list[Any]]) -> None:
    is_red = part["ever_intruder"][0]
    steps = part["step"]
    for axes, name in zip(panels, ("sigma", "j", "maxcos"), strict=True):
        axes.plot(
            steps, part[name], color=style.INTRUDER if is_red else style.NOISE,
            linestyle="--" if is_red else "-", linewidth=1.0 if is_red else 0.8,
            marker=None if len(steps) > 1 else ".", zorder=3 if is_red else 2,
        )  # fmt: skip
        marked = [
            (step, value)
            for step, value, is_one in zip(steps, part[name], part["is_intruder"], strict=True)
            if is_one
        ]
        if marked:
            axes.plot(*zip(*marked, strict=True), "o", color=style.INTRUDER, zorder=4)
