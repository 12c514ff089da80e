"""Fits of a store's spectra: rows against the fit, resume, replacement, what cannot be fitted."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

import analyzer
from analyzer.errors import UsageError
from analyzer.models.spectral_tensor.fitting import fit_spectra
from analyzer.models.spectral_tensor.holdout import hold_out
from analyzer.models.spectral_tensor.observations import Observations
from analyzer.models.spectral_tensor.settings import Settings
from analyzer.scanning.tucker import fits
from analyzer.scanning.tucker.fits import Fitted, anomalies, fit_run, load, predict_places
from analyzer.scanning.tucker.stored import find_run, known_steps

Q = (np.arange(24) + 0.5) / 24
ROLES = ("attn_q", "mlp_up")
QUICK = Settings(restarts=1, max_sweeps=8)


def table(db: Path, query: str, *parameters: object) -> list[dict[str, Any]]:
    return analyzer.connect(db).sql(query, list(parameters)).to_pylist()


def store_of(root: Path) -> Path:
    return root / "analyzer.duckdb"


def log_at_quantiles(log_sigma: np.ndarray) -> np.ndarray:
    return np.interp(Q * log_sigma.size - 0.5, np.arange(log_sigma.size), log_sigma)


def test_a_scan_fits_the_run_and_the_base_alone(smooth_run: Path) -> None:
    found = table(store_of(smooth_run), "SELECT * FROM tucker_fit ORDER BY fit_id")
    assert [row["run"] for row in found] == ["base", "run"]
    alone, run = found
    assert (alone["modes"], alone["ranks"]) == ("depth,role,quantile", "2,1,3")
    assert alone["n_obs"] == 4 * 2 * 24 and not alone["residual"]
    assert alone["holdout"] is None and alone["rmse"] is None and alone["coverage"] is None
    assert (run["modes"], run["ranks"]) == ("depth,step,role,quantile", "2,2,1,3")
    assert run["kernel"] == "matern32,matern32,iid,matern32"
    assert run["lengthscales"].split(",")[2] == "–"
    assert run["roles"] == "attn_q,mlp_up" and run["kind"] == "weight" and run["residual"]
    assert run["n_scans"] == 4 * 2 * 5 and run["n_obs"] == run["n_scans"] * 24
    assert run["explained"] > 0.999 and run["status"] in ("ok", "not_converged")
    assert run["elbo"] == pytest.approx(max(map(float, run["restart_elbos"].split(","))))
    assert run["precision"] == "float64" and run["seed"] == 0 and run["seconds"] > 0
    params = json.loads(run["params"])
    assert params["restarts"] == 2 and params["modes"] == ["depth", "step", "role", "quantile"]


def test_hold_out_numbers_of_the_row(smooth_run: Path) -> None:
    db = store_of(smooth_run)
    (row,) = table(db, "SELECT * FROM tucker_fit WHERE run = 'run'")
    _, fit, seen = load(db, row["fit_id"])
    held = hold_out(seen, Settings())
    assert held is not None
    # a fifth of 4 layers × 3 inner steps, for both roles
    assert row["holdout"] == "4 scans along step" and row["n_holdout"] == 4 * 24
    for name in ("rmse", "rmse_all", "baseline_rmse", "baseline_rmse_all", "coverage"):
        assert row[name] == pytest.approx(getattr(held, name), rel=1e-9), name
    assert 0 <= row["coverage"] <= 1 and row["rmse"] < 0.05
    hit = [m for m, at in zip(fit.modes, fit.tucker.bound_hit, strict=True) if at]
    assert row["bound_hit"] == ",".join(hit)
    assert row["noise"] == pytest.approx(np.median(fit.tucker.noise_sd))


def test_predictions_at_scanned_places(smooth_run: Path, log_sigma: Callable) -> None:
    found = table(store_of(smooth_run), "SELECT p.* FROM tucker_prediction p"
                  " JOIN tucker_fit USING (fit_id) WHERE run = 'run'")  # fmt: skip
    assert len(found) == 4 * 5 * 2 * 24
    places = {(row["depth"], row["step"], row["role"]) for row in found}
    assert places == {(float(d), float(s), r) for d in (0, 1, 2, 4)
                      for s in (0, 10, 30, 100, 300) for r in ROLES}  # fmt: skip
    for row in found:
        sigma = log_sigma(row["depth"], row["step"], ROLES.index(row["role"]))
        place = int(np.argmin(np.abs(Q - row["quantile"])))
        assert row["observed"] == pytest.approx(log_at_quantiles(sigma)[place], abs=1e-5)
        assert row["mean"] == pytest.approx(row["observed"], abs=0.05)
        assert 0 <= row["sd_function"] <= row["sd"] and not row["extrapolated"]


def test_unscanned_places(smooth_run: Path, log_sigma: Callable) -> None:
    row, fit, seen = load(store_of(smooth_run), None)
    assert row.run == "run"
    inside = 0
    for depth, step in ((3.0, 30.0), (1.0, 55.0), (3.0, 170.0)):
        found = predict_places(row.fit_id, fit, seen, [depth], [step])
        assert len(found) == 48
        for one in found:
            sigma = log_at_quantiles(log_sigma(depth, step, ROLES.index(one.role)))
            want = sigma[int(np.argmin(np.abs(Q - one.quantile)))]
            inside += abs(one.mean - want) <= 1.96 * one.sd
            assert one.mean == pytest.approx(want, abs=0.1)
            assert one.observed is None and not one.extrapolated
    assert inside >= 0.9 * 144
    for depth, step in ((5.0, 30.0), (1.0, 301.0)):
        assert all(p.extrapolated for p in predict_places(row.fit_id, fit, seen, [depth], [step]))
    only = predict_places(row.fit_id, fit, seen, [1.0], [30.0], ["mlp_up"])
    assert {one.role for one in only} == {"mlp_up"} and only[0].observed is not None
    with pytest.raises(UsageError, match=r"no role mlp_gate .*attn_q, mlp_up"):
        predict_places(row.fit_id, fit, seen, [1.0], [30.0], ["mlp_gate"])


def test_a_step_beyond_the_only_one_is_extrapolated(smooth_run: Path) -> None:
    row, fit, seen = load(store_of(smooth_run), 1)
    assert row.run == "base" and "step" not in fit.modes
    assert all(one.extrapolated for one in predict_places(1, fit, seen, [1.0], [500.0]))
    assert not any(one.extrapolated for one in predict_places(1, fit, seen, [1.0], [0.0]))


def test_a_second_scan_fits_nothing_and_needs_no_torch(smooth_run: Path) -> None:
    before = table(store_of(smooth_run), "SELECT * FROM tucker_fit ORDER BY fit_id")
    code = (
        "import sys\nimport analyzer\n"
        f"summary = analyzer.scan({str(smooth_run)!r}, analyses=['tucker'])\n"
        "assert summary.n_computed == 0 and summary.scan_id is None, summary\n"
        "assert summary.n_stored == 40 + 2 and summary.not_run == {}, summary\n"
        "print([m for m in ('torch', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    assert table(store_of(smooth_run), "SELECT * FROM tucker_fit ORDER BY fit_id") == before


def test_a_new_checkpoint_replaces_the_fit(own_smooth_run: Path, save_smooth: Callable) -> None:
    db = store_of(own_smooth_run)
    save_smooth(own_smooth_run / "run" / "checkpoint-1000", 1000)
    analyzer.scan(own_smooth_run, analyses=["tails"])
    with pytest.raises(UsageError, match="the spectra of fit 2 changed since"):
        load(db, None)
    summary = analyzer.scan(own_smooth_run, analyses=["tucker"])
    assert summary.n_computed == 1  # that of the base stays
    found = table(db, "SELECT fit_id, run, n_scans FROM tucker_fit ORDER BY fit_id")
    assert [(row["run"], row["n_scans"]) for row in found] == [("base", 8), ("run", 48)]
    numbers = {row["fit_id"] for row in found}
    for name in ("tucker_prediction", "tucker_anomaly"):
        assert {r["fit_id"] for r in table(db, f"SELECT fit_id FROM {name}")} == numbers
    files = {path.name for path in (own_smooth_run / ".analyzer-fits").iterdir()}
    assert files == {f"analyzer-{number}.safetensors" for number in numbers}
    assert load(db, None)[2].step.max() == 1000
    assert known_steps(db, "run") and set(known_steps(db, "run")) >= {10.0, 1000.0}


def test_force_fits_again_and_gives_the_same(own_smooth_run: Path) -> None:
    db, run = store_of(own_smooth_run), find_run(store_of(own_smooth_run), None)
    assert run.name == "run"
    computed, now = fit_run(db, run, QUICK)
    assert computed is not None and now and computed.fit_id == 3  # other settings, another fit
    query = "SELECT * EXCLUDE (seconds) FROM tucker_fit WHERE fit_id = 3"
    first = table(db, query)
    assert fit_run(db, run, QUICK) == (None, False)
    again, now = fit_run(db, run, QUICK, force=True)
    assert again is not None and now and again.fit_id == 3
    assert table(db, query) == first and first[0]["status"] == "not_converged"
    assert len(table(db, "SELECT * FROM tucker_anomaly WHERE fit_id = 3")) == 8


def test_a_forced_scan_fits_again(own_smooth_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refitted = []
    monkeypatch.setattr(
        fits, "fit_run", lambda db, run, settings, **given: refitted.append((run.name, given))
    )
    analyzer.scan(own_smooth_run, analyses=["tucker"], force=True)
    assert refitted == [("base", {"force": True}), ("run", {"force": True})]


def test_collapsed_and_bounds_are_reported(
    own_smooth_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = store_of(own_smooth_run)

    def collapsed(*given: Any) -> Any:
        fit = fit_spectra(*given)
        edge = tuple(replace(factor, lengthscale=10.0) for factor in fit.tucker.factors[:1])
        return replace(
            fit,
            tucker=replace(fit.tucker, explained=0.005, factors=edge + fit.tucker.factors[1:]),
        )

    monkeypatch.setattr(fits, "fit_spectra", collapsed)
    fit_run(db, find_run(db, "run"), QUICK)
    (row,) = table(db, "SELECT * FROM tucker_fit WHERE fit_id = 3")
    assert row["collapsed"] and row["status"] == "collapsed"
    assert "depth" in row["bound_hit"].split(",")


def made(values: Callable[..., np.ndarray]) -> Observations:
    axes = np.meshgrid(np.arange(6.0), [0.0, 10, 30, 100, 300], [0.0, 1, 2],
                       (np.arange(12) + 0.5) / 12, indexing="ij")  # fmt: skip
    d, s, r, q = (axis.ravel() for axis in axes)
    return Observations("run", "weight", d, s, r, q, values(d, s, r, q), ("a", "b", "c"), 90, "")


@pytest.mark.parametrize(("depth", "role"), [(2.0, 1), (4.0, 0)])
def test_a_shifted_matrix_is_the_oddest(depth: float, role: int) -> None:
    rng = np.random.default_rng(0)

    def values(d, s, r, q):
        y = 0.3 * r - 1.5 * q**2 * (1 + d / 8) + 0.1 * np.log1p(s) * (1 - q) + np.sin(d / 4)
        y = y + 0.02 * rng.normal(size=d.size)
        return y + 0.3 * ((d == depth) & (r == role) & (q < 0.25))

    seen = made(values)
    fit = fit_spectra(seen, Settings(restarts=1, max_sweeps=40))
    found = anomalies(Fitted(7, seen, fit, None))
    assert (found[0].depth, found[0].role) == (depth, "abc"[role])
    assert found[0].score > 1.3 * found[1].score
    assert [row.place for row in found] == list(range(1, 19))
    alone = fit.tucker.predict(seen.indexes(fit.modes))
    mine = (seen.depth == depth) & (seen.role == role)
    z = (seen.values - alone.mean)[mine] / alone.sd[mine]
    assert found[0].score == pytest.approx(np.sqrt(np.mean(z**2))) and found[0].n == 60


def test_too_few_depths_are_not_fitted(checkpoints: Path) -> None:
    summary = analyzer.scan(checkpoints, analyses=["tucker"])
    assert summary.not_run == {"tucker": "no weights scanned at 4 depths or more"}
    assert table(summary.db, "SELECT * FROM tucker_fit") == []


def test_spectra_without_any_structure_are_not_fitted(tmp_path: Path, save_full: Callable) -> None:
    eye = np.eye(8, dtype=np.float32)
    save_full(
        tmp_path / "m",
        {f"model.layers.{n}.mlp.up_proj.weight": eye for n in range(4)},
    )
    summary = analyzer.scan(tmp_path, analyses=["tucker"])
    assert list(summary.not_run) == ["tucker"] and "all 96 equal" in summary.not_run["tucker"]


def test_between_blocks_there_is_no_matrix(own_smooth_run: Path) -> None:
    db = store_of(own_smooth_run)
    settings = replace(QUICK, modes=("step", "matrix", "quantile"))
    fitted, _ = fit_run(db, find_run(db, "run"), settings)
    assert fitted is not None and fitted.fit.modes == ("step", "matrix", "quantile")
    known = predict_places(3, fitted.fit, fitted.seen, [1.0], [30.0])
    between = predict_places(3, fitted.fit, fitted.seen, [0.5], [30.0])
    assert not any(one.extrapolated for one in known) and all(o.extrapolated for o in between)


def test_what_is_not_there(own_smooth_run: Path) -> None:
    db = store_of(own_smooth_run)
    with pytest.raises(UsageError, match="no such fit"):
        load(db, 99)
    with pytest.raises(UsageError, match=r"no run or checkpoint named nope .*base, run"):
        find_run(db, "nope")
    (own_smooth_run / ".analyzer-fits" / "analyzer-2.safetensors").unlink()
    with pytest.raises(UsageError, match=r"the file of fit 2 is gone .*fit again"):
        load(db, 2)


def test_the_base_brings_no_step_of_its_own_training(own_smooth_run: Path) -> None:
    db = own_smooth_run / "analyzer.duckdb"
    before = sorted(known_steps(db, "run"))
    with duckdb.connect(db) as connection:
        connection.execute("UPDATE checkpoint SET step = 9999 WHERE name = 'base'")
    assert sorted(known_steps(db, "run")) == before == [10, 30, 100, 300]


def test_fits_side_by_side_have_numbers_of_their_own(
    own_smooth_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    db, both = own_smooth_run / "analyzer.duckdb", threading.Barrier(2)
    runs = [find_run(db, "run"), find_run(db, "run")]
    settings = [Settings(seed=11), Settings(seed=12)]
    real = fits.fit_spectra

    def together(*arguments: Any) -> Any:
        found = real(*arguments)
        both.wait(timeout=60)
        return found

    monkeypatch.setattr(fits, "fit_spectra", together)
    with ThreadPoolExecutor(2) as pool:
        made = [f for f, _ in pool.map(lambda a: fit_run(db, *a), zip(runs, settings, strict=True))]
    numbers = [one.fit_id for one in made if one is not None]
    assert len(set(numbers)) == 2
    for number in numbers:
        assert load(db, number)[0].fit_id == number
