"""Spectra before and after, and the lines that explain them, against closed forms."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analyzer.store.connection import writer
from analyzer.store.reading import Store, connect
from analyzer.store.writing import SpectrumValues, insert
from analyzer.views import spectra

NAME = "h.0.attn.q_proj.weight"
ALPHA, XMIN, N_TAIL, EDGE = 3.5, 0.25, 40, 1.44


@pytest.fixture
def values() -> dict[tuple[int, str], np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        key: np.sort(rng.exponential(size=n))[::-1]
        for key, n in {(1, "weight"): 50, (2, "weight"): 50, (2, "delta"): 5}.items()
    }


@pytest.fixture
def store(make_store: Callable[..., Path], values: dict[tuple[int, str], np.ndarray]) -> Store:
    place = {"layer": 0, "role": "attn_q", "rows": 50, "cols": 50, "status": "ok"}
    db = make_store(
        checkpoint=[
            {"checkpoint_id": 1, "name": "base", "kind": "base", "base_checkpoint_id": None},
            {"checkpoint_id": 2, "name": "tuned", "kind": "full", "base_checkpoint_id": 1},
            {"checkpoint_id": 3, "name": "other", "kind": "full", "base_checkpoint_id": None},
        ],
        matrix=[
            {"matrix_id": 1, "checkpoint_id": 1, "name": NAME, **place},
            {"matrix_id": 2, "checkpoint_id": 2, "name": f"model.{NAME}", **place},
            {"matrix_id": 3, "checkpoint_id": 3, "name": NAME, **place},
        ],
        spectrum_info=[
            {"matrix_id": n, "kind": kind, "error_bound": 0.01, "storage_floor": 0.001}
            for n, kind in values
        ],
        tail=[{"matrix_id": 2, "kind": "weight", "alpha": ALPHA, "xmin": XMIN, "n_tail": N_TAIL,
               "edge_tw99": EDGE}],
    )  # fmt: skip
    with writer(db) as connection:
        insert(connection, [SpectrumValues(n, kind, sigma) for (n, kind), sigma in values.items()])
    return connect(db)


def curve(store: Store, part: str, name: str, tuned: str = "tuned") -> list[dict[str, Any]]:
    matrix = f"model.{NAME}" if tuned == "tuned" else NAME
    rows = spectra.spectra(store, "base", tuned, matrix).rows()
    return [row for row in rows if (row["part"], row["curve"]) == (part, name)]


@pytest.mark.parametrize(
    ("part", "key"), [("base", (1, "weight")), ("tuned", (2, "weight")), ("ΔW", (2, "delta"))]
)
def test_all_values_are_drawn_with_their_error(store: Store, values, part, key) -> None:
    rows = curve(store, part, spectra.SPECTRUM)
    sigma = values[key]
    assert [row["k"] for row in rows] == list(range(1, sigma.size + 1))
    np.testing.assert_array_equal([row["sigma"] for row in rows], sigma)
    np.testing.assert_allclose([row["high"] for row in rows], sigma + 0.01)
    lows = [row["low"] for row in rows]
    assert [low is None for low in lows] == (sigma <= 0.01).tolist()


def test_the_fit_is_the_quantile_of_its_distribution(store: Store) -> None:
    """At rank k the share k/n of the tail lies above: P(λ > x) = (x/xmin)^(1−α)."""
    rows = curve(store, "tuned", spectra.FIT)
    assert [row["k"] for row in rows] == [1, N_TAIL]
    for row in rows:
        above = (row["sigma"] ** 2 / XMIN) ** (1 - ALPHA)
        assert above == pytest.approx(row["k"] / N_TAIL)


def test_edge_and_floor_are_level_lines_of_sigma(store: Store) -> None:
    for name, level in ((spectra.EDGE, EDGE**0.5), (spectra.FLOOR, 0.001)):
        rows = curve(store, "tuned", name)
        assert [(row["k"], row["sigma"]) for row in rows] == [(1, level), (50, level)]


def test_there_is_no_update_between_strangers(store: Store) -> None:
    view = spectra.spectra(store, "tuned", "base", NAME)
    assert set(view.column("part")) == {"base", "tuned"}
    assert spectra.parts_of(store, "base", "tuned", "no such matrix") == {}
    assert spectra.spectra(store, "base", "tuned", "no such matrix").is_empty
    assert spectra.spectra(store, "base", "other", NAME).column("part").count("tuned") == 0


def test_a_long_line_is_thinned_but_keeps_its_ends(store: Store) -> None:
    sigma = 1.0 / np.arange(1, 20_001)
    with writer(store.db) as connection:
        connection.execute("DELETE FROM spectrum WHERE matrix_id = 1")
        insert(connection, [SpectrumValues(1, "weight", sigma)])
    ranks = [row["k"] for row in curve(store, "base", spectra.SPECTRUM)]
    assert ranks[:100] == list(range(1, 101))
    assert ranks[-1] == 20_000
    assert len(ranks) < 2_100


def test_the_axis_shows_the_floor_only_where_values_reach_it(store: Store, values) -> None:
    least = min(sigma.min() for sigma in values.values())
    for floor, expected in ((least / 1000, least / 2), (least / 5, least / 10), (2.0, 0.2)):
        with writer(store.db) as connection:
            connection.execute("UPDATE spectrum_info SET storage_floor = ?", [float(floor)])
        view = spectra.spectra(store, "base", "tuned", f"model.{NAME}")
        assert spectra.lowest(view) == pytest.approx(expected)


def test_a_grid_has_a_line_for_each_part(store: Store) -> None:
    view = spectra.grid(store, "tuned", "base")
    places = {(row["role"], row["layer"], row["part"]) for row in view.rows()}
    assert places == {("attn_q", 0, part) for part in ("base", "tuned", "ΔW")}
    assert spectra.grid(store, "nothing", "base").is_empty


def test_an_empty_store_has_no_lines(empty: Store) -> None:
    view = spectra.spectra(empty, "a", "b", "c")
    assert view.is_empty
    assert spectra.lowest(view) is None
    assert spectra.grid(empty, "a", "b").is_empty
