"""Views of weight manifolds and of the geometry of checkpoints against their raw rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest

from analyzer.models.manifold.tables import MANIFOLD_TABLES
from analyzer.store.connection import create
from analyzer.store.reading import Store, connect
from analyzer.store.schema import CORE_TABLES
from analyzer.views import geometry, manifold, manifold_fits

NAMES = ("base", "run/checkpoint-1", "run/checkpoint-2", "alone")


@pytest.fixture
def empty(tmp_path: Path) -> Store:
    db = tmp_path / "analyzer.duckdb"
    create(db, (*CORE_TABLES, *MANIFOLD_TABLES))
    return connect(db)


def fit_rows() -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    return [
        {"checkpoint_id": 1, "tensor": f"{role}.{layer}.{expert}", "layer": layer, "role": role,
         "basis": "dct", "permuted": True, "n_params": 100, "stored": 25,
         "rel_fro": rng.uniform(), "unpermuted_rel_fro": rng.uniform(),
         "svd_rel_fro": rng.uniform()}
        for role in ("mlp_up", "embed") for layer in ((0, 1, None) if role == "embed" else (0, 1))
        for expert in range(3)
    ]  # fmt: skip


@pytest.fixture
def store(put: Callable[..., None], empty: Store) -> Store:
    put(empty.db, "checkpoint", [
        {"checkpoint_id": i + 1, "name": name, "kind": "full" if i else "base",
         "run": "run" if "/" in name else None, "step": i if "/" in name else None, "path": name,
         "n_params": 7}
        for i, name in enumerate(NAMES)
    ])  # fmt: skip
    put(empty.db, "manifold_group", [
        {"checkpoint_id": 1, "group": group, "kind": kind, "layer": layer, "n": n, "d": 5,
         "tv_before": 8.0, "tv_after": 6.0, "tv_random": 10.0, "ratio": 0.6, "null_ratio": null,
         "smoothness": 1 - 0.6 / null, "lower_bound": 5.0, "gap": 0.2, "exact": False,
         "solver": "x"}
        for group, kind, layer, n, null in (
            ("res", "residual", None, 3, 0.61), ("mlp_10", "mlp", 10, 4000, 0.9),
            ("mlp_2", "mlp", 2, 30, 0.9))
    ])  # fmt: skip
    rng = np.random.default_rng(1)
    for group, n in (("res", 3), ("mlp_10", 4000)):
        order = rng.permutation(n).tolist()
        put(empty.db, "manifold_order", [
            {"checkpoint_id": 1, "group": group, "pos": pos, "idx": idx}
            for pos, idx in enumerate(order)
        ])  # fmt: skip
    put(empty.db, "manifold_fit", fit_rows())
    put(empty.db, "checkpoint_geometry", [
        {"a": a, "b": b, "distance": 10.0 * a + b, "cosine": 0.5,
         "cosine_from_base": None if a == 1 else -0.25}
        for a in range(1, 5) for b in range(a + 1, 5)
    ])  # fmt: skip
    put(empty.db, "checkpoint_embedding", [
        {"checkpoint_id": i, "component": c, "score": i / c, "explained": 0.6 / c,
         "random_walk": 0.5 / c}
        for i in range(1, 5) for c in (1, 2, 3)
    ])  # fmt: skip
    put(empty.db, "intrinsic_dimension", [
        {"of": "run", "method": "two_nn", "k": None, "n": 2, "d": None, "lo": None, "hi": None,
         "status": "too few points"},
        {"of": "collection", "method": "mle_mean", "k": 5, "n": 4, "d": 2.0, "lo": 1.0, "hi": 3.0,
         "status": "ok"},
    ])  # fmt: skip
    return empty


def test_an_empty_store_gives_empty_views(empty: Store) -> None:
    assert manifold.measured(empty) == [] and geometry.placed(empty) == []
    assert manifold.group_names(empty, "base") == []
    views = [
        manifold.groups(empty, "base"), manifold.order(empty, "base", "res"),
        manifold.samples(empty), manifold_fits.fit_errors(empty, "base"),
        manifold_fits.tensors(empty, "base"), geometry.embedding(empty), geometry.explained(empty),
        geometry.distances(empty, ["base"]), geometry.dimensions(empty),
    ]  # fmt: skip
    assert all(view.is_empty for view in views)
    assert manifold.groups_in_words(views[0]) == "" == manifold_fits.fits_in_words(views[4])


def test_groups_are_over_a_random_order_and_by_block(store: Store) -> None:
    view = manifold.groups(store, "base")
    assert view.column("group") == ["mlp_2", "mlp_10", "res"]  # by number, what spans blocks last
    assert view.column("block") == ["2", "10", "all"]
    assert view.column("before") == pytest.approx([0.8] * 3)
    assert view.column("after") == pytest.approx([0.6] * 3)
    assert view.column("bound") == pytest.approx([0.5] * 3)
    assert manifold.groups_in_words(view).startswith("2 of 3 groups")


@pytest.mark.parametrize(("group", "n"), [("res", 3), ("mlp_10", 4000)])
def test_an_order_is_thinned_evenly(store: Store, group: str, n: int) -> None:
    view = manifold.order(store, "base", group)
    raw = store.sql('SELECT pos, idx FROM manifold_order WHERE "group" = ?', [group])
    whole = {r["pos"]: r["idx"] for r in raw.to_pylist()}
    pos = view.column("pos")
    assert len(pos) == min(n, 2000) and pos[-1] == n - 1
    assert set(np.diff(pos)) <= {n // len(pos), n // len(pos) + 1}
    assert all(whole[p] == i for p, i in zip(pos, view.column("idx"), strict=True))


def test_groups_with_an_order_come_largest_first(store: Store) -> None:
    assert manifold.group_names(store, "base") == ["mlp_10", "res"]


def test_fit_errors_are_medians_over_experts(store: Store) -> None:
    columns = ("rel_fro", "unpermuted_rel_fro", "svd_rel_fro")
    rows = manifold_fits.fit_errors(store, "base").rows()
    assert len(rows) == 5 * 3
    for row in rows:
        column = columns[manifold_fits.METHODS.index(row["method"])]
        layer = None if row["block"] == "all" else int(row["block"])
        part = [r[column] for r in fit_rows() if (r["role"], r["layer"]) == (row["role"], layer)]
        assert row["n"] == 3 and row["kept"] == 0.25
        assert row["rel_fro"] == pytest.approx(median(part), rel=1e-12)


def test_words_count_what_the_fit_beats(store: Store) -> None:
    rows = fit_rows()
    better = sum(r["rel_fro"] < r["svd_rel_fro"] for r in rows)
    helped = sum(r["rel_fro"] < r["unpermuted_rel_fro"] for r in rows)
    said = manifold_fits.fits_in_words(manifold_fits.tensors(store, "base"))
    assert f"for {better} of {len(rows)} tensors" in said
    assert said.endswith(f"for {helped} of {len(rows)}.")


def test_an_embedding_has_two_coordinates_and_its_runs(store: Store) -> None:
    view = geometry.embedding(store)
    assert view.column("checkpoint")[0] == "base"
    found = {r["checkpoint"]: (r["x"], r["y"], r["run"], r["on_run"]) for r in view.rows()}
    assert found["run/checkpoint-2"] == (3.0, 1.5, "run", True)
    assert found["alone"] == (4.0, 2.0, "alone", False)
    assert view.parameters == {"component 1": "60.0%", "component 2": "30.0%"}
    assert geometry.explained(store).column("random_walk") == pytest.approx([0.5, 0.25, 0.5 / 3])


def test_distances_are_both_halves_in_the_order_of_runs(store: Store) -> None:
    names = geometry.placed(store)
    assert names[0] == "base"
    assert names.index("run/checkpoint-1") < names.index("run/checkpoint-2")
    rows = geometry.distances(store, names).rows()
    found = {(r["a"], r["b"]): r["value"] for r in rows}
    assert len(rows) == 12 and all(found[a, b] == found[b, a] for a, b in found)
    assert found["run/checkpoint-1", "alone"] == 24.0
    assert len({r["i"] for r in rows}) == 4
    part = geometry.distances(store, names, "cosine_from_base").rows()
    assert len(part) == 6 and "base" not in {r["a"] for r in part}
    with pytest.raises(ValueError, match="one of distance"):
        geometry.distances(store, names, "distance; DROP TABLE checkpoint")


def test_dimensions_keep_refusals(store: Store) -> None:
    rows = geometry.dimensions(store).rows()
    assert [r["of"] for r in rows] == ["collection", "run"]
    assert rows[0]["method"] == "mle_mean (k = 5)" and rows[1]["d"] is None
    assert rows[1]["status"] == "too few points"
