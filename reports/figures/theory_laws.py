"""Figures of outliers, GaLore's bounds and attention's thresholds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from analyzer.views.view import View
from reports import style
from reports.figures.axes import plain_log_ticks
from reports.figures.legends import legend_above
from reports.figures.lines import colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CURVES: dict[str, dict[str, Any]] = {
    "exact": {"color": style.TUNED, "linestyle": "-"},
    "printed bound": {"color": style.INTRUDER, "linestyle": ":"},
    "gap-aware bound": {"color": style.DELTA, "linestyle": "--"},
}


def outliers(view: View) -> Figure:
    """Left: the singular value; right: what its vector resembles. Against the strength."""
    figure = style.new_figure(style.PAGE, 2.3)
    left, right = figure.subplots(1, 2)
    theta = view.column("theta")
    left.plot(theta, view.column("rho"), color=style.TUNED, label="this spectrum")
    limit = view.column("limit")
    if any(value is not None for value in limit):
        left.plot(theta, limit, ":", color=style.BASE, label="infinite size")
    left.axhline(view.parameters["σ₁(W0)"], color=style.BASE, linestyle="--", label="σ₁ of base")
    left.set(xlabel="strength θ", ylabel="singular value ρ", xscale="log", yscale="log")
    plain_log_ticks(left.xaxis, left.yaxis)
    _threshold(left, view)
    _cosines(right, view)
    for axes in (left, right):
        axes.legend()
    return figure


def cosines(view: View) -> Figure:
    """What the vector of an outlier resembles, against the strength."""
    figure = style.new_figure(height=2.5)
    axes = figure.subplots()
    _cosines(axes, view)
    legend_above(figure, axes, columns=2)
    return figure


def _cosines(axes: Axes, view: View) -> None:
    theta = view.column("theta")
    axes.plot(theta, view.column("alignment"), color=style.DELTA, label="with the update")
    axes.plot(
        theta, view.column("maxcos"), "--", color=style.BASE, label="largest with the base (median)"
    )
    axes.axhline(view.parameters["ε"], color=style.INTRUDER, linestyle=":", label="ε")
    axes.set(xlabel="strength θ", ylabel="|cosine|", xscale="log", ylim=(0, 1.02))
    plain_log_ticks(axes.xaxis)
    _threshold(axes, view)


def _threshold(axes: Axes, view: View) -> None:
    if view.parameters["θ*"] is not None:
        axes.axvline(view.parameters["θ*"], color=style.INTRUDER, linestyle="-.", label="θ*")


def own_thresholds(view: View) -> Figure:
    """Strength against threshold; filled where an intruder was found."""
    figure = style.new_figure(height=2.6)
    axes = figure.subplots()
    looks: tuple[tuple[bool, dict[str, Any]], ...] = (
        (False, {"color": style.BASE, "marker": "o", "markerfacecolor": "white"}),
        (True, {"color": style.INTRUDER, "marker": "s"}),
    )
    for found, look in looks:
        part = [r for r in view.rows() if r["has_intruder"] == found]
        axes.plot(
            [r["theta_star"] for r in part], [r["delta_spectral_norm"] for r in part],
            linestyle="none", label="intruder found" if found else "none found", **look,
        )  # fmt: skip
    if not view.is_empty:
        both = view.column("theta_star") + view.column("delta_spectral_norm")
        axes.plot([min(both), max(both)], [min(both), max(both)], "--", color=style.BASE)
        axes.set(xscale="log", yscale="log")
        plain_log_ticks(axes.xaxis, axes.yaxis)
        axes.legend()
    axes.set(xlabel="predicted threshold θ*", ylabel="σ₁(ΔW)")
    return figure


def stable_rank(view: View) -> Figure:
    """Exact curve and bounds."""
    figure = style.new_figure()
    axes = figure.subplots()
    for name, part in view.groups("curve"):
        axes.plot(part["step"], part["value"], label=name, **CURVES[name])
    axes.set_xscale("symlog", linthresh=1)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set(xlabel="step", ylabel="stable rank")
    axes.set_ylim(bottom=0)
    axes.legend()
    return figure


def own_gradients(view: View) -> Figure:
    """Median and middle 80 % by run."""
    figure = style.new_figure()
    axes = figure.subplots()
    for i, (run, part) in enumerate(view.groups("run")):
        own = colour(i)
        axes.fill_between(part["step"], part["low"], part["high"], color=own, alpha=0.15,
                          linewidth=0)  # fmt: skip
        axes.plot(
            part["step"], part["median"], color=own, linestyle=("-", "--", ":", "-.")[i % 4],
            label=style.escaped(run),
        )  # fmt: skip
    axes.set(xlabel="training step", ylabel="stable rank of the gradient")
    if not view.is_empty:
        axes.set_ylim(bottom=0)
        axes.legend()
    return figure


def attention_phase(view: View, heads: View) -> Figure:
    """The threshold with its band, and heads at their lengths."""
    figure = style.new_figure(height=2.5)
    axes = figure.subplots()
    y = view.column("log10_L")
    axes.fill_betweenx(y, view.column("near_from"), view.column("near_to"), color=style.NOISE,
                       linewidth=0, label="near")  # fmt: skip
    axes.plot(view.column("threshold"), y, color=style.BASE, label="c√ln L")
    looks: tuple[tuple[bool, dict[str, Any]], ...] = (
        (False, {"color": style.TUNED, "marker": "|", "markersize": 7, "label": "heads, tuned"}),
        (True, {"color": "black", "marker": "x", "label": "heads, base"}),
    )
    for base, look in looks:
        part = [r for r in heads.rows() if r["is_base"] == base]
        if part:
            axes.plot([r["norm"] for r in part], [r["log10_L"] for r in part],
                      linestyle="none", **look)  # fmt: skip
    axes.set(xlabel="norm Γ", ylabel="log₁₀ of the length L", xscale="log")
    plain_log_ticks(axes.xaxis)
    axes.legend()
    return figure


def hypercube(view: View, heads: View) -> Figure:
    """Concentration of attention against ρ, and measured heads."""
    figure = style.new_figure()
    axes = figure.subplots()
    axes.semilogy(view.column("rho"), view.column("ipr"), color=style.BASE, label="closed form")
    rows = [r for r in heads.rows() if r["ipr"] is not None and r["rho"] is not None]
    if rows:
        axes.plot([r["rho"] for r in rows], [r["ipr"] for r in rows], linestyle="none",
                  marker=".", color=style.TUNED, label="measured heads")  # fmt: skip
    axes.set(xlabel="ρ = Γ/√ln L", ylabel="concentration Σ F²")
    axes.legend()
    return figure
