"""Views of functional Tucker fits against numpy on the rows they are made of."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analyzer.models.spectral_tensor.tables import TUCKER_TABLES
from analyzer.store.connection import create
from analyzer.store.reading import Store, connect
from analyzer.store.schema import CORE_TABLES
from analyzer.views import tucker, tucker_posterior

STEPS, DEPTHS, ROLES, Q = (0.0, 10.0, 30.0), (0.0, 1.0, 2.0), ("attn_q", "mlp_up"), 12
MODES = ["depth", "step", "role", "quantile"]


def fit_row(fit_id: int, **changed: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "fit_id": fit_id, "run": "full", "kind": "weight", "roles": "attn_q,mlp_up",
        "modes": ",".join(MODES), "ranks": "2,2,1,3", "kernel": "matern32,matern32,iid,matern32",
        "lengthscales": "3.5,20,–,0.5", "noise": 0.01, "n_obs": 100, "n_scans": 9,
        "explained": 0.99, "holdout": "2 scans along step", "n_holdout": 24, "rmse": 0.02,
        "rmse_all": 0.05, "baseline_rmse": 0.01, "baseline_rmse_all": 0.06, "coverage": 0.95,
        "elbo": 12.5, "restart_elbos": "10.0,12.5,11", "n_sweeps": 40, "converged": True,
        "collapsed": False, "bound_hit": "step", "status": "ok",
        "params": json.dumps({"modes": MODES}),
    }  # fmt: skip
    return row | changed


def predictions() -> list[dict[str, Any]]:
    """Every place of the grid, and one depth beyond it that nobody scanned."""
    rng = np.random.default_rng(3)
    rows = []
    for role in ROLES:
        for depth in (*DEPTHS, 5.0):
            for step in STEPS:
                for j in range(Q):
                    mean, sd = rng.normal(), rng.uniform(0.1, 1.0)
                    beyond = depth == 5.0
                    rows.append(
                        {"fit_id": 1, "role": role, "depth": depth, "step": step,
                         "quantile": (j + 0.5) / Q, "mean": mean, "sd": sd,
                         "sd_function": sd / 2, "extrapolated": beyond,
                         "observed": None if beyond else mean + 1.5 * sd * rng.normal()}
                    )  # fmt: skip
    return rows


@pytest.fixture
def empty(tmp_path: Path) -> Store:
    db = tmp_path / "analyzer.duckdb"
    create(db, (*CORE_TABLES, *TUCKER_TABLES))
    return connect(db)


@pytest.fixture
def store(put: Callable[..., None], empty: Store) -> Store:
    put(empty.db, "tucker_fit", [
        fit_row(1),
        fit_row(2, run="base", rmse=None, holdout=None, baseline_rmse=None, coverage=None),
        fit_row(3, run="full", modes="step,quantile", roles="attn_q", lengthscales="7,0.2",
                kernel="matern32,matern32", params=json.dumps({"modes": ["step", "quantile"]})),
    ])  # fmt: skip
    put(empty.db, "tucker_prediction", predictions())
    put(empty.db, "tucker_anomaly", [
        {"fit_id": 1, "role": role, "depth": 0.0, "n": 9, "score": score, "place": place}
        for role, score, place in (("mlp_up", 0.5, 2), ("attn_q", 2.5, 1))
    ])  # fmt: skip
    return empty


def test_an_empty_store_gives_empty_views(empty: Store) -> None:
    assert tucker.fit_labels(empty) == {} and tucker.fit_row(empty, 1) == {}
    for view in (
        tucker.fits(empty), tucker.errors(empty), tucker.restarts(empty, 1),
        tucker.anomalies(empty, 1), tucker.lengthscales(empty),
        tucker_posterior.surface(empty, 1, "attn_q", "depth", 1.0),
        tucker_posterior.predicted_against_scanned(empty, 1),
        tucker_posterior.noise_by_quantile(empty, 1),
    ):  # fmt: skip
        assert view.is_empty


def test_labels_name_the_modes_only_where_they_are_not_a_scans(store: Store) -> None:
    assert tucker.fit_labels(store) == {
        "full · weight": 1,
        "full · weight · step,quantile · attn_q": 3,
        "base · weight": 2,
    }


def test_words_say_where_interpolation_wins_and_what_hit_its_bound(store: Store) -> None:
    said = " ".join(tucker.fit_in_words(tucker.fit_row(store, 1)))
    assert "linear interpolation wins" in said and "lengthscale of step" in said
    assert "95.0% of the held-out values" in said and "as meant" in said
    better = " ".join(tucker.fit_in_words(fit_row(1, baseline_rmse=0.5, coverage=0.5)))
    assert "better than interpolation" in better and "too narrow" in better
    unsure = " ".join(tucker.fit_in_words(fit_row(1, converged=False, collapsed=True)))
    assert "collapsed" in unsure and "had not converged" in unsure
    assert "Nothing was held out" in " ".join(tucker.fit_in_words(tucker.fit_row(store, 2)))


def test_errors_hold_both_methods_for_fits_with_a_hold_out(store: Store) -> None:
    rows = tucker.errors(store).rows()
    assert {r["fit_id"] for r in rows} == {1, 3} and len(rows) == 8
    found = {(r["method"], r["quantiles"]): r["rmse"] for r in rows if r["fit_id"] == 1}
    assert found == {
        ("functional Tucker", "below 0.9"): 0.02, ("functional Tucker", "all"): 0.05,
        ("linear interpolation", "below 0.9"): 0.01, ("linear interpolation", "all"): 0.06,
    }  # fmt: skip


def test_restarts_are_held_to_the_best(store: Store) -> None:
    view = tucker.restarts(store, 1)
    assert view.column("below_best") == [2.5, 0.0, 1.5]
    assert view.column("chosen") == [False, True, False]


def test_anomalies_come_oddest_first(store: Store) -> None:
    assert tucker.anomalies(store, 1).column("matrix") == ["attn_q 0", "mlp_up 0"]
    assert tucker.anomalies(store, 1, most=1).column("score") == [2.5]


def test_lengthscales_leave_labels_without_one_out(store: Store) -> None:
    rows = tucker.lengthscales(store).rows()
    found = {(r["fit_id"], r["mode"]): (r["lengthscale"], r["at_bound"]) for r in rows}
    assert found[1, "depth"] == (3.5, False) and found[1, "step"] == (20.0, True)
    assert (1, "role") not in found and found[3, "quantile"] == (0.2, False)


@pytest.mark.parametrize(("along", "at"), [("depth", 10.0), ("step", 1.0)])
def test_a_surface_holds_its_places_with_their_intervals(
    store: Store, along: Any, at: float
) -> None:
    other = "step" if along == "depth" else "depth"
    wanted = {
        (r[along], r["quantile"]): r for r in predictions()
        if r["role"] == "mlp_up" and r[other] == at
    }  # fmt: skip
    rows = tucker_posterior.surface(store, 1, "mlp_up", along, at).rows()
    assert {(r["x"], r["quantile"]) for r in rows} == set(wanted)
    for row in rows:
        source = wanted[row["x"], row["quantile"]]
        assert row["mean"] == source["mean"] and row["observed"] == source["observed"]
        assert row["hi"] - row["lo"] == pytest.approx(2 * 1.959964 * source["sd"], rel=1e-9)
        assert row["place"] == ("extrapolated" if source["extrapolated"] else "scanned")


def test_slices_are_cuts_of_the_surface(store: Store) -> None:
    cuts = tucker_posterior.quantiles(store, 1)[::5]
    whole = tucker_posterior.surface(store, 1, "attn_q", "step", 0.0).rows()
    cut = tucker_posterior.slices(store, 1, "attn_q", "step", 0.0, cuts).rows()
    assert cut == [row for row in whole if row["quantile"] in cuts]


def test_scanned_places_come_first(store: Store) -> None:
    assert tucker_posterior.places(store, 1, "attn_q", "depth") == [2.0, 1.0, 0.0, 5.0]
    assert tucker_posterior.roles(store, 1) == list(ROLES)


@pytest.mark.parametrize("points", [7, 50, 10_000])
def test_predicted_values_are_thinned_but_counted_in_full(store: Store, points: int) -> None:
    seen = [r for r in predictions() if r["observed"] is not None]
    inside = np.mean([abs(r["observed"] - r["mean"]) <= 1.959964 * r["sd"] for r in seen])
    view = tucker_posterior.predicted_against_scanned(store, 1, points)
    assert view.table.num_rows == min(points, len(seen))
    assert view.parameters["values"] == len(seen)
    assert view.parameters["share within 95 % interval"] == f"{inside:.3f}"
    for row in view.rows():
        assert row["inside"] == (row["lo"] <= row["observed"] <= row["hi"])


def test_noise_is_that_of_each_quantile(store: Store) -> None:
    seen = [r for r in predictions() if r["observed"] is not None]
    for row in tucker_posterior.noise_by_quantile(store, 1).rows():
        part = [r for r in seen if r["quantile"] == row["quantile"]]
        off = np.array([r["observed"] - r["mean"] for r in part])
        sd = np.array([r["sd"] for r in part])
        assert row["n"] == len(part)
        assert row["residual"] == pytest.approx(np.sqrt(np.mean(off**2)), rel=1e-12)
        assert row["sd"] == pytest.approx(np.median(sd), rel=1e-12)
        assert row["coverage"] == pytest.approx(np.mean(abs(off) <= 1.959964 * sd))
