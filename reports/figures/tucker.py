"""Figures of functional Tucker fits as a whole: errors, restarts, anomalies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from analyzer.views.view import View
from reports import style
from reports.figures.legends import legend_above

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METHODS = {
    "functional Tucker": {"color": style.TUNED, "marker": "o"},
    "linear interpolation": {"color": style.BASE, "marker": "D"},
}


def errors(view: View) -> Figure:
    """One line a fit: its held-out error joined to that of linear interpolation."""
    names = list(dict.fromkeys(view.column("fit")))
    figure = style.new_figure(style.PAGE, 0.7 + 0.24 * max(2, len(names)))
    panels = figure.subplots(1, 2, sharey=True)
    for axes, quantiles in zip(panels, ("below 0.9", "all"), strict=True):
        rows = [r for r in view.rows() if r["quantiles"] == quantiles]
        for i, name in enumerate(names):
            pair = [r["rmse"] for r in rows if r["fit"] == name]
            axes.plot(pair, [i] * len(pair), color=style.NOISE, zorder=1)
        for method, look in METHODS.items():
            part = [r for r in rows if r["method"] == method]
            places = [names.index(r["fit"]) for r in part]
            axes.plot(
                [r["rmse"] for r in part], places, linestyle="none", label=method, zorder=2, **look
            )
        axes.set(xlabel=f"error of log σ, quantiles {quantiles}")
        axes.set_yticks(range(len(names)), [style.escaped(name) for name in names])
        axes.set_xlim(left=0)
    legend_above(figure, panels[0], columns=2)
    return figure


def restarts(view: View) -> Figure:
    """How far every restart's bound is below the best."""
    figure = style.new_figure()
    axes = figure.subplots()
    axes.bar(
        view.column("restart"),
        view.column("below_best"),
        color=[style.TUNED if chosen else style.BASE for chosen in view.column("chosen")],
        width=0.6,
    )
    axes.set(xlabel="restart", ylabel="below the best bound (nats)")
    axes.set_xticks(view.column("restart"))
    return figure


def anomalies(view: View) -> Figure:
    """Bars, the oddest matrix on top; the line is what noise alone gives."""
    names = view.column("matrix")
    figure = style.new_figure(height=0.7 + 0.15 * max(4, len(names)))
    axes = figure.subplots()
    axes.barh(range(len(names)), view.column("score"), color=style.INTRUDER, height=0.7)
    axes.axvline(1.0, color=style.BASE, linestyle="--")
    axes.set_yticks(range(len(names)), [style.escaped(name) for name in names])
    axes.invert_yaxis()
    axes.set(xlabel="r.m.s. distance from the fit (sd)", ylabel="matrix")
    return figure
