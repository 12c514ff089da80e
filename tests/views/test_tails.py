"""Views of heavy tails against numpy, quadrature and the definitions of Clauset et al."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.integrate import quad

from analyzer.analyses.tables import TABLES
from analyzer.analyses.tails import tail_row
from analyzer.store.connection import create, writer
from analyzer.store.reading import Store, connect
from analyzer.store.writing import SpectrumValues, insert
from analyzer.views import tails, tails_fit
from theory.random_matrix import mp_density
from theory.wishart_null import null_statistics

ROWS, COLS, DRAWS = 40, 60, 50


def spectrum(number: int) -> NDArray[np.float64]:
    """Noise for even numbers; for odd ones a spectrum with a heavy tail."""
    rng = np.random.default_rng(number)
    if number % 2 == 0:
        return np.linalg.svd(rng.standard_normal((ROWS, COLS)), compute_uv=False).astype(float)
    return np.sort(rng.pareto(3.0, ROWS) + 0.3)[::-1]


PLACES = ((0, "attn_q", None), (1, "attn_q", None), (0, "expert_up", 0), (0, "expert_up", 1),
          (None, "embed", None))  # fmt: skip


@pytest.fixture(scope="module")
def made(
    put: Callable[..., None], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Store, dict[int, dict[str, Any]]]:
    """A base and a tuned checkpoint whose names have a prefix more; and the tail rows by number."""
    db = tmp_path_factory.mktemp("tails") / "s.duckdb"
    create(db, TABLES)
    put(
        db,
        "checkpoint",
        [
            {"checkpoint_id": 1, "name": "base", "kind": "base", "base_checkpoint_id": None},
            {"checkpoint_id": 2, "name": "full", "kind": "full", "base_checkpoint_id": 1},
        ],
    )
    null = null_statistics(ROWS, COLS, draws=DRAWS, seed=0)
    fitted = {}
    for c in (1, 2):
        for n, (layer, role, expert) in enumerate(PLACES):
            number = 10 * c + n
            put(
                db,
                "matrix",
                [{"matrix_id": number, "checkpoint_id": c, "layer": layer, "role": role,
                  "name": f"{'model.' if c == 2 else ''}h.{layer}.{role}.{expert}.weight",
                  "expert": expert, "rows": ROWS, "cols": COLS, "status": "ok"}],
            )  # fmt: skip
            sigma = spectrum(number)
            row = tail_row(
                sigma, rows=ROWS, cols=COLS, storage_floor=0.0, matrix_id=number, kind="weight",
                full=False, seed=0, null=null,
            )  # fmt: skip
            fitted[number] = {name: getattr(row, name) for name in row.__slots__}
            with writer(db) as connection:
                insert(connection, [row, SpectrumValues(number, "weight", sigma)])
    put(
        db,
        "tail_null",
        [
            {"short_side": ROWS, "long_side": COLS, "seed": 0, "rank": i + 1, "alpha": a,
             "ks_d": 0.1, "pl_alpha_hill": 2.0, "xi": 0.1}
            for i, a in enumerate(null.alpha.tolist())
        ],
    )  # fmt: skip
    return connect(db), fitted


def test_depth_shows_both_checkpoints_with_experts_as_medians(
    made: tuple[Store, dict[int, dict[str, Any]]],
) -> None:
    store, fitted = made
    view = tails.alpha_by_depth(store, "full")
    got = {(r["series"], r["role"], r["layer"]): r for r in view.rows()}
    assert set(got) == {
        (series, role, layer)
        for series in ("base", "tuned")
        for role, layer in (("attn_q", 0), ("attn_q", 1), ("expert_up", 0))
    }
    assert got["base", "attn_q", 1]["alpha"] == fitted[11]["alpha"]
    assert got["tuned", "attn_q", 0]["lo"] == fitted[20]["alpha_lo"]
    for name, column in (("alpha", "alpha"), ("lo", "alpha_lo"), ("hi", "alpha_hi")):
        expected = np.median([fitted[n][column] for n in (22, 23)])
        assert got["tuned", "expert_up", 0][name] == pytest.approx(expected, rel=1e-14)
    assert set(tails.alpha_by_depth(store, "base").column("series")) == {"base"}


def test_histogram_counts_like_numpy_and_random_matrices_add_up(
    made: tuple[Store, dict[int, dict[str, Any]]],
) -> None:
    store, fitted = made
    view = tails.alpha_histogram(store, "full")
    width = view.parameters["bin width"]
    parts = dict(view.groups("series"))
    assert list(parts) == ["base", "tuned", "random"]
    for series, numbers in (("base", range(10, 15)), ("tuned", range(20, 25))):
        part = parts[series]
        assert sum(part["n"]) == 5
        alpha = np.array([fitted[n]["alpha"] for n in numbers])
        top = max(max(p["high"]) for p in parts.values())
        for low, high, n in zip(part["low"], part["high"], part["n"], strict=True):
            inside = (alpha >= low) & ((alpha < high) | (high == top))
            assert n == inside.sum()
            assert high - low == pytest.approx(width)
    null = null_statistics(ROWS, COLS, draws=DRAWS, seed=0).alpha
    part = parts["random"]
    for low, high, n in zip(part["low"], part["high"], part["n"], strict=True):
        inside = (null >= low - 1e-12) & (null < high - 1e-12)
        assert n == pytest.approx(5 * inside.mean(), abs=1e-9)


def test_z_is_the_distance_from_noise_in_standard_deviations(
    made: tuple[Store, dict[int, dict[str, Any]]],
) -> None:
    store, fitted = made
    null = null_statistics(ROWS, COLS, draws=DRAWS, seed=0).alpha
    cells = {(r["role"], r["place"]): r for r in tails.against_noise(store, "full").rows()}
    z = {n: (fitted[n]["alpha"] - null.mean()) / null.std(ddof=1) for n in range(20, 25)}
    assert cells["attn_q", "1"]["value"] == pytest.approx(z[21], rel=1e-10)
    assert cells["expert_up", "0"]["value"] == pytest.approx(np.median([z[22], z[23]]), rel=1e-10)
    assert cells["embed", "none"]["null_q"] == fitted[24]["null_q"]
    assert len(cells) == 4


def curve(view: Any, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    rows = [row for row in view.rows() if row["curve"] == name]
    return np.array([r["x"] for r in rows]), np.array([r["y"] for r in rows])


def test_curves_of_a_tail(made: tuple[Store, dict[int, dict[str, Any]]]) -> None:
    store, fitted = made
    view = tails_fit.eigenvalues(store, "full", "model.h.1.attn_q.None.weight")
    row, eigenvalues = fitted[21], spectrum(21) ** 2
    x, y = curve(view, "tuned")
    np.testing.assert_allclose(x, eigenvalues, rtol=1e-14)
    np.testing.assert_allclose(y, [(eigenvalues >= v).mean() for v in x], rtol=1e-14)
    np.testing.assert_allclose(curve(view, "base")[0], spectrum(11) ** 2, rtol=1e-14)
    # the fit passes through the share at xmin and falls by α - 1 decades a decade
    x, y = curve(view, "fit")
    assert x[0] == pytest.approx(row["xmin"])
    assert x[-1] == pytest.approx(eigenvalues[0])
    assert y[0] == pytest.approx((eigenvalues >= row["xmin"] * (1 - 1e-12)).mean())
    slopes = np.diff(np.log(y)) / np.diff(np.log(x))
    np.testing.assert_allclose(slopes, 1 - row["alpha"], rtol=1e-9)
    low, high = np.quantile(null_statistics(ROWS, COLS, draws=DRAWS, seed=0).alpha, [0.025, 0.975])
    band = [r for r in view.rows() if r["curve"] == "noise"]
    ratio = band[-1]["x"] / band[0]["x"]
    assert band[-1]["y"] == pytest.approx(band[0]["y"] * ratio ** (1 - high))
    assert band[-1]["y_hi"] == pytest.approx(band[0]["y"] * ratio ** (1 - low))
    assert view.parameters["alpha"] == row["alpha"]


@pytest.mark.parametrize("number", [20, 21])
def test_bulk_is_the_integral_of_its_density(
    made: tuple[Store, dict[int, dict[str, Any]]], number: int
) -> None:
    store, fitted = made
    layer, role, expert = PLACES[number - 20]
    view = tails_fit.eigenvalues(store, "full", f"model.h.{layer}.{role}.{expert}.weight")
    row = fitted[number]
    m, n = ROWS - row["num_spikes"], COLS - row["num_spikes"]
    variance = row["sigma_bulk"] ** 2 * n
    x, y = curve(view, "bulk")
    for i in (3, 80, 150, 190):
        above = quad(lambda v: float(mp_density(v, m / n, variance)), x[i], row["bulk_max"])[0]
        expected = (row["num_spikes"] + m * above) / ROWS
        assert y[i] == pytest.approx(expected, abs=1e-6)
    if number == 20:  # pure noise: nearer than 4/m to its law (bulk_fit's own criterion)
        eigenvalues = spectrum(20) ** 2
        drawn = np.array([(eigenvalues >= v).mean() for v in x])
        assert np.abs(drawn - y).max() < 4 / ROWS


def exponent_and_distance(tail: NDArray[np.float64]) -> tuple[float, float]:
    """CSN eqs. 3.1 and 3.9, straight from their definitions."""
    values = np.sort(tail)
    alpha = 1 + values.size / np.log(values / values[0]).sum()
    model = 1 - (values / values[0]) ** (1 - alpha)
    return alpha, np.abs(model - np.arange(values.size) / values.size).max()


def test_scan_over_starts(made: tuple[Store, dict[int, dict[str, Any]]]) -> None:
    store, fitted = made
    view = tails_fit.xmin_scan(store, "full", "model.h.1.attn_q.None.weight")
    eigenvalues = np.sort(spectrum(21) ** 2)
    rows = view.rows()
    assert len(rows) == ROWS - 1  # the largest alone is no tail
    for i in (0, 7, 30):
        alpha, distance = exponent_and_distance(eigenvalues[i:])
        assert rows[i]["xmin"] == pytest.approx(eigenvalues[i])
        assert rows[i]["alpha"] == pytest.approx(alpha)
        assert rows[i]["ks_d"] == pytest.approx(distance)
        assert rows[i]["n_tail"] == ROWS - i
    best = min(rows, key=lambda r: r["ks_d"])
    assert best["xmin"] == pytest.approx(view.parameters["xmin"])
    assert best["alpha"] == pytest.approx(fitted[21]["alpha"])
    assert [best["lo"], best["hi"]] == pytest.approx(
        [fitted[21]["alpha_lo"], fitted[21]["alpha_hi"]]
    )


def test_lists_of_names(made: tuple[Store, dict[int, dict[str, Any]]]) -> None:
    store, _ = made
    assert tails.fitted_names(store) == ["full", "base"]
    assert tails.fitted_matrices(store, "full")[-1] == "model.h.None.embed.None.weight"
    assert len(tails.fitted_matrices(store, "base")) == len(PLACES)
    assert tails_fit.kinds(store, "full", "model.h.1.attn_q.None.weight") == ["weight"]


def test_an_empty_store_gives_empty_tables(empty: Store) -> None:
    for view in (
        tails.alpha_by_depth(empty, "a"), tails.alpha_histogram(empty, "a"),
        tails.against_noise(empty, "a"), tails_fit.eigenvalues(empty, "a", "b"),
        tails_fit.xmin_scan(empty, "a", "b"),
    ):  # fmt: skip
        assert view.is_empty, view.name
    assert tails.fitted_names(empty) == []


def test_a_matrix_without_a_fit_shows_its_eigenvalues_alone(
    make_store: Callable[..., Path],
) -> None:
    db = make_store(
        checkpoint=[{"checkpoint_id": 1, "name": "base", "kind": "base"}],
        matrix=[{"matrix_id": 1, "checkpoint_id": 1, "name": "m", "rows": 4, "cols": 4}],
    )
    sigma = np.array([3.0, 2.0, 1.0, 0.0])
    row = tail_row(
        sigma, rows=4, cols=4, storage_floor=0.0, matrix_id=1, kind="weight", full=False, seed=0
    )
    with writer(db) as connection:
        insert(connection, [row, SpectrumValues(1, "weight", sigma)])
    view = tails_fit.eigenvalues(connect(db), "base", "m")
    assert [(r["curve"], r["x"], r["y"]) for r in view.rows()] == [
        ("base", 9.0, 0.25), ("base", 4.0, 0.5), ("base", 1.0, 0.75)
    ]  # fmt: skip
    assert tails_fit.xmin_scan(connect(db), "base", "m").is_empty
