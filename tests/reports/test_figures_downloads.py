"""Figures of what two pages draw from a part of a larger view show that part's numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from analyzer.views import manifold as manifold_views
from analyzer.views import theory_intruders
from analyzer.views.view import View
from reports import style
from reports.figures import manifold, theory_laws

HOSTILE = "$x_{<img src=x onerror=alert(1)>"
KINDS = ("mlp", "heads", HOSTILE)
BLOCKS = ("0", "1", "10", "all")


def lines(figure: Any) -> dict[str, tuple[list[float], list[float]]]:
    """x and y of every labelled line; fails where the figure cannot be drawn."""
    style.to_bytes(figure, "svg")
    return {
        str(line.get_label()): (
            np.asarray(line.get_xdata()).tolist(),
            np.asarray(line.get_ydata()).tolist(),
        )
        for line in figure.axes[0].lines
    }


def groups(smoothness: dict[tuple[str, str], float | None]) -> View:
    rows = [
        {"group": f"{kind}.{block}", "kind": kind, "block": block, "n": 8, "d": 3,
         "before": 1.0, "smoothness": value}
        for (kind, block), value in smoothness.items()
    ]  # fmt: skip
    table = pa.Table.from_pylist(rows)
    return View("manifold_groups", "title", table, "method", "source", {"checkpoint": "c"})


def test_every_group_stands_at_its_block_and_smoothness() -> None:
    """Blocks in the view's order, not by their names: 10 comes after 1, `all` last."""
    rng = np.random.default_rng(7)
    value: dict[tuple[str, str], float | None] = {
        (kind, block): float(rng.normal()) for block in BLOCKS for kind in KINDS
    }
    view = manifold_views.smoothness(groups(value))
    with style.paper():
        figure = manifold.smoothness(view)
        found = lines(figure)
    for kind in KINDS:
        expected = [value[kind, block] for block in BLOCKS]
        assert found[style.escaped(kind)] == ([0, 1, 2, 3], expected)
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == list(BLOCKS)
    levels = [ys[0] for xs, ys in map(_ends, figure.axes[0].lines) if xs == [0, 1]]
    assert levels == [0.0, manifold_views.RULE_OF_THUMB]


def _ends(line: Any) -> tuple[list[float], list[float]]:
    return list(line.get_xdata()), list(line.get_ydata())


def test_groups_without_smoothness_leave_no_row_and_no_point() -> None:
    view = manifold_views.smoothness(groups({("mlp", "0"): 0.3, ("mlp", "1"): None}))
    assert view.rows() == [
        {"group": "mlp.0", "kind": "mlp", "block": "0", "n": 8, "smoothness": 0.3}
    ]
    assert dict(view.parameters) == {"checkpoint": "c"} and view.source == "source"
    assert view.csv().decode().splitlines()[1] == '"mlp.0","mlp","0",8,0.3'
    with style.paper():
        assert lines(manifold.smoothness(view))["mlp"] == ([0], [0.3])


def test_a_checkpoint_without_groups_draws_an_empty_plot() -> None:
    empty = groups({("mlp", "0"): None})
    with style.paper():
        figure = manifold.smoothness(manifold_views.smoothness(empty))
        style.to_bytes(figure, "svg")
    assert not figure.legends


@pytest.mark.parametrize("epsilon", [0.3, 0.6])
def test_cosines_of_an_outlier_against_the_closed_form(epsilon: float) -> None:
    """Squared cosine with the update 1 - c(1 + θ²)/(θ²(θ² + c)), of a square random base c = 1.

    Benaych-Georges & Nadakuditi 2012, section 3.1, in the limit of large matrices.
    """
    size = 1024
    values = theory_intruders.spectrum("random", size)
    law = theory_intruders.outliers(values, (size, size), epsilon, "random")
    view = theory_intruders.cosines(law)
    with style.paper():
        found = lines(theory_laws.cosines(view))
    theta, alignment = (np.array(part) for part in found["with the update"])
    strong = theta > 1.5
    assert strong.sum() > 10
    expected = np.sqrt(1.0 - theta[strong] ** -2.0)
    assert alignment[strong] == pytest.approx(expected, abs=0.01)
    same, largest = found["largest with the base (median)"]
    assert same == theta.tolist() and largest == view.column("maxcos")
    assert found["ε"][1] == [epsilon] * 2
    if view.parameters["θ*"] is not None:
        assert found["θ*"][0] == [view.parameters["θ*"]] * 2


def test_a_law_without_a_threshold_draws_none() -> None:
    table = pa.table(
        {"theta": [1.0, 2.0], "alignment": [0.1, 0.9], "maxcos": [0.8, 0.7],
         "p_intruder": [0.0, 0.0], "rho": [1.1, 2.0], "limit": [1.0, 2.0]}
    )  # fmt: skip
    law = View("outliers", "t", table, "m", "s", {"ε": 0.1, "θ*": None, "σ₁(W0)": 1.0})
    view = theory_intruders.cosines(law)
    assert view.table.column_names == ["theta", "alignment", "maxcos", "p_intruder"]
    with style.paper():
        found = lines(theory_laws.cosines(view))
    assert found["with the update"] == ([1.0, 2.0], [0.1, 0.9]) and "θ*" not in found
