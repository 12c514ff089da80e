"""Figures of how strong updates are against what makes an intruder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from analyzer.views.view import View
from reports import style
from reports.figures.axes import short_log_ticks
from reports.figures.legends import legend_below
from reports.figures.lines import colour, line_style, marker

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def predicted_against_strength(view: View) -> Figure:
    """σ₁(ΔW) against θ*, both logarithmic, with the diagonal; matrices with intruders in red."""
    figure = style.new_figure(height=2.9)
    axes = figure.subplots()
    rows = [row for row in view.rows() if row["theta_star"] > 0 and row["delta_spectral_norm"] > 0]
    for has, own, mark, label in (
        (False, style.TUNED, "o", "no intruder found"),
        (True, style.INTRUDER, "^", "intruders found"),
    ):
        part = [row for row in rows if row["has_intruders"] == has]
        if part:
            axes.plot(
                [row["theta_star"] for row in part], [row["delta_spectral_norm"] for row in part],
                mark, color=own, label=label, markersize=3, markeredgewidth=0.6,
                markerfacecolor=own if has else "none",
            )  # fmt: skip
    axes.set(xlabel="predicted threshold θ*", ylabel="strength of the update σ₁(ΔW)")
    if rows:
        axes.set(xscale="log", yscale="log")
        low, high = axes.get_xlim()
        axes.plot([low, high], [low, high], color=style.BASE, linestyle="--", zorder=1)
        axes.set_xlim(low, high)
        short_log_ticks(axes.xaxis)
    legend_below(figure, axes)
    return figure


def critical_multipliers(view: View) -> Figure:
    """A strip a role: multiplier of every matrix, the actual update at 1; red at or below it."""
    figure = style.new_figure(style.COLUMN, 2.6)
    axes = figure.subplots()
    rows = [row for row in view.rows() if row["critical_multiplier"] is not None]
    roles = list(dict.fromkeys(row["role"] for row in rows))
    names = list(dict.fromkeys(row["checkpoint"] for row in rows))
    for n, name in enumerate(names):
        part = [row for row in rows if row["checkpoint"] == name]
        beside = 0.0 if len(names) == 1 else 0.6 * (n / (len(names) - 1) - 0.5)
        colours = [_reached(row) for row in part]
        axes.scatter(
            [roles.index(row["role"]) + beside for row in part],
            [row["critical_multiplier"] for row in part],
            s=9, marker=marker(n), linewidths=0.6, facecolors="none",
            edgecolors=colours, label=style.escaped(name),
        )  # fmt: skip
    axes.set_ylabel("critical multiplier of ΔW")
    if rows:
        axes.set_yscale("log")
        axes.axhline(1.0, color=style.BASE, linestyle="--", linewidth=0.8, zorder=1)
        labels = [style.escaped(role) for role in roles]
        axes.set_xticks(range(len(roles)), labels, rotation=35, ha="right")
        short_log_ticks(axes.yaxis)
    legend_below(figure, axes)
    for handle in figure.legends[0].legend_handles if figure.legends else ():
        handle.set_edgecolor(style.TUNED)  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]
    return figure


def _reached(row: dict[str, Any]) -> str:
    return style.INTRUDER if row["critical_multiplier"] <= 1 else style.TUNED


def update_ranks(view: View) -> Figure:
    """Effective rank of ΔW by layer, one line a checkpoint, with the range over the layer."""
    from matplotlib.ticker import MaxNLocator

    figure = style.new_figure(height=2.6)
    axes = figure.subplots()
    for n, (name, part) in enumerate(view.groups("checkpoint")):
        look = line_style(n, name, 1)  # a marker at every layer
        axes.plot(part["layer"], part["effective_rank"], **look)
        axes.fill_between(part["layer"], part["lo"], part["hi"], color=colour(n), alpha=0.15, lw=0)
    axes.set(xlabel="layer", ylabel="effective rank of ΔW")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if not view.is_empty:
        axes.set_yscale("log")
        short_log_ticks(axes.yaxis)
    legend_below(figure, axes)
    return figure
