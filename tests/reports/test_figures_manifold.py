"""Figures of weight manifolds and geometry show their views' numbers, whatever the names are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from analyzer.views.manifold_fits import METHODS
from analyzer.views.view import View
from reports import style
from reports.figures import geometry, manifold

HOSTILE = "$x_{<img src=x onerror=alert(1)>"


def view(name: str, rows: list[dict[str, Any]], **parameters: Any) -> View:
    return View(name, "title", pa.Table.from_pylist(rows), "method", "source", parameters)


def drawn(figure: Any) -> str:
    """The figure as SVG: fails for a formula that cannot be parsed."""
    return style.to_bytes(figure, "svg").decode()


def test_total_variation_has_a_panel_a_kind() -> None:
    rows = [
        {"group": "g", "kind": kind, "block": block, "before": 1.1, "after": 0.8,
         "null_ratio": 0.9, "bound": 0.7}
        for kind, block in (("mlp", "0"), ("mlp", "1"), (HOSTILE, "all"))
    ]  # fmt: skip
    with style.paper():
        figure = manifold.total_variation(view("manifold_groups", rows))
        drawn(figure)
    mlp, odd = figure.axes
    seen = {str(line.get_label()): np.asarray(line.get_ydata()).tolist() for line in mlp.lines}
    assert seen["as stored"] == [1.1, 1.1] and seen["chance"] == [0.9, 0.9]
    assert seen["best order found"] == [0.8, 0.8] and seen["lower bound"] == [0.7, 0.7]
    assert [t.get_text() for t in odd.get_xticklabels()] == ["all"]


def test_fit_errors_have_a_panel_a_role_and_a_line_a_method() -> None:
    rows = [
        {"role": role, "block": block, "method": method, "rel_fro": i + 0.1 * int(block)}
        for role in ("mlp_up", HOSTILE) for block in ("0", "1") for i, method in enumerate(METHODS)
    ]  # fmt: skip
    with style.paper():
        figure = manifold.fit_errors(view("manifold_fit_errors", rows))
        drawn(figure)
    for axes in figure.axes[:2]:
        seen = {str(line.get_label()): np.asarray(line.get_ydata()).tolist() for line in axes.lines}
        assert seen == {method: [float(i), i + 0.1] for i, method in enumerate(METHODS)}


def test_an_order_is_its_permutation() -> None:
    rows = [{"pos": 0, "idx": 2}, {"pos": 1, "idx": 0}]
    with style.paper():
        figure = manifold.order(view("manifold_order", rows))
    assert np.array_equal(figure.axes[0].lines[0].get_ydata(), [2, 0])


def embedded() -> View:
    rows = [
        {"checkpoint": HOSTILE, "run": HOSTILE, "kind": "base", "step": None, "x": 0.0, "y": 0.0}
    ]
    rows += [
        {"checkpoint": f"c{i}", "run": "a", "kind": "full", "step": i, "x": float(i), "y": i**2 / 2}
        for i in range(3)
    ]
    return view("embedding", rows, **{"component 1": "60.0%", "component 2": "20.0%"})


def test_runs_are_lines_with_an_arrow() -> None:
    with style.paper():
        figure = geometry.embedding(embedded())
        drawn(figure)
    axes = figure.axes[0]
    assert np.asarray(axes.lines[1].get_xdata()).tolist() == [0.0, 1.0, 2.0]
    assert axes.get_xlabel() == "component 1 (60.0%)"
    arrows = [t for t in axes.texts if t.arrow_patch is not None]  # type: ignore[attr-defined]
    assert len(arrows) == 1


def test_distances_are_symmetric_with_an_empty_diagonal() -> None:
    names = ("base", HOSTILE, "c")
    rows = [
        {"a": names[i], "b": names[j], "value": float(i + j), "i": i + 1, "j": j + 1}
        for i in range(3) for j in range(3) if i != j
    ]  # fmt: skip
    for measure in ("distance", "cosine_from_base"):
        with style.paper():
            figure = geometry.distances(view("distances", rows, measure=measure))
            drawn(figure)
        grid = np.ma.filled(
            np.ma.asarray(figure.axes[0].images[0].get_array(), dtype=float), np.nan
        )
        assert np.isnan(np.diag(grid)).all()
        assert grid[0, 1] == grid[1, 0] == 1.0 and grid[1, 2] == 3.0


def test_shares_and_dimensions_are_those_of_the_view() -> None:
    shares = [{"component": c, "explained": 0.6 / c, "random_walk": 0.5 / c} for c in (1, 2)]
    told = [
        {"of": HOSTILE, "method": "two_nn", "d": 2.0, "lo": 1.0, "hi": 3.5, "status": "ok"},
        {"of": "run", "method": "two_nn", "d": None, "lo": None, "hi": None, "status": HOSTILE},
    ]
    with style.paper():
        one, two = geometry.explained(view("e", shares)), geometry.dimensions(view("d", told))
        drawn(one)
        drawn(two)
    assert [p.get_height() for p in one.axes[0].patches] == [0.6, 0.3]  # type: ignore[attr-defined]
    assert np.asarray(two.axes[0].lines[0].get_xdata()).tolist() == [1.0, 3.5]
    assert len(two.axes[0].texts) == 1


def test_empty_views_are_drawn() -> None:
    columns = {
        manifold.total_variation: ("kind", "block"), manifold.order: ("pos", "idx"),
        manifold.fit_errors: ("role",), geometry.embedding: ("run",),
        geometry.explained: ("component", "explained", "random_walk"),
        geometry.distances: ("a", "b", "i", "j", "value"), geometry.dimensions: ("d",),
    }  # fmt: skip
    for figure, names in columns.items():
        table = pa.table({name: pa.array([], pa.float64()) for name in names})
        with style.paper():
            drawn(figure(View("x", "title", table, "method", "", {"measure": "distance"})))
