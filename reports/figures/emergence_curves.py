"""Figures of followed runs: curves by role, the noise ceiling, correlations and memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from analyzer.views.emergence_curves import ENERGIES, SIGNAL
from analyzer.views.view import View
from reports import style
from reports.figures.legends import legend_above
from reports.figures.lines import MARKERS, colour, level, quartile_bands

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WEIGHTS, _OPTIMIZER = style.BASE, style.TUNED
NAMES = {
    "stable_rank_end": "stable rank at the end",
    "energy_r_end": "energy at the end",
    "cos_all": "mean cosine of all steps",
    "cos_late": "mean cosine, second half",
    "overlap_late": "mean overlap, second half",
    "signal_fraction": "signal fraction",
    "weight_erank_ratio": "effective rank of W, share",
    "pruned_ratio": "pruned share of W (WeLore)",
}


def rank_curves(view: View) -> Figure:
    """Median by role and step with quartiles; dotted, the first value."""
    figure = style.new_figure(height=2.5)
    axes = figure.subplots()
    quartile_bands(axes, view, "role", "step")
    for i, (_, part) in enumerate(view.groups("role")):
        axes.axhline(part["first"][0], color=colour(i), linewidth=0.5, linestyle=(0, (1, 3)))
    energy = view.name == "gradient_energy_curves"
    r = view.parameters.get("r", "r")
    axes.set(xlabel="step", ylabel=f"energy in {r} directions" if energy else "stable rank")
    if energy:
        axes.set_ylim(top=1.01)
    else:
        axes.set_ylim(bottom=0.0)
    legend_above(figure, axes, columns=3)
    return figure


def signal_fraction(view: View) -> Figure:
    """Signal in the minibatch gradient by role, and the line below which noise dominates."""
    figure = style.new_figure(height=2.5)
    axes = figure.subplots()
    quartile_bands(axes, view, "role", "step")
    level(axes, SIGNAL, "mostly noise")
    axes.set(xlabel="step", ylabel="signal fraction")
    legend_above(figure, axes, columns=3)
    return figure


def noise_ceiling(view: View) -> Figure:
    """Energy of one batch's leading directions in itself, in another batch, in the expectation."""
    figure = style.new_figure()
    axes = figure.subplots()
    quartile_bands(axes, view, "measure", "step", ENERGIES)
    axes.set(xlabel="step", ylabel=f"energy in {view.parameters.get('r', 'r')} directions")
    legend_above(figure, axes, columns=2)
    return figure


def staleness(view: View) -> Figure:
    """Energy still captured some steps after the subspace was computed."""
    figure = style.new_figure(height=2.5)
    axes = figure.subplots()
    quartile_bands(axes, view, "role", "lag")
    axes.set(xlabel="lag (steps)", ylabel="captured energy")
    axes.set_ylim(0.0, 1.05)
    legend_above(figure, axes, columns=3)
    return figure


def correlation_scatter(view: View) -> Figure:
    """A point a matrix, marked by role, with ρ, p and n."""
    figure = style.new_figure(height=2.6)
    axes = figure.subplots()
    for i, (role, part) in enumerate(view.groups("type")):
        axes.plot(
            part["x"], part["y"], linestyle="none", color=colour(i),
            marker=MARKERS[i % len(MARKERS)], label=style.escaped(role),
        )  # fmt: skip
    facts = view.parameters
    axes.set(
        xlabel=f"{facts['source']}: {NAMES.get(facts['x'], facts['x'])}",
        ylabel=NAMES.get(facts["y"], facts["y"]),
    )
    if "rho" in facts:
        told = f"ρ = {facts['rho']:+.2f}, p = {facts['p']:.2g}, n = {facts['n']}"
        axes.set_title(told, fontsize=7, loc="right")
    legend_above(figure, axes, columns=3)
    return figure


def memory(view: View) -> Figure:
    """Stacked bars: weights, and what the optimizer adds."""
    figure = style.new_figure(height=1.9)
    axes = figure.subplots()
    unit, size = memory_unit(view)
    bars: dict[str, dict[str, float]] = {}
    for row in view.rows():
        bars.setdefault(memory_label(row), {})[row["part"]] = row["bytes"] / size
    names = list(bars)
    weights, optimizer = ([bars[n].get(p, 0.0) for n in names] for p in ("weights", "optimizer"))
    axes.barh(names, weights, color=_WEIGHTS, label="weights")
    axes.barh(
        names, optimizer, left=weights, color=_OPTIMIZER, hatch="////", edgecolor="white",
        linewidth=0.0, label="optimizer",
    )  # fmt: skip
    axes.invert_yaxis()
    axes.set(xlabel=f"bfloat16 ({unit})")
    legend_above(figure, axes, columns=2)
    return figure


def memory_label(row: dict[str, str]) -> str:
    """How a bar is called."""
    names = {"full": "full Adam", "lora": "LoRA", "galore": "GaLore", "fira": "Fira"}
    name = names.get(row["method"], row["method"])
    return f"{name}, paper's count" if row["convention"] == "paper" else name


def memory_unit(view: View) -> tuple[str, float]:
    """GB or MB, with its bytes: what makes the largest part readable."""
    large = max(view.column("bytes"), default=0) >= 1e9
    return ("GB", 1e9) if large else ("MB", 1e6)
