"""Figures of the theory show their views' numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from analyzer.views import (
    theory_attention,
    theory_bulk,
    theory_galore,
    theory_intruders,
    theory_matern,
    theory_power_law,
)
from analyzer.views.view import View
from reports import style
from reports.figures import theory, theory_laws

HOSTILE = "$x_{<img src=x onerror=alert(1)>"


def view(rows: list[dict[str, Any]], **parameters: Any) -> View:
    return View("v", "title", pa.Table.from_pylist(rows), "method", "source", parameters)


def nothing(*names: str) -> View:
    table = pa.table({name: pa.array([], pa.float64()) for name in names})
    return View("v", "title", table, "method")


def lines(figure: Any, axes: int = 0) -> dict[str, list[float]]:
    """y of every labelled line; fails where the figure cannot be drawn."""
    style.to_bytes(figure, "svg")
    return {
        str(line.get_label()): np.asarray(line.get_ydata()).tolist()
        for line in figure.axes[axes].lines
    }


def test_bulk_and_edge() -> None:
    bulk, edge = theory_bulk.density(0.5, 256), theory_bulk.edge_law(0.5, 256)
    with style.paper():
        drawn, other = theory.density(bulk), theory.edge_law(edge)
        assert bulk.column("y") in lines(drawn).values()
        assert edge.column("density") in lines(other).values()
    rule = next(line for line in other.axes[0].lines if line.get_label() == "99% quantile")
    assert np.asarray(rule.get_xdata()).tolist() == [float(edge.parameters["99%"])] * 2


def test_own_edges_part_base_from_tuned() -> None:
    rows = [{"kind": kind, "aspect": 0.5, "ratio": r} for kind, r in (("base", 2.0), ("full", 9.0))]
    with style.paper():
        found = lines(theory.own_edges(view(rows)))
        lines(theory.own_edges(nothing("kind", "aspect", "ratio")))
    assert found["base"] == [2.0] and found["tuned"] == [9.0]


def test_tail_and_its_interval() -> None:
    tail, funnel = theory_power_law.drawn_tail(3.0, 50, 0), theory_power_law.interval_by_size(3.0)
    own = view([{"n": 20, "alpha": 2.5, "lo": 2.0, "hi": 3.0},
                {"n": 9, "alpha": 4.0, "lo": None, "hi": None}])  # fmt: skip
    with style.paper():
        found = lines(theory.drawn_tail(tail))
        figure = theory.interval_by_size(funnel, own)
        points = lines(figure)
        lines(theory.interval_by_size(funnel, nothing("n", "alpha", "lo", "hi")))
    assert found == {"drawn values": tail.column("ccdf"), "fit": tail.column("law")}
    assert [2.5] in points.values()


def test_matern_has_a_panel_a_smoothness() -> None:
    samples, correlation = theory_matern.samples(0.3, 2, 0), theory_matern.correlation(0.3)
    with style.paper():
        figure, other = theory.samples(samples), theory.correlation(correlation)
        found = lines(other)
        drawn = [np.asarray(line.get_ydata()).tolist() for line in figure.axes[1].lines]
    rough = [r["f"] for r in samples.rows() if r["nu"] == "3/2" and r["draw"] == 2]
    assert len(figure.axes) == 3 and rough in drawn
    assert set(found) == {"ν = 1/2", "ν = 3/2", "ν = 5/2"}


@pytest.mark.parametrize("limit", [True, False])
def test_outliers(limit: bool) -> None:
    values = theory_intruders.spectrum("random", 64)
    law = theory_intruders.outliers(values, (64, 64), 0.5, "random", limit=limit)
    with style.paper():
        figure = theory_laws.outliers(law)
        left, right = lines(figure, 0), lines(figure, 1)
    assert left["this spectrum"] == law.column("rho") and ("infinite size" in left) == limit
    assert right["with the update"] == law.column("alignment")


def test_thresholds_mark_what_was_found() -> None:
    rows = [{"theta_star": 0.5, "delta_spectral_norm": norm, "has_intruder": norm > 1}
            for norm in (0.2, 3.0)]  # fmt: skip
    with style.paper():
        found = lines(theory_laws.own_thresholds(view(rows)))
        lines(theory_laws.own_thresholds(
            nothing("theta_star", "delta_spectral_norm", "has_intruder")))  # fmt: skip
    assert found["none found"] == [0.2] and found["intruder found"] == [3.0]


def test_galore_curves_and_own_gradients() -> None:
    curves = theory_galore.stable_rank("generic", 0.9, 50, 0)
    rows = [{"run": HOSTILE, "step": s, "median": 2.0 + s, "low": 1.0, "high": 4.0} for s in (0, 1)]
    with style.paper():
        found = lines(theory_laws.stable_rank(curves))
        own = lines(theory_laws.own_gradients(view(rows)))
        lines(theory_laws.own_gradients(nothing("run", "step", "median", "low", "high")))
    exact = [r["value"] for r in curves.rows() if r["curve"] == "exact"]
    assert found["exact"] == exact and [2.0, 3.0] in own.values()


def test_attention_with_and_without_heads() -> None:
    boundary, cube = theory_attention.boundary(1.0), theory_attention.hypercube(5)
    heads = view([{"norm": 3.0, "log10_L": 2.0, "is_base": base, "rho": 1.5, "ipr": 0.3}
                  for base in (True, False)])  # fmt: skip
    none = nothing("norm", "log10_L", "is_base", "rho", "ipr")
    with style.paper():
        phase = theory_laws.attention_phase(boundary, heads)
        found, concentrated = lines(phase), lines(theory_laws.hypercube(cube, heads))
        lines(theory_laws.attention_phase(boundary, none))
        lines(theory_laws.hypercube(cube, none))
    assert found["heads, base"] == found["heads, tuned"] == [2.0]
    assert concentrated["closed form"] == cube.column("ipr")
    assert concentrated["measured heads"] == [0.3, 0.3]
