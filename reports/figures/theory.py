"""Figures of random matrices, power-law tails and Matérn processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from analyzer.views.view import View
from reports import style
from reports.figures.legends import legend_above

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DASHES = ("-", "--", ":", "-.")


def density(view: View) -> Figure:
    """The Marchenko-Pastur density."""
    figure = style.new_figure()
    axes = figure.subplots()
    axes.fill_between(view.column("x"), view.column("y"), color=style.NOISE, linewidth=0)
    axes.plot(view.column("x"), view.column("y"), color=style.BASE)
    axes.set(xlabel="eigenvalue λ of WWᵀ/n", ylabel="density")
    axes.set_ylim(bottom=0)
    return figure


def edge_law(view: View) -> Figure:
    """Density of the largest eigenvalue, with its median and 99 % quantile."""
    figure = style.new_figure()
    axes = figure.subplots()
    axes.plot(view.column("x"), view.column("density"), color=style.BASE)
    for level, dash in (("50%", ":"), ("99%", "--")):
        at = float(view.parameters[level])
        axes.axvline(at, color=style.INTRUDER, linestyle=dash, label=f"{level} quantile")
    axes.set(xlabel="largest eigenvalue of WWᵀ/n", ylabel="density")
    axes.set_ylim(bottom=0)
    axes.set_xlim(right=float(view.column("x")[-1]) * 1.01)
    legend_above(figure, axes, columns=2)
    return figure


def own_edges(view: View) -> Figure:
    """Largest eigenvalue over the edge against the aspect ratio."""
    figure = style.new_figure()
    axes = figure.subplots()
    looks: tuple[tuple[bool, dict[str, Any]], ...] = (
        (False, {"color": style.TUNED, "marker": ".", "label": "tuned"}),
        (True, {"color": style.BASE, "marker": "s", "markersize": 2.5, "label": "base"}),
    )
    for base, look in looks:
        part = [r for r in view.rows() if (r["kind"] == "base") == base]
        axes.plot([r["aspect"] for r in part], [r["ratio"] for r in part], linestyle="none", **look)
    axes.axhline(1.0, color=style.INTRUDER, linestyle="--")
    axes.set(xlabel="aspect ratio m/n", ylabel="λ₁ / 99 % random edge", xlim=(0, 1.05))
    if not view.is_empty:
        axes.set_yscale("log")
        axes.legend()
    return figure


def drawn_tail(view: View) -> Figure:
    """Share of values of at least x, and the fitted law."""
    figure = style.new_figure()
    axes = figure.subplots()
    x = view.column("x")
    axes.loglog(x, view.column("ccdf"), ".", color=style.TUNED, label="drawn values")
    axes.loglog(x, view.column("law"), "--", color=style.INTRUDER, label="fit")
    axes.set(xlabel="x / xmin", ylabel="share ≥ x")
    axes.legend()
    return figure


def interval_by_size(view: View, own: View) -> Figure:
    """The funnel of the exponent's interval, and the store's tails."""
    figure = style.new_figure(height=2.5)
    axes = figure.subplots()
    axes.fill_between(view.column("n"), view.column("lo"), view.column("hi"), color=style.NOISE,
                      linewidth=0, label="95 % interval")  # fmt: skip
    axes.plot(view.column("n"), view.column("alpha"), "--", color=style.BASE)
    rows = [r for r in own.rows() if r["lo"] is not None and r["hi"] is not None]
    axes.errorbar(
        [r["n"] for r in rows], [r["alpha"] for r in rows],
        yerr=[[max(0.0, r["alpha"] - r["lo"]) for r in rows],
              [max(0.0, r["hi"] - r["alpha"]) for r in rows]],
        linestyle="none", marker=".", color=style.TUNED, elinewidth=0.3, alpha=0.6,
        label="tails of the collection",
    )  # fmt: skip
    axes.set_xscale("log")
    axes.set(xlabel="values in the tail", ylabel="exponent α")
    axes.legend()
    return figure


def samples(view: View) -> Figure:
    """One panel a smoothness, all draws."""
    figure = style.new_figure(style.PAGE, 1.9)
    panels = figure.subplots(1, 3, sharey=True)
    for axes, (nu, part) in zip(panels, view.groups("nu"), strict=True):
        last = max(part["draw"])
        for draw in range(1, last + 1):
            at = [i for i, d in enumerate(part["draw"]) if d == draw]
            axes.plot([part["x"][i] for i in at], [part["f"][i] for i in at], linewidth=0.8,
                      linestyle=DASHES[(draw - 1) % 4])  # fmt: skip
        axes.annotate(f"ν = {nu}", (0.03, 0.03), xycoords="axes fraction")
        axes.set(xlabel="x")
    panels[0].set(ylabel="f(x)")
    return figure


def correlation(view: View) -> Figure:
    """One line a smoothness."""
    figure = style.new_figure()
    axes = figure.subplots()
    for dash, (nu, part) in zip(DASHES, view.groups("nu"), strict=False):
        look: dict[str, Any] = {"linestyle": dash, "label": f"ν = {nu}"}
        axes.plot(part["d"], part["correlation"], **look)
    axes.set(xlabel="distance d", ylabel="correlation of f(0) and f(d)", xlim=(0, 1))
    axes.set_ylim(bottom=0)
    axes.legend()
    return figure
