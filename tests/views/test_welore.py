"""WeLore ranks from SQL against theory.welore on the same spectra."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pytest
from numpy.typing import NDArray

from analyzer.analyses.tables import TABLES
from analyzer.scanning.welore import write_welore
from analyzer.store.connection import create, writer
from analyzer.store.reading import Store, connect
from analyzer.store.writing import SpectrumValues, insert
from analyzer.views import welore
from theory import welore as theory

# (role, layer, expert): of the base; the adapter has the first two
PLACES = (
    ("attn_q", 0, None), ("mlp_up", 0, None), ("mlp_down", 1, None), ("expert_up", 1, 0),
    ("expert_up", 1, 1), ("embed", None, None),
)  # fmt: skip
SHAPES = ((12, 12), (20, 12), (12, 20), (8, 30), (8, 30), (50, 12))


def spectrum(number: int) -> NDArray[np.float64]:
    p = min(SHAPES[number % 10])
    if number % 10 == 3:
        return np.ones(p)  # nothing to prune
    rng = np.random.default_rng(number)
    return np.sort(np.round(rng.pareto(1.5, p), 1) + 0.1)[::-1]  # with ties


@pytest.fixture(scope="module")
def store(put: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Store:
    db = tmp_path_factory.mktemp("welore") / "s.duckdb"
    create(db, TABLES)
    put(
        db,
        "checkpoint",
        [
            {"checkpoint_id": 1, "name": "base", "kind": "base", "base_checkpoint_id": None},
            {"checkpoint_id": 2, "name": "lora", "kind": "adapter", "base_checkpoint_id": 1},
        ],
    )
    owned = [(1, n) for n in range(len(PLACES))] + [(2, 0), (2, 1)]
    for c, n in owned:
        role, layer, expert = PLACES[n]
        rows, cols = SHAPES[n]
        put(
            db,
            "matrix",
            [{"matrix_id": 10 * c + n, "checkpoint_id": c, "name": f"{layer}.{role}.{expert}",
              "layer": layer, "role": role, "expert": expert, "rows": rows, "cols": cols}],
        )  # fmt: skip
        with writer(db) as connection:
            sigma = spectrum(10 * c + n)
            insert(connection, [SpectrumValues(10 * c + n, "weight", sigma)])
            insert(connection, [SpectrumValues(10 * c + n, "delta", 9 * sigma)])
    return connect(db)


@pytest.mark.parametrize("target", [0.0, 0.05, 0.3, 0.5, 0.77, 0.95, 1.0])
@pytest.mark.parametrize("name", ["base", "lora"])
def test_ranks_are_those_of_the_exact_threshold(store: Store, name: str, target: float) -> None:
    own = [10, 11, 12, 13, 14] if name == "base" else [20, 21]
    others = [] if name == "base" else [12, 13, 14]
    spectra = [spectrum(n) for n in own + others]
    threshold = theory.exact_threshold(spectra, target)
    view = welore.ranks(store, name, target)
    kept = dict.fromkeys(((PLACES[n % 10][0], PLACES[n % 10][1]) for n in own), 0)
    energy: dict[tuple[str, int | None], list[float]] = {place: [] for place in kept}
    full = dict(kept)
    for n in own:
        sigma, place = spectrum(n), (PLACES[n % 10][0], PLACES[n % 10][1])
        rank = sigma.size - theory.pruned_rank(sigma, threshold)
        kept[place] += rank
        full[place] += sigma.size
        energy[place].append(theory.energy_kept(sigma, rank) or 0.0)
    got = {(row["role"], row["layer"]): row for row in view.rows()}
    assert {place: row["rank_kept"] for place, row in got.items()} == kept
    assert {place: row["full_rank"] for place, row in got.items()} == full
    for place, row in got.items():
        pruned = full[place] - kept[place]
        assert row["is_lrc"] == theory.is_low_rank_component(pruned, full[place])
        assert row["energy_kept"] == pytest.approx(np.mean(energy[place]), abs=1e-12)
        assert row["threshold"] == pytest.approx(threshold, abs=1e-12)
        achieved = theory.effective_rank_reduction(spectra, threshold)
        assert row["achieved"] == pytest.approx(achieved, abs=1e-12)
    assert got["attn_q", 0]["param_ratio"] == pytest.approx(
        theory.param_ratio(kept["attn_q", 0], *SHAPES[0])
    )


def test_half_is_what_the_scan_stores(store: Store, tmp_path: Path) -> None:
    copy = tmp_path / "s.duckdb"
    copy.write_bytes(store.db.read_bytes())
    with writer(copy) as connection:
        write_welore(connection, 2)
    with duckdb.connect(copy, read_only=True) as connection:
        stored = dict(
            connection.execute(
                "SELECT role, rank_kept FROM welore JOIN matrix USING (matrix_id)"
            ).fetchall()
        )
    view = welore.ranks(store, "lora", 0.5)
    assert dict(zip(view.column("role"), view.column("rank_kept"), strict=True)) == stored


def test_experts_of_a_layer_share_a_cell(store: Store) -> None:
    row = next(r for r in welore.ranks(store, "base", 0.5).rows() if r["role"] == "expert_up")
    assert (row["n"], row["full_rank"], row["high"]) == (2, 16, 1.0)
    assert row["value"] == pytest.approx((1.0 + row["low"]) / 2)


def test_normalised_spectra(store: Store) -> None:
    view = welore.normalised_spectra(store, "base", 0.5)
    for name, part in view.groups("name"):
        n = next(i for i, (r, la, e) in enumerate(PLACES) if f"{la}.{r}.{e}" == name)
        np.testing.assert_allclose(part["z"], theory.normalise(spectrum(10 + n)), atol=1e-12)
        np.testing.assert_allclose(part["q"], np.arange(1, len(part["z"]) + 1) / len(part["z"]))
    assert "embed" not in set(view.column("role"))


def test_an_empty_store_gives_empty_tables(empty: Store) -> None:
    assert welore.ranks(empty, "a", 0.5).is_empty
    assert welore.normalised_spectra(empty, "a", 0.5).is_empty
