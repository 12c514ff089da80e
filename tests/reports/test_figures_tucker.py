"""Figures of functional Tucker fits show their views' numbers, whatever the names are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from analyzer.views.view import View
from reports import style
from reports.figures import tucker, tucker_posterior

HOSTILE = "$x_{<img src=x onerror=alert(1)>"


def view(name: str, rows: list[dict[str, Any]], **parameters: Any) -> View:
    return View(name, "title", pa.Table.from_pylist(rows), "method", "source", parameters)


def drawn(figure: Any) -> str:
    """The figure as SVG: fails for a formula that cannot be parsed."""
    return style.to_bytes(figure, "svg").decode()


def places() -> list[dict[str, Any]]:
    return [
        {"x": x, "quantile": q, "mean": -x - q, "lo": -x - q - 0.1, "hi": -x - q + 0.2,
         "observed": None if x > 1 else -x, "extrapolated": x > 1,
         "place": "extrapolated" if x > 1 else "scanned"}
        for q in (0.25, 0.75) for x in (0.0, 1.0, 2.0)
    ]  # fmt: skip


def test_errors_are_joined_by_fit() -> None:
    rows = [
        {"fit": HOSTILE, "method": method, "quantiles": q, "rmse": value}
        for q, values in (("below 0.9", (0.2, 0.1)), ("all", (0.4, 0.3)))
        for method, value in zip(tucker.METHODS, values, strict=True)
    ]
    with style.paper():
        figure = tucker.errors(view("tucker_errors", rows))
        drawn(figure)
    found = [np.asarray(line.get_xdata()).tolist() for axes in figure.axes for line in axes.lines]
    assert [0.2, 0.1] in found and [0.4, 0.3] in found and [0.3] in found


def test_bars_are_the_scores_and_the_distance_below_the_best() -> None:
    scores = [{"matrix": HOSTILE, "score": 2.5}, {"matrix": "b", "score": 0.5}]
    bounds = [{"restart": 1, "below_best": 3.0, "chosen": False},
              {"restart": 2, "below_best": 0.0, "chosen": True}]  # fmt: skip
    with style.paper():
        odd, starts = tucker.anomalies(view("a", scores)), tucker.restarts(view("r", bounds))
        drawn(odd)
        drawn(starts)
    assert [p.get_width() for p in odd.axes[0].patches] == [2.5, 0.5]  # type: ignore[attr-defined]
    assert [p.get_height() for p in starts.axes[0].patches] == [3.0, 0.0]  # type: ignore[attr-defined]


def test_a_surface_is_its_grid_with_unscanned_places_marked() -> None:
    with style.paper():
        figure = tucker_posterior.surface(view("tucker_surface_depth", places()))
        drawn(figure)
    axes = figure.axes[0]
    assert np.allclose(
        np.asarray(axes.images[0].get_array()), [[-0.25, -1.25, -2.25], [-0.75, -1.75, -2.75]]
    )
    crosses = [line for line in axes.lines if line.get_marker() == "x"]
    assert np.asarray(crosses[0].get_xdata()).tolist() == [2, 2]
    assert axes.get_xlabel() == "block"


@pytest.mark.parametrize("along", ["depth", "step"])
def test_slices_have_a_panel_a_quantile(along: str) -> None:
    with style.paper():
        figure = tucker_posterior.slices(view(f"tucker_slices_{along}", places()))
        drawn(figure)
    for axes, q in zip(figure.axes, (0.25, 0.75), strict=False):
        lines = {str(line.get_label()): line.get_ydata() for line in axes.lines}
        assert np.allclose(lines["posterior mean"], [-q, -1 - q, -2 - q])
        assert np.allclose(lines["scanned"], [0.0, -1.0])
        assert np.allclose(lines["extrapolated"], [-2 - q])


def test_predictions_and_noise_are_those_of_the_view() -> None:
    rows = [{"observed": o, "mean": o + 0.1, "lo": o - 0.4, "hi": o + 0.6, "z": -0.4}
            for o in (-1.0, 0.0)]  # fmt: skip
    noise = [{"quantile": q, "sd": 0.1, "sd_function": 0.05, "residual": 0.02} for q in (0.2, 0.8)]
    with style.paper():
        figure = tucker_posterior.predicted_against_scanned(view("p", rows))
        other = tucker_posterior.noise_by_quantile(view("n", noise))
        drawn(figure)
        drawn(other)
    assert np.asarray(figure.axes[1].lines[0].get_ydata()).tolist() == [-0.4, -0.4]
    found = [np.asarray(line.get_ydata())[0] for line in other.axes[0].lines]
    assert found == [0.1, 0.05, 0.02]


def test_empty_views_are_drawn() -> None:
    columns = {
        tucker.errors: ("fit", "method", "quantiles", "rmse"),
        tucker.anomalies: ("matrix", "score"), tucker.restarts: ("restart", "below_best", "chosen"),
        tucker_posterior.surface: ("x", "quantile", "mean", "place"),
        tucker_posterior.slices: ("x", "quantile", "mean"),
        tucker_posterior.predicted_against_scanned: ("observed", "mean", "lo", "hi", "z"),
        tucker_posterior.noise_by_quantile: ("quantile", "sd", "sd_function", "residual"),
    }  # fmt: skip
    for figure, names in columns.items():
        table = pa.table({name: pa.array([], pa.float64()) for name in names})
        with style.paper():
            drawn(figure(View("x_depth", "title", table, "method")))
