"""Curves of the theory against simulation, dense computation and closed forms."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
from scipy.stats import chi2

from analyzer.store.reading import Store
from analyzer.views import (
    theory_attention,
    theory_bulk,
    theory_galore,
    theory_intruders,
    theory_matern,
    theory_power_law,
)


@pytest.fixture
def store(put: Callable[..., None], empty: Store) -> Store:
    put(empty.db, "checkpoint", [
        {"checkpoint_id": 1, "name": "base", "kind": "base"},
        {"checkpoint_id": 2, "name": "full", "kind": "full", "base_checkpoint_id": 1},
    ])  # fmt: skip
    put(empty.db, "matrix", [
        {"matrix_id": i, "checkpoint_id": c, "name": "w", "rows": 4, "cols": 8, "status": "ok"}
        for i, c in ((1, 1), (2, 2))
    ])  # fmt: skip
    put(empty.db, "tail", [
        {"matrix_id": i, "kind": "weight", "edge_tw99": 2.0, "alpha": 3.0, "alpha_lo": 2.0,
         "alpha_hi": 4.0, "n_tail": 20, "status": "ok", "num_spikes": 1}
        for i in (1, 2)
    ])  # fmt: skip
    put(empty.db, "spectrum_info", [
        {"matrix_id": i, "kind": "weight", "spectral_norm": 3.0 * i} for i in (1, 2)
    ])  # fmt: skip
    put(empty.db, "spectrum", [
        {"matrix_id": 1, "kind": "weight", "k": k, "sigma": 5.0 - k} for k in (2, 1, 4, 3)
    ])  # fmt: skip
    put(empty.db, "intruder", [
        {"matrix_id": 2, "side": side, "k": 10, "epsilon": 0.5, "n_intruders": 1,
         "theta_star": 0.5, "delta_spectral_norm": norm, "status": "ok"}
        for side, norm in (("left", 0.7), ("right", 0.3))
    ])  # fmt: skip
    put(empty.db, "lora_limits", [
        {"matrix_id": 1, "checkpoint_id": 1, "model": "base", "layer": 0, "head": h, "L": 100,
         "source": "activations", "gamma_as": norm, "threshold": 2 * np.sqrt(np.log(100)),
         "c": 2.0, "ipr": 0.5, "verdict": "outside"}
        for h, norm in enumerate((1.0, 2.1, 2.2, 9.0))
    ])  # fmt: skip
    put(empty.db, "grad_spectrum", [
        {"run": "r", "step": 1, "source": "grad", "stable_rank": v} for v in (1.0, 2.0, 6.0)
    ])  # fmt: skip
    return empty


def test_an_empty_store_has_no_points(empty: Store) -> None:
    assert theory_bulk.own_edges(empty).is_empty
    assert theory_intruders.own_thresholds(empty, ["full"]).is_empty
    assert theory_intruders.own_outliers(empty, "base", "w", 0.5) is None
    assert theory_power_law.own_tails(empty).is_empty
    assert theory_attention.own_heads(empty, "gamma_as", "activations").is_empty
    assert theory_attention.sources(empty) == []
    assert theory_galore.own_gradients(empty).is_empty


@pytest.mark.parametrize("aspect", [0.1, 0.5, 1.0])
def test_the_density_is_that_of_simulated_eigenvalues(aspect: float) -> None:
    view = theory_bulk.density(aspect, 600)
    x, y = np.array(view.column("x")), np.array(view.column("y"))
    W = np.random.default_rng(0).standard_normal((round(600 * aspect), 600))
    values = np.linalg.eigvalsh(W @ W.T / 600)
    middle = 0.5 * (1 + aspect)
    inside = (x > 0.2 * middle) & (x < middle)
    share = np.mean((values > x[inside][0]) & (values < x[inside][-1]))
    assert np.trapezoid(y[inside], x[inside]) == pytest.approx(share, abs=0.02)


def test_the_edge_law_is_that_of_simulated_largest_eigenvalues() -> None:
    view = theory_bulk.edge_law(0.5, 60)
    rng = np.random.default_rng(1)
    largest = [np.linalg.norm(rng.standard_normal((30, 60)), 2) ** 2 / 60 for _ in range(400)]
    for x, cdf in list(zip(view.column("x"), view.column("cdf"), strict=True))[::12]:
        assert np.mean(np.array(largest) <= x) == pytest.approx(cdf, abs=0.09)
    assert np.trapezoid(view.column("density"), view.column("x")) == pytest.approx(1, abs=0.01)


def test_own_edges_are_squares_over_the_edge(store: Store) -> None:
    rows = theory_bulk.own_edges(store).rows()
    assert [(r["checkpoint"], r["ratio"], r["aspect"]) for r in rows] == [
        ("base", 4.5, 0.5), ("full", 18.0, 0.5),
    ]  # fmt: skip


@pytest.mark.parametrize("name", theory_intruders.SPECTRA)
def test_outliers_lie_where_simulated_updates_put_them(name: str) -> None:
    s = theory_intruders.spectrum(name, 200)
    assert s.shape == (200,) and np.all(np.diff(s) <= 0)
    view = theory_intruders.outliers(s, (200, 200), 0.5, name)
    theta = 3.0 * s[0]
    at = theory_intruders.at_strength(view, theta)
    assert at is not None
    rng = np.random.default_rng(2)
    found = []
    for _ in range(5):
        a, b = (v / np.linalg.norm(v) for v in rng.standard_normal((2, 200)))
        U, sigma, _ = np.linalg.svd(np.diag(s) + theta * np.outer(a, b))
        found.append((sigma[0], abs(U[:, 0] @ a), np.max(abs(U[:, 0]))))
    rho, alignment, maxcos = np.mean(found, axis=0)
    assert at["rho"] == pytest.approx(rho, rel=0.02)
    assert at["alignment"] == pytest.approx(alignment, abs=0.02)
    assert at["maxcos"] == pytest.approx(maxcos, abs=0.08)
    assert theory_intruders.at_strength(view, 1e-6) is None


def test_a_random_spectrum_meets_the_limit_of_infinite_size() -> None:
    s = theory_intruders.spectrum("random", 400)
    view = theory_intruders.outliers(s, (400, 400), 0.5, "random", limit=True)
    strong = [r for r in view.rows() if r["theta"] > 1.3]
    assert [r["rho"] for r in strong] == pytest.approx([r["limit"] for r in strong], rel=1e-3)
    with pytest.raises(ValueError, match="one of random"):
        theory_intruders.spectrum("flat", 10)


def test_own_spectra_are_whole_or_refused(store: Store) -> None:
    assert theory_intruders.own_spectrum(store, "base", "w") == ([4.0, 3.0, 2.0, 1.0], 4, 8)
    assert theory_intruders.own_spectrum(store, "full", "w") == ([], 0, 0)
    view = theory_intruders.own_outliers(store, "base", "w", 0.5)
    assert view is not None and min(view.column("rho")) > 4.0


def test_own_thresholds_count_agreement_by_side(store: Store) -> None:
    left = theory_intruders.own_thresholds(store, ["full"], "left")
    right = theory_intruders.own_thresholds(store, ["full"], "right")
    assert left.parameters["agree"] == "1 of 1" and right.parameters["agree"] == "0 of 1"
    assert left.column("delta_spectral_norm") == [0.7]


@pytest.mark.parametrize("n", [10, 5000])
def test_a_drawn_tail_counts_what_is_beyond(n: int) -> None:
    view = theory_power_law.drawn_tail(2.5, n, 7)
    x = np.sort(1.0 + np.random.default_rng(7).pareto(1.5, n))
    for value, share in zip(view.column("x"), view.column("ccdf"), strict=True):
        assert share == pytest.approx(np.mean(x >= value), abs=1e-12)
    estimate = 1 + n / np.sum(np.log(x))
    assert view.parameters["estimate"] == f"{estimate:.3f}"
    assert view.table.num_rows <= 400


def test_the_interval_narrows_as_its_quantiles_say() -> None:
    rows = theory_power_law.interval_by_size(3.0).rows()
    for row in rows:
        T, degrees = row["n"] / 2.0, 2 * (row["n"] - 1)
        low, high = 1 + chi2.ppf([0.025, 0.975], degrees) / (2 * T)
        assert (row["lo"], row["hi"]) == pytest.approx((low, high), rel=1e-9)
    width = [row["hi"] - row["lo"] for row in rows]
    assert width == sorted(width, reverse=True)


def test_matern_draws_have_the_correlation_that_is_drawn_beside_them() -> None:
    table = theory_matern.samples(0.3, 500, 0).table
    correlation = theory_matern.correlation(0.3).rows()
    for nu in theory_matern.SMOOTHNESS:
        keep = np.array(table.column("nu")) == nu
        f = np.array(table.column("f"))[keep].reshape(500, -1)
        apart = f.shape[1] // 4
        seen = np.mean(f[:, :-apart] * f[:, apart:])
        at = apart / (f.shape[1] - 1)
        d, known = np.array([(r["d"], r["correlation"]) for r in correlation if r["nu"] == nu]).T
        assert np.mean(f**2) == pytest.approx(1.0, abs=0.12)
        assert seen == pytest.approx(np.interp(at, d, known), abs=0.12)


def test_the_cube_is_a_dense_softmax() -> None:
    m = 4
    corners = np.array(list(product((-1.0, 1.0), repeat=m)))
    for row in theory_attention.hypercube(m).rows()[::30]:
        gamma2 = row["rho"] ** 2 * np.log(2**m)
        F = np.exp(gamma2 * corners @ corners.T / m)
        F /= F.sum(axis=1, keepdims=True)
        assert row["ipr"] == pytest.approx(np.mean(np.sum(F**2, axis=1)), rel=1e-9)


def test_the_boundary_is_c_times_the_root_of_the_logarithm() -> None:
    for row in theory_attention.boundary(0.5).rows()[::20]:
        assert row["threshold"] == pytest.approx(0.5 * np.sqrt(row["log10_L"] * np.log(10)))


def test_heads_left_of_the_threshold_are_counted(store: Store) -> None:
    heads = theory_attention.own_heads(store, "gamma_as", "activations")
    assert theory_attention.sources(store) == ["activations"]
    assert theory_attention.heads_below(heads, 1.0) == 2  # √ln 100 = 2.146
    assert theory_attention.heads_below(heads, 0.5) == 1
    ratio = {r["head"]: r["rho"] for r in heads.rows()}
    assert ratio[3] == pytest.approx(9.0 / np.sqrt(np.log(100)))


@pytest.mark.parametrize("case", theory_galore.CASES)
def test_the_exact_stable_rank_is_that_of_the_iterated_gradient(case: str) -> None:
    view = theory_galore.stable_rank(case, 0.8, 20, 3)
    G, B, C = theory_galore.instance(case, 3)
    eta = float(view.parameters["η"])
    exact = {r["step"]: r["value"] for r in view.rows() if r["curve"] == "exact"}
    for step in range(21):
        s = np.linalg.svd(G, compute_uv=False)
        if step in exact:  # η is printed with three digits
            assert exact[step] == pytest.approx(np.sum(s**2) / s[0] ** 2, rel=0.02)
        G = G - eta * np.mean(B @ G @ C, axis=0)


def test_verdicts_follow_the_case_and_the_step() -> None:
    def status(case: str, share: float) -> dict[str, str]:
        rows = theory_galore.verdicts(case, share, 10, 0, 0.0).rows()
        return {r["statement"]: r["status"] for r in rows}

    assert status("product form", 0.9)["Lemma 3.3 as printed"] == "ok"
    generic = status("generic", 0.9)
    assert generic["Lemma 3.3 as printed"] == "condition_violated"
    assert generic["Lemma 3.3, gap-aware"] == "ok"
    assert status("generic", 1.2)["Lemma 3.3, gap-aware"] == "condition_violated"
    few = status("few tokens", 0.9)
    assert few["smallest eigenvalue of S is active"] == "parallel_component_zero"


def test_the_gap_aware_bound_holds_where_its_condition_does() -> None:
    for case, seed in product(theory_galore.CASES, range(8)):
        rows = theory_galore.stable_rank(case, 1.0, 300, seed).rows()
        exact = {r["step"]: r["value"] for r in rows if r["curve"] == "exact"}
        bound = {r["step"]: r["value"] for r in rows if r["curve"] == "gap-aware bound"}
        assert all(exact[t] <= bound[t] * (1 + 1e-9) for t in bound)


def test_gradients_are_summed_up_by_step(store: Store) -> None:
    row = theory_galore.own_gradients(store).rows()[0]
    assert (row["median"], row["n"]) == (2.0, 3)
    assert row["low"] == pytest.approx(1.2) and row["high"] == pytest.approx(5.2)
