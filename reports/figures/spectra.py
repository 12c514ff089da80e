"""Figures of singular values before and after tuning, and of the update."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from analyzer.views import spectra as views
from analyzer.views.cells import role_order
from analyzer.views.view import View
from reports import style
from reports.figures.legends import legend_above

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {views.BASE: style.BASE, views.TUNED: style.TUNED, views.DELTA: style.DELTA}
_WIDTHS = {views.BASE: 2.4, views.TUNED: 1.0, views.DELTA: 1.0}
_DASHES = {views.BASE: "-", views.TUNED: "-", views.DELTA: (0, (5, 1))}
_HELP = {views.FIT: "--", views.EDGE: ":", views.FLOOR: "-."}


def spectra(view: View) -> Figure:
    """σ against rank, both logarithmic: base, tuned, ΔW with error bands, and helping lines."""
    figure = style.new_figure(style.PAGE, 2.8)
    axes = figure.subplots()
    curves = {curve: list(_parts(part)) for curve, part in view.groups("curve")}
    for name, line in curves.get(views.SPECTRUM, []):
        axes.fill_between(
            line["k"], [_or(low, s) for low, s in zip(line["low"], line["sigma"], strict=True)],
            [_or(high, s) for high, s in zip(line["high"], line["sigma"], strict=True)],
            color=COLOURS[name], alpha=0.3, linewidth=0,
        )  # fmt: skip
        _draw(axes, name, line)
    lowest = views.lowest(view) or 0.0
    for curve, dash in _HELP.items():
        seen = [(name, line) for name, line in curves.get(curve, []) if min(line["sigma"]) > lowest]
        for i, (name, line) in enumerate(seen):
            axes.plot(
                line["k"], line["sigma"], color=COLOURS[name], linestyle=dash, linewidth=0.8,
                label=curve if i == 0 else None,
            )  # fmt: skip
    axes.set(xscale="log", yscale="log", xlabel="rank k", ylabel="singular value σ")
    if curves:
        axes.set_ylim(bottom=lowest)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _draw(axes: Axes, name: str, line: dict[str, list[Any]]) -> None:
    axes.plot(
        line["k"], line["sigma"], color=COLOURS[name], linestyle=_DASHES[name],
        linewidth=_WIDTHS[name], label=name,
    )  # fmt: skip


def _parts(columns: dict[str, list[Any]]) -> list[tuple[str, dict[str, list[Any]]]]:
    """The columns part by part, base first."""
    found = []
    for name in COLOURS:
        rows = [i for i, part in enumerate(columns["part"]) if part == name]
        if rows:
            found.append((name, {c: [values[i] for i in rows] for c, values in columns.items()}))
    return found


def _or(value: float | None, other: float) -> float:
    return other if value is None else value


def grid(view: View) -> Figure:
    """Small panels, a row a role and a column a depth, with axes in common."""
    roles = sorted(set(view.column("role")), key=role_order)
    layers = sorted(set(view.column("layer")))
    if not roles:
        return style.new_figure()
    figure = style.new_figure(style.PAGE, 0.5 + 0.85 * len(roles))
    panels = figure.subplots(len(roles), len(layers), sharex=True, sharey=True, squeeze=False)
    found = {place: {} for place in ((r, n) for r in roles for n in layers)}
    for row in view.rows():
        line = found[row["role"], row["layer"]].setdefault(row["part"], {"k": [], "sigma": []})
        line["k"].append(row["k"])
        line["sigma"].append(row["sigma"])
    for (role, layer), parts in found.items():
        axes = panels[roles.index(role), layers.index(layer)]
        for name in (name for name in COLOURS if name in parts):
            _draw(axes, name, parts[name])
        axes.set(xscale="log", yscale="log")
    for axes, layer in zip(panels[0], layers, strict=True):
        axes.set_title(f"layer {layer}")
    for axes, role in zip(panels[:, 0], roles, strict=True):
        axes.set_ylabel(style.escaped(role))
    figure.supxlabel("rank k", fontsize=8)
    figure.supylabel("singular value σ", fontsize=8)
    legend_above(figure, panels[0, 0], columns=3)
    return figure
