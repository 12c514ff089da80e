"""Figures of heads against the threshold as the text and alpha grow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from analyzer.views.view import View
from reports import style
from reports.figures.legends import legend_above
from reports.figures.lines import DASHES, MARKERS, colour, level

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_NAMED = 8  # lines with a name of their own
RATIOS = {
    "ratio_logit": "√max|S| over √(ln L)",
    "ratio_as": "√(β·d_h)·max entry over √(ln L)",
    "ratio_q": "largest query entry over √(ln L)",
}
STATES = {  # what a head's own alpha amounts to
    "within": style.TUNED, "unbounded": style.TUNED, "over": style.INTRUDER, "base over": style.BASE
}  # fmt: skip


def length_sweep(view: View) -> Figure:
    """Ratio against the length of the text, a line a head or layer, and the line 1."""
    figure = style.new_figure(height=2.5)
    axes = figure.subplots()
    groups = list(view.groups("line"))
    for i, (name, part) in enumerate(groups):
        plain = len(groups) > _MOST_NAMED
        axes.plot(
            part["L"], part["ratio"], linewidth=0.6 if plain else 1.2,
            color=style.TUNED if plain else colour(i),
            linestyle="-" if plain else DASHES[i % len(DASHES)],
            marker=None if plain else MARKERS[i % len(MARKERS)],
            label=None if plain else style.escaped(name),
        )  # fmt: skip
        if not plain and part["low"] != part["high"]:
            axes.fill_between(
                part["L"], part["low"], part["high"], color=colour(i),
                alpha=0.1, lw=0,
            )  # fmt: skip
    level(axes, 1.0, "threshold")
    if not view.is_empty:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
    ratio = view.parameters.get("ratio", "")
    axes.set(xlabel="length of the text L (tokens)", ylabel=RATIOS.get(ratio, ratio))
    legend_above(figure, axes, columns=3)
    return figure


def phase(view: View) -> Figure:
    """The threshold over L, the heads as points, their range over prefixes as a band."""
    figure = style.new_figure()
    axes = figure.subplots()
    for kind, part in view.groups("kind"):
        if kind == "threshold":
            axes.plot(part["L"], part["norm"], color="black", label="√(ln L)")
            axes.fill_between(part["L"], 0.0, part["norm"], color=style.NOISE, alpha=0.25, lw=0)
        elif kind == "heads":
            axes.plot(
                part["L"], part["norm"], "o", color=style.TUNED, fillstyle="none", label="heads"
            )
        else:
            axes.plot(
                part["L"], part["norm"], "--", color=style.DELTA, label="median over prefixes"
            )
            axes.fill_between(part["L"], part["low"], part["high"], color=style.DELTA, alpha=0.2)
    if not view.is_empty:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
    largest = "√(β·d_h)·max entry" if view.parameters["source"] == "spherical" else "√max|S|"
    axes.set(xlabel="length L (tokens)", ylabel=largest)
    axes.set_ylim(bottom=0.0)
    legend_above(figure, axes, columns=3)
    return figure


def alpha_intervals(view: View) -> Figure:
    """A bar a head: the alpha within the threshold, over the adapter's own."""
    rows = view.rows()
    figure = style.new_figure(height=min(7.0, max(1.6, 0.9 + 0.1 * len(rows))))
    axes = figure.subplots()
    for i, row in enumerate(rows):
        if row["high"] is not None:
            axes.barh(i, row["high"] - row["low"], left=row["low"], height=0.7, color=style.NOISE)
            axes.plot([row["high"]] * 2, [i - 0.35, i + 0.35], color="black", linewidth=1.0)
        else:
            mark = "∞" if row["state"] == "unbounded" else "×"
            axes.text(0.02, i, mark, va="center", transform=axes.get_yaxis_transform(), fontsize=6)
    axes.axvline(1.0, color=style.INTRUDER, linestyle="--", linewidth=0.9, label="the adapter's")
    stride = max(1, len(rows) // 24)
    axes.set_yticks(range(0, len(rows), stride), [
        style.escaped(rows[i]["line"]) for i in range(0, len(rows), stride)])  # fmt: skip
    axes.set_ylim(max(len(rows), 1) - 0.5, -0.5)
    axes.set_xlim(0.0, 1.1 * max([1.5, *(row["high"] for row in rows if row["high"] is not None)]))
    axes.set(xlabel="alpha over the adapter's own (× no alpha, ∞ every)", ylabel="layer.head")
    legend_above(figure, axes, columns=1)
    return figure


def alpha_curve(view: View) -> Figure:
    """What is known of the largest query entry against alpha; the exact interval shaded."""
    figure = style.new_figure()
    axes = figure.subplots()
    alpha, lower, upper = (view.column(name) for name in ("alpha", "lower", "upper"))
    axes.fill_between(alpha, lower, upper, color=style.DELTA, alpha=0.5, lw=0)
    axes.plot(alpha, upper, color=style.TUNED, linewidth=0.9, label="at most")
    axes.plot(alpha, lower, color=style.TUNED, linewidth=0.9, linestyle="--", label="at least")
    level(axes, 1.0, "threshold")
    if not view.is_empty:
        first = view.rows()[0]
        axes.axvline(first["lora_alpha"], color=style.INTRUDER, linestyle="-.", label="own alpha")
        if first["high"] is not None and first["high"] > 0.0:
            axes.axvspan(max(first["low"], 0.0), min(first["high"], alpha[-1]), color=style.NOISE,
                         alpha=0.35, lw=0, label="within")  # fmt: skip
        axes.set_xlim(0.0, alpha[-1])
    axes.set(xlabel="alpha", ylabel="largest query entry over √(ln L)")
    axes.set_ylim(bottom=0.0)
    legend_above(figure, axes, columns=3)
    return figure
