"""Paper figures of maps, histories and spectra: what is drawn is what the view holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from matplotlib.colors import LogNorm

from analyzer.views import spectra as spectra_views
from analyzer.views.view import View
from reports import style
from reports.figures import heat, spectra

HOSTILE = "$x_{ <img src=x onerror=alert(1)> \\frac"


def cells(values: dict[tuple[str, int], float], **parameters: Any) -> View:
    rows = [
        {"place": str(layer), "stack": None, "layer": layer, "role": role, "n": 1, "value": value,
         "low": value, "high": value, "matrices": HOSTILE}
        for (role, layer), value in values.items()
    ]  # fmt: skip
    title = f"alpha by layer and role: {HOSTILE}"
    return View("heat", title, pa.Table.from_pylist(rows), "", parameters=parameters)


def mesh(view: View) -> Any:
    with style.paper():
        figure = heat.heat(view)
    return figure.axes[0].collections[0]


def test_cells_are_where_their_layer_and_role_are() -> None:
    values = {
        (role, n): 10.0 * i + n for i, role in enumerate(("attn_q", "mlp_up")) for n in (0, 1)
    }
    del values["attn_q", 1]
    drawn = np.ma.filled(mesh(cells(values)).get_array().reshape(2, 2).astype(float), np.nan)
    np.testing.assert_array_equal(drawn, [[0.0, np.nan], [10.0, 11.0]])


def test_changes_are_coloured_around_zero_and_wide_ranges_by_magnitude() -> None:
    change = mesh(cells({("attn_q", 0): -0.5, ("attn_q", 1): 0.1}, against="base"))
    assert (change.norm.vmin, change.norm.vmax) == (-0.5, 0.5)
    assert isinstance(mesh(cells({("attn_q", 0): 1e-4, ("attn_q", 1): 1.0})).norm, LogNorm)


def test_many_layers_take_the_width_of_a_page() -> None:
    with style.paper():
        narrow = heat.heat(cells({("attn_q", n): float(n) for n in range(8)}))
        wide = heat.heat(cells({("attn_q", n): float(n) for n in range(80)}))
    assert narrow.get_figwidth() == style.COLUMN
    assert wide.get_figwidth() == style.PAGE
    assert len(wide.axes[0].get_xticks()) < 30


def history_view() -> View:
    rows = [{"run": None, "checkpoint": "base", "step": None, "n": 3, "value": 2.5, "low": 2.0,
             "high": 3.0}]  # fmt: skip
    rows += [
        {"run": HOSTILE, "checkpoint": "c", "step": step, "n": 3, "value": step / 10,
         "low": step / 20, "high": step / 5}
        for step in (10, 20, 40)
    ]  # fmt: skip
    return View("history", "alpha along training", pa.Table.from_pylist(rows), "")


def test_a_history_draws_medians_and_the_base() -> None:
    with style.paper():
        axes = heat.history(history_view()).axes[0]
    run, base = axes.lines
    np.testing.assert_array_equal(run.get_xydata(), [[10, 1], [20, 2], [40, 4]])
    assert list(base.get_ydata()) == [2.5, 2.5]
    assert base.get_color() == style.BASE


def spectra_view() -> View:
    rows = [
        {"part": part, "curve": spectra_views.SPECTRUM, "k": float(k), "sigma": top / k,
         "low": None if k == 3 else top / k - 0.01, "high": top / k + 0.01}
        for part, top in (("base", 4.0), ("tuned", 5.0), ("ΔW", 1.0)) for k in (1, 2, 3)
    ]  # fmt: skip
    rows += [
        {"part": "tuned", "curve": curve, "k": k, "sigma": level, "low": None, "high": None}
        for curve, level in ((spectra_views.EDGE, 3.0), (spectra_views.FLOOR, 1e-9))
        for k in (1.0, 3.0)
    ]
    return View("spectra", HOSTILE, pa.Table.from_pylist(rows), "")


def test_spectra_are_drawn_in_their_colours() -> None:
    with style.paper():
        axes = spectra.spectra(spectra_view()).axes[0]
    lines = {line.get_label(): line for line in axes.lines}
    for part, top, colour in (
        ("base", 4.0, style.BASE), ("tuned", 5.0, style.TUNED), ("ΔW", 1.0, style.DELTA),
    ):  # fmt: skip
        np.testing.assert_allclose(lines[part].get_ydata(), [top, top / 2, top / 3])
        assert lines[part].get_color() == colour
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    # a floor far below every value would flatten them all
    assert spectra_views.FLOOR not in lines
    assert list(lines[spectra_views.EDGE].get_ydata()) == [3.0, 3.0]


def grid_view(role: str = "attn_q") -> View:
    rows = [
        {"role": role, "layer": layer, "part": part, "k": k, "sigma": 1.0 / k}
        for layer in (0, 7) for part in ("base", "tuned") for k in (1, 2)
    ]  # fmt: skip
    return View("grid", "", pa.Table.from_pylist(rows), "")


def test_a_grid_has_a_panel_a_place() -> None:
    with style.paper():
        figure = spectra.grid(grid_view())
    assert [axes.get_title() for axes in figure.axes] == ["layer 0", "layer 7"]
    assert all(len(axes.lines) == 2 for axes in figure.axes)


@pytest.mark.parametrize(
    ("draw", "view"),
    [
        (heat.heat, cells({(HOSTILE, 0): 1.0})),
        (heat.history, history_view()),
        (spectra.spectra, spectra_view()),
        (spectra.grid, grid_view(HOSTILE)),
    ],
)
@pytest.mark.parametrize("kind", ["pdf", "svg"])
def test_hostile_names_are_drawn_as_text(
    draw: Callable[[View], Any], view: View, kind: Any
) -> None:
    with style.paper():
        data = style.to_bytes(draw(view), kind)
    assert data
    assert b"<img" not in data


@pytest.mark.parametrize("draw", [heat.heat, heat.history, spectra.spectra, spectra.grid])
def test_nothing_is_drawn_of_an_empty_view(draw: Callable[[View], Any]) -> None:
    names = (
        "place", "stack", "layer", "role", "value", "run", "step", "part", "curve", "k", "sigma",
        "low", "high",
    )  # fmt: skip
    empty = View("x", "x", pa.table({name: pa.array([], pa.float64()) for name in names}), "")
    with style.paper():
        assert style.to_bytes(draw(empty), "svg")
