"""Figures of what a functional Tucker fit predicts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from analyzer.views.view import View
from reports import style
from reports.figures.axes import few_ticks, panels
from reports.figures.legends import legend_above

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Unscanned places on a map and on a line.
MARKS = {"between scans": ".", "extrapolated": "x"}


def _x_label(view: View) -> str:
    return "block" if view.name.endswith("depth") else "training step"


def surface(view: View) -> Figure:
    """A map of the mean; dots stand between scans, crosses beyond them."""
    figure = style.new_figure(height=2.4)
    axes = figure.subplots()
    xs, qs = sorted(set(view.column("x"))), sorted(set(view.column("quantile")))
    grid = np.full((len(qs), len(xs)), np.nan)
    for row in view.rows():
        grid[qs.index(row["quantile"]), xs.index(row["x"])] = row["mean"]
    if grid.size:
        image = axes.imshow(grid, aspect="auto", origin="upper", interpolation="nearest")
        figure.colorbar(image, label="posterior mean of log σ")
    for place, mark in MARKS.items():
        part = [r for r in view.rows() if r["place"] == place]
        axes.plot(
            [xs.index(r["x"]) for r in part],
            [qs.index(r["quantile"]) for r in part],
            linestyle="none", marker=mark, markersize=2, color="white",
        )  # fmt: skip
    few_ticks(axes.xaxis, [f"{x:g}" for x in xs], 10)
    few_ticks(axes.yaxis, [f"{q:.2f}" for q in qs], 6)
    axes.set(xlabel=_x_label(view), ylabel="quantile of singular values")
    return figure


def slices(view: View) -> Figure:
    """One panel a quantile: mean, 95 % interval, and what was scanned."""
    parts = list(view.groups("quantile"))
    figure, grid = panels(len(parts), 3, 0.35, 1.6, sharex=True)
    for axes, (quantile, part) in zip(grid.flat, parts, strict=False):
        _slice(axes, part)
        axes.annotate(f"quantile {quantile:.2f}", (0.03, 0.97), xycoords="axes fraction", va="top")
        axes.margins(y=0.18)
        if not view.name.endswith("depth"):
            axes.set_xscale("symlog", linthresh=1)
            axes.xaxis.set_major_formatter("{x:g}")
    figure.supxlabel(_x_label(view), fontsize=8)
    figure.supylabel("log σ", fontsize=8)
    legend_above(figure, grid.flat[0], columns=4)
    return figure


def _slice(axes: Axes, part: dict[str, list[Any]]) -> None:
    axes.fill_between(
        part["x"], part["lo"], part["hi"], color=style.TUNED, alpha=0.25, linewidth=0,
        label="95 % interval",
    )  # fmt: skip
    axes.plot(part["x"], part["mean"], color=style.TUNED, label="posterior mean")
    seen = [(x, y) for x, y in zip(part["x"], part["observed"], strict=True) if y is not None]
    axes.plot(
        *zip(*seen, strict=True) if seen else ([], []),
        linestyle="none", marker="o", markerfacecolor="white", color="black", label="scanned",
    )  # fmt: skip
    far = [
        (x, y)
        for x, y, place in zip(part["x"], part["mean"], part["place"], strict=True)
        if place == "extrapolated"
    ]
    if far:
        axes.plot(
            *zip(*far, strict=True), linestyle="none", marker="x", color=style.INTRUDER,
            label="extrapolated",
        )  # fmt: skip


def predicted_against_scanned(view: View) -> Figure:
    """Left: mean against scanned value with intervals; right: their distance in sd."""
    figure = style.new_figure(style.PAGE, 2.4)
    left, right = figure.subplots(1, 2)
    observed, mean = np.array(view.column("observed")), np.array(view.column("mean"))
    half = np.array(view.column("hi")) - mean
    look: dict[str, Any] = {"linestyle": "none", "marker": ".", "rasterized": observed.size > 500}
    left.errorbar(
        observed, mean, yerr=half, color=style.TUNED, elinewidth=0.4, markersize=2, **look
    )
    if observed.size:
        ends = [observed.min(), observed.max()]
        left.plot(ends, ends, color=style.BASE, linestyle="--", zorder=3)
    left.set(xlabel="scanned log σ", ylabel="predicted log σ")
    right.plot(observed, view.column("z"), color=style.TUNED, markersize=2, **look)
    for z in (-1.96, 1.96):
        right.axhline(z, color=style.BASE, linestyle="--")
    right.set(xlabel="scanned log σ", ylabel="(scanned - mean)/sd")
    return figure


def noise_by_quantile(view: View) -> Figure:
    """Residual, noise and uncertainty of the function along the quantiles."""
    figure = style.new_figure()
    axes = figure.subplots()
    q = view.column("quantile")
    axes.semilogy(q, view.column("sd"), color=style.TUNED, label="sd of an observation")
    axes.semilogy(
        q, view.column("sd_function"), color=style.BASE, linestyle="--", label="sd of the function"
    )
    axes.semilogy(
        q, view.column("residual"), color=style.DELTA, linestyle=":", marker=".", label="residual"
    )
    axes.set(xlabel="quantile of singular values", ylabel="log σ", xlim=(0, 1))
    axes.legend()
    return figure
