"""Figures of the tail of one spectrum."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from analyzer.views.tails_fit import most_alpha, shown_range
from analyzer.views.view import View
from reports import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIT = "#009E73"
BULK = "#CC79A7"
COLOURS = {
    "base": style.BASE, "tuned": style.TUNED, "update": style.DELTA, "bulk": BULK, "fit": FIT,
    "noise": style.NOISE,
}  # fmt: skip
LABELS = {
    "base": "base", "tuned": "tuned", "update": "ΔW", "bulk": "Marchenko-Pastur bulk",
    "fit": "power law", "noise": "noise, 95 %",
}  # fmt: skip
_DASHES: dict[str, Any] = {"bulk": "-.", "fit": "--"}


def tail_fit(view: View) -> Figure:
    """Share of eigenvalues at or above x, log-log, with fit, bulk, noise band and edges."""
    figure = style.new_figure(height=2.9)
    axes = figure.subplots()
    curves = dict(view.groups("curve"))
    observed = [name for name in ("base", "tuned", "update") if name in curves]
    for name in observed:
        axes.plot(
            curves[name]["x"], curves[name]["y"], "o" if name != "base" else "s",
            color=COLOURS[name], markersize=2.2, markeredgewidth=0, label=LABELS[name],
        )  # fmt: skip
    if "noise" in curves:
        band = curves["noise"]
        axes.fill_between(
            band["x"], band["y"], band["y_hi"], color=style.NOISE, alpha=0.45, linewidth=0,
            label=LABELS["noise"], zorder=1,
        )  # fmt: skip
    for name in (name for name in _DASHES if name in curves):
        axes.plot(
            curves[name]["x"], curves[name]["y"], color=COLOURS[name], linestyle=_DASHES[name],
            label=LABELS[name],
        )  # fmt: skip
    for name, label, dash in (("xmin", "xmin", ":"), ("edge_tw99", "Tracy-Widom 99 %", "-")):
        if name in view.parameters and observed:
            axes.axvline(
                view.parameters[name], color="#444444", linestyle=dash, linewidth=0.7, label=label
            )
    axes.set(xlabel="eigenvalue λ = σ²", ylabel="share of eigenvalues ≥ λ")
    if observed:
        xlim, ylim = shown_range(view)
        axes.set(xscale="log", yscale="log", xlim=xlim, ylim=ylim)
        figure.legend(loc="outside lower left", ncols=2)
    return figure


def xmin_scan(view: View) -> Figure:
    """α with its interval and D against the start of the tail; the fit's start is marked."""
    figure = style.new_figure(height=3.0)
    upper, lower = figure.subplots(2, sharex=True)
    x = view.column("xmin")
    upper.plot(x, view.column("alpha"), color=style.TUNED)
    upper.fill_between(
        x, view.column("lo"), view.column("hi"), color=style.TUNED, alpha=0.2, linewidth=0
    )
    lower.plot(x, view.column("ks_d"), color=style.TUNED)
    upper.set_ylabel("α")
    lower.set(ylabel="distance D", xlabel="start of the tail xmin (σ²)")
    if x:
        upper.set_xscale("log")
        lower.set_ylim(bottom=0)
        upper.set_ylim(1.0, most_alpha(view))
        for axes, name in ((upper, "alpha"), (lower, "ks_d")):
            axes.axvline(view.parameters["xmin"], color="#444444", linestyle=":", linewidth=0.8)
            axes.plot(view.parameters["xmin"], view.parameters[name], "o", color=style.INTRUDER)
    return figure
