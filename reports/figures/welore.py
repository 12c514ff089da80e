"""Figures of WeLore ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from analyzer.views.heat import places
from analyzer.views.view import View
from reports import style

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
    across = min(_ACROSS, len(roles))
    down = -(-len(roles) // across)
    figure = style.new_figure(style.PAGE, 0.7 + 1.15 * down)
    panels = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    every = places(view)
    for axes in panels.flat[len(roles) :]:
        axes.set_visible(False)
    for n, (axes, (role, part)) in enumerate(zip(panels.flat, view.groups("role"), strict=False)):
        for is_lrc in (True, False):
            rows = [i for i, lrc in enumerate(part["is_lrc"]) if lrc == is_lrc]
            axes.bar(
                [every.index(part["place"][i]) for i in rows],
                [part["rank_kept"][i] / part["full_rank"][i] for i in rows],
                width=0.85, color=LRC if is_lrc else N_LRC, edgecolor="white", linewidth=0.3,
                hatch=None if is_lrc else "////",
            )  # fmt: skip
        axes.set_title(style.escaped(role), fontsize=7)
        step = max(1, -(-len(every) // 6))
        axes.set_xticks(range(0, len(every), step), [style.escaped(p) for p in every[::step]])
        axes.tick_params(labelbottom=n + across >= len(roles))
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
