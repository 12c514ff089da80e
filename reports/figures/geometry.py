"""Figures of where checkpoints lie in weight space."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from analyzer.views.view import View
from reports import style
from reports.figures.lines import colour, marker

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def embedding(view: View) -> Figure:
    """The plane of the first two components; arrows follow the steps of a run."""
    figure = style.new_figure(style.PAGE, 3.2)
    axes = figure.subplots()
    number = 0
    for run, part in view.groups("run"):
        name = style.escaped(run)
        if part["kind"][0] == "base":
            axes.plot(part["x"], part["y"], "*", color=style.BASE, markersize=9, label=name)
            continue
        own = colour(number)
        look: dict[str, Any] = {"color": own, "marker": marker(number)}
        number += 1
        axes.plot(part["x"], part["y"], label=name, linewidth=0.8, **look)
        _arrow(axes, part, own)
    shares = list(view.parameters.values())
    labels = [f"component {i + 1} ({share})" for i, share in enumerate(shares)]
    axes.set(
        xlabel=labels[0] if labels else "component 1",
        ylabel=labels[1] if len(labels) > 1 else "component 2",
    )
    if not view.is_empty:
        figure.legend(loc="outside right upper")
    return figure


def _arrow(axes: Any, part: dict[str, list[Any]], colour: str) -> None:
    """A head on the longest stretch of a run, where it can be seen."""
    points = np.column_stack([part["x"], part["y"]])
    if len(points) < 2:
        return
    at = int(np.argmax(np.linalg.norm(np.diff(points, axis=0), axis=1)))
    axes.annotate(
        "", points[at] + 0.6 * (points[at + 1] - points[at]), points[at],
        arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 0.8},
    )  # fmt: skip


def explained(view: View) -> Figure:
    """Bars of explained variance, and a random walk's."""
    figure = style.new_figure()
    axes = figure.subplots()
    axes.bar(view.column("component"), view.column("explained"), color=style.TUNED, width=0.6,
             label="checkpoints")  # fmt: skip
    axes.plot(view.column("component"), view.column("random_walk"), "_", markersize=12,
              markeredgewidth=1.5, color="black", label="random walk")  # fmt: skip
    axes.set(xlabel="principal component", ylabel="share of variance")
    axes.set_xticks(view.column("component"))
    axes.legend()
    return figure


def distances(view: View) -> Figure:
    """The matrix as a map, checkpoints by run and step."""
    names = {row[i]: row[n] for row in view.rows() for i, n in (("i", "a"), ("j", "b"))}
    order = sorted(names)
    grid = np.full((len(order), len(order)), np.nan)
    for row in view.rows():
        grid[order.index(row["i"]), order.index(row["j"])] = row["value"]
    figure = style.new_figure(style.PAGE, 5.4)
    axes = figure.subplots()
    measure = str(view.parameters["measure"]).replace("_", " ")
    if grid.size:
        signed = "cosine from" in measure
        image = axes.imshow(
            grid, cmap=style.DIVERGING if signed else style.SEQUENTIAL,
            vmin=-1 if signed else None, vmax=1 if signed else None, interpolation="nearest",
        )  # fmt: skip
        figure.colorbar(image, label=measure, shrink=0.8)
    labels = [style.escaped(names[i]) for i in order]
    size = 6 if len(order) <= 30 else 4
    axes.set_xticks(range(len(order)), labels, rotation=90, fontsize=size)
    axes.set_yticks(range(len(order)), labels, fontsize=size)
    return figure


def dimensions(view: View) -> Figure:
    """One line an estimate, with its interval where it has one; refusals in words."""
    rows = view.rows()
    figure = style.new_figure(height=0.8 + 0.22 * max(3, len(rows)))
    axes = figure.subplots()
    for i, row in enumerate(rows):
        if row["d"] is None:
            axes.annotate(style.escaped(row["status"]), (0.02, i), va="center", fontsize=6,
                          xycoords=("axes fraction", "data"))  # fmt: skip
            continue
        if row["lo"] is not None and row["hi"] is not None:
            axes.plot([row["lo"], row["hi"]], [i, i], color=style.TUNED)
        axes.plot(row["d"], i, "o", color=style.TUNED)
    labels = [style.escaped(f"{r['of']}, {r['method']}") for r in rows]
    axes.set_yticks(range(len(rows)), labels, fontsize=6)
    axes.set(xlabel="intrinsic dimension", ylim=(max(len(rows), 1) - 0.5, -0.5))
    axes.set_xlim(left=0)
    return figure
