"""Figures of followed runs: what is drawn is what the view holds; names stay text."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

from analyzer.views.view import View
from reports import style
from reports.figures import emergence as maps
from reports.figures import emergence_curves as curves

if TYPE_CHECKING:
    from matplotlib.figure import Figure

pytestmark = pytest.mark.usefixtures("paper")
HOSTILE = r"$x_{ \frac --><img src=x onerror=alert(1)>"
STEPS = (0, 5, 20)


def view(rows: list[dict[str, Any]], name: str = "v", **parameters: Any) -> View:
    return View(name, "title", pa.Table.from_pylist(rows), "method", "", parameters)


def spectra() -> View:
    rng = np.random.default_rng(0)
    return view(
        [{"step": s, "k": k, "sigma": float(rng.uniform(0.1, 9))} for s in STEPS for k in (1, 2, 3)]
    )


def square(value: str, **parameters: Any) -> View:
    rng = np.random.default_rng(1)
    return view(
        [
            {"step_a": a, "step_b": b, value: 1.0 if a == b else float(rng.uniform(-0.5, 1))}
            for a in STEPS
            for b in STEPS
        ],
        **parameters,
    )


def overlaps() -> View:
    return view(
        [
            {"held_to": name, "step": s, "overlap": 0.1 * i + 0.01 * s, "error": None}
            for i, name in enumerate(("the first step", HOSTILE))
            for s in STEPS
        ],
        chance=0.25,
        r=4,
    )


def bands(group: str, names: tuple[str, ...], across: str = "step", name: str = "v") -> View:
    return view(
        [
            {group: one, across: s, "median": i + 0.1 * s, "low": i + 0.05 * s,
             "high": i + 0.2 * s, "first": float(i), "n": 3, "r": 4}
            for i, one in enumerate(names) for s in STEPS
        ],
        name, r=4,
    )  # fmt: skip


def scatter() -> View:
    rows = [
        {"matrix": f"m{i}", "type": ("attn_q", HOSTILE)[i % 2], "layer": i, "x": 1.0 * i, "y": i**2}
        for i in range(5)
    ]
    return view(rows, source="grad/probe", x="cos_all", y="pruned_ratio", rho=0.5, p=0.01, n=5)


def sizes() -> View:
    return view(
        [
            {"method": m, "convention": "exact", "part": p, "bytes": b}
            for m, w, o in (("full", 10, 20), (HOSTILE, 11, 3))
            for p, b in (("weights", w * 10**9), ("optimizer", o * 10**9))
        ],
        rank=4,
    )


ROLES = ("attn_q", HOSTILE)
DRAWN: dict[str, tuple[Callable[[View], Figure], View]] = {
    "spectrum_map": (maps.spectrum_map, spectra()),
    "cosine_map": (maps.cosine_map, square("cosine")),
    "overlap_map": (maps.overlap_map, square("overlap", chance=0.1)),
    "overlap_curves": (maps.overlap_curves, overlaps()),
    "rank_curves": (curves.rank_curves, bands("role", ROLES)),
    "energy": (curves.rank_curves, bands("role", ROLES, name="gradient_energy_curves")),
    "signal_fraction": (curves.signal_fraction, bands("role", ROLES)),
    "noise_ceiling": (curves.noise_ceiling, bands("measure", ("energy_in", "energy_cv"))),
    "staleness": (curves.staleness, bands("role", ROLES, "lag")),
    "correlation_scatter": (curves.correlation_scatter, scatter()),
    "memory": (curves.memory, sizes()),
}


@pytest.mark.parametrize("name", DRAWN)
def test_draws_the_same_every_time_and_empty_axes(
    name: str, check_figure: Callable[..., None]
) -> None:
    check_figure(*DRAWN[name])


@pytest.mark.parametrize(
    ("name", "value", "row", "column"),
    [("spectrum_map", "sigma", "step", "k"), ("cosine_map", "cosine", "step_b", "step_a"),
     ("overlap_map", "overlap", "step_b", "step_a")],
)  # fmt: skip
def test_maps_show_every_value_at_its_place(name: str, value: str, row: str, column: str) -> None:
    draw, given = DRAWN[name]
    (mesh,) = draw(given).axes[0].collections
    grid = np.asarray(mesh.get_array()).reshape(len(STEPS), -1)
    columns = sorted(set(given.column(column)))
    rows = given.rows()
    if name != "spectrum_map":  # both axes are the same: a is down, b is across
        row, column = "step_a", "step_b"
    for one in rows:
        assert grid[STEPS.index(one[row]), columns.index(one[column])] == one[value]


def test_lines_are_the_medians_and_bands_the_quartiles() -> None:
    draw, given = DRAWN["staleness"]
    axes = draw(given).axes[0]
    lines = {line.get_label(): line for line in axes.lines}
    for i, role in enumerate(ROLES):
        line = lines[style.escaped(role)]
        assert list(line.get_xdata()) == list(STEPS)
        assert list(line.get_ydata()) == [i + 0.1 * s for s in STEPS]
        edges = axes.collections[i].get_paths()[0].vertices[:, 1]
        assert edges.max() == pytest.approx(i + 4.0) and edges.min() == pytest.approx(i)
    dashes = {line.get_linestyle() for line in lines.values()}
    assert len(dashes) == len(ROLES)  # told apart without colour


def test_the_chance_line_and_the_noise_line() -> None:
    axes = maps.overlap_curves(overlaps()).axes[0]
    assert [line.get_ydata()[0] for line in axes.lines if line.get_label() == "chance"] == [0.25]
    axes = curves.signal_fraction(DRAWN["signal_fraction"][1]).axes[0]
    assert axes.lines[-1].get_ydata()[0] == 0.1


def test_the_scatter_tells_rho_p_and_n() -> None:
    axes = curves.correlation_scatter(scatter()).axes[0]
    points = sorted(
        (float(x), float(y))
        for line in axes.lines
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)
    )
    assert points == [(float(i), float(i**2)) for i in range(5)]
    assert axes.get_title(loc="right") == "ρ = +0.50, p = 0.01, n = 5"


def test_bars_stack_to_the_whole() -> None:
    axes = curves.memory(sizes()).axes[0]
    ends = sorted(bar.get_x() + bar.get_width() for bar in axes.patches)
    assert ends == [10, 11, 14, 30] and axes.get_xlabel() == "bfloat16 (GB)"
