"""Figures of WeLore ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from analyzer.views.heat import places
from analyzer.views.view import View
from reports import style
from reports.figures.axes import few_ticks, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LRC = "#009E73"  # low-rank component
N_LRC = "#CC79A7"
_ACROSS = 4


def rank_bars(view: View) -> Figure:
    """One panel a role: share of the rank kept by layer; hatched where it is no LRC."""
    roles = list(dict.fromkeys(view.column("role")))
    if not roles:
        return style.new_figure()
    figure, grid = panels(len(roles), _ACROSS, 0.7, 1.15, sharex=True, sharey=True)
    every = places(view)
    for axes, (role, part) in zip(grid.flat, view.groups("role"), strict=False):
        for is_lrc in (True, False):
            rows = [i for i, lrc in enumerate(part["is_lrc"]) if lrc == is_lrc]
            axes.bar(
                [every.index(part["place"][i]) for i in rows],
                [part["rank_kept"][i] / part["full_rank"][i] for i in rows],
                width=0.85, color=LRC if is_lrc else N_LRC, edgecolor="white", linewidth=0.3,
                hatch=None if is_lrc else "////",
            )  # fmt: skip
        axes.set_title(style.escaped(role), fontsize=7)
        few_ticks(axes.xaxis, every, 6)
        axes.set_ylim(0, 1)
    figure.supxlabel("layer", fontsize=8)
    figure.supylabel("share of the rank kept", fontsize=8)
    figure.legend(handles=_legend(), loc="outside upper right", ncols=2)
    return figure


def _legend() -> list[Any]:
    from matplotlib.patches import Patch

    return [
        Patch(facecolor=LRC, label="low-rank component (LRC)"),
        Patch(facecolor=N_LRC, hatch="////", edgecolor="white", label="no LRC"),
    ]


def normalised_spectra(view: View) -> Figure:
    """z against k/p, a line a matrix, with the threshold below which all is pruned."""
    figure = style.new_figure(height=2.7)
    axes = figure.subplots()
    for _, part in view.groups("name"):
        is_lrc = part["is_lrc"][0]
        axes.plot(
            part["q"], part["z"], color=LRC if is_lrc else N_LRC, linewidth=0.6, alpha=0.7,
            linestyle="-" if is_lrc else "--",
        )  # fmt: skip
    axes.set(
        xlabel="relative rank k/p", ylabel="normalised singular value", xlim=(0, 1), ylim=(0, 1)
    )
    if not view.is_empty:
        axes.axhline(view.column("threshold")[0], color="#444444", linestyle=":", linewidth=0.9)
        figure.legend(handles=_lines(), loc="outside upper right", ncols=3, handlelength=2.0)
    return figure


def _lines() -> list[Any]:
    from matplotlib.lines import Line2D

    return [
        Line2D([], [], color=LRC, label="LRC"),
        Line2D([], [], color=N_LRC, linestyle="--", label="no LRC"),
        Line2D([], [], color="#444444", linestyle=":", label="threshold"),
    ]
