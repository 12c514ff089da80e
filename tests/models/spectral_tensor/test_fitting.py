"""Fits of smooth spectra: what they predict, what they call odd, how they are judged."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from analyzer.errors import UsageError
from analyzer.models.spectral_tensor.fitting import fit_spectra, refit_residual
from analyzer.models.spectral_tensor.holdout import hold_out
from analyzer.models.spectral_tensor.settings import Settings

STEPS, DEPTHS = (0, 10, 30, 100, 300), (0, 1, 2, 4, 5)
QUICK = Settings(restarts=1, max_sweeps=60)


def noisy(depth: float, step: float, role: int, q: np.ndarray) -> np.ndarray:
    t, d = np.log1p(step) / 8, depth / 4
    rng = np.random.default_rng([int(depth), int(step), role])
    smooth = 0.3 * role - 1.5 * q**2 * (1 + d / 2) + 0.4 * np.sin(3 * t) * (1 - q) + np.sin(d)
    return smooth + 0.02 * rng.normal(size=q.size)


def truth(places: dict[str, np.ndarray]) -> np.ndarray:
    t, d, q = np.log1p(places["step"]) / 8, places["depth"] / 4, places["quantile"]
    return (0.3 * places["role"] - 1.5 * q**2 * (1 + d / 2)
            + 0.4 * np.sin(3 * t) * (1 - q) + np.sin(d))  # fmt: skip


def grid(depths, steps, quantiles) -> dict[Any, np.ndarray]:
    axes = np.meshgrid(depths, steps, [0.0, 1.0], quantiles, indexing="ij")
    return dict(zip(("depth", "step", "role", "quantile"), (a.ravel() for a in axes), strict=True))


def test_unscanned_depths_and_steps_lie_within_the_interval(observed) -> None:
    seen = observed(STEPS, DEPTHS, truth=noisy, n_quantiles=20)  # no averaging of the noise
    fit = fit_spectra(seen, QUICK)
    assert fit.modes == ("depth", "step", "role", "quantile") and fit.residual is not None
    q = np.unique(seen.quantile)
    for depths, steps in (([3.0], STEPS), (DEPTHS, [55.0])):
        places = grid(depths, steps, q)
        found = fit.predict(places)
        wrong = np.abs(found.mean - truth(places))
        assert np.mean(wrong <= 1.96 * found.sd) >= 0.95
        assert np.sqrt(np.mean(wrong**2)) < 0.05
        assert np.all(found.sd < 0.3)  # the interval says something
        assert not found.extrapolated.any()
    beyond = fit.predict(grid([6.0], [10.0], q))
    assert beyond.extrapolated.all()
    at = fit.at(seen)
    assert np.sqrt(np.mean((at.mean - seen.values) ** 2)) < 0.025


def test_equal_seeds_give_equal_fits(observed) -> None:
    seen = observed(STEPS[:3], DEPTHS)
    settings = replace(QUICK, max_sweeps=10)
    one, two = fit_spectra(seen, settings), fit_spectra(seen, settings)
    np.testing.assert_array_equal(one.at(seen).mean, two.at(seen).mean)
    other = fit_spectra(seen, replace(settings, seed=1))
    assert np.any(other.at(seen).mean != one.at(seen).mean)
    again = refit_residual(one.tucker, one.modes, seen)
    np.testing.assert_array_equal(again.at(seen).mean, one.at(seen).mean)


def test_modes_that_do_not_vary_are_dropped_and_ranks_capped(observed) -> None:
    seen = observed((10,), (0, 1, 2, 3))
    fit = fit_spectra(seen, Settings(ranks=(9, 2, 1, 3), restarts=1, max_sweeps=5))
    assert fit.modes == ("depth", "role", "quantile") and fit.residual is None
    assert fit.tucker.ranks == (4, 1, 3)
    with pytest.raises(UsageError, match="leave nothing to fit"):
        fit_spectra(seen, Settings(modes=("depth", "step")))
    by_matrix = fit_spectra(seen, Settings(modes=("matrix", "quantile"), restarts=1, max_sweeps=5))
    assert by_matrix.tucker.ranks == (6, 5)
    assert [mode.kernel for mode in by_matrix.tucker.modes] == ["iid", "matern32"]


def test_hold_out_numbers(observed) -> None:
    seen = observed(STEPS, DEPTHS, truth=noisy)
    found = hold_out(seen, QUICK)
    assert found is not None and found.along == "step"
    # a fifth of 5 depths × 3 inner steps, for both roles
    assert found.n_scans == 6 and found.n_values == 6 * 8
    pairs = sorted({(d, s) for d, s in zip(seen.depth, seen.step, strict=True)})
    inner = [pair for pair in pairs if 0 < pair[1] < 300]
    chosen = np.random.default_rng(QUICK.seed).choice(len(inner), 3, replace=False)
    held_pairs = {inner[n] for n in chosen}
    held = np.array([(d, s) in held_pairs for d, s in zip(seen.depth, seen.step, strict=True)])
    fit = fit_spectra(seen.where(~held), QUICK)
    asked = seen.where(held)
    p = fit.at(asked)
    wrong, low = p.mean - asked.values, asked.quantile < 0.9
    assert found.rmse == pytest.approx(np.sqrt(np.mean(wrong[low] ** 2)), rel=1e-12)
    assert found.rmse_all == pytest.approx(np.sqrt(np.mean(wrong**2)), rel=1e-12)
    assert found.coverage == pytest.approx(np.mean(np.abs(wrong) <= 1.96 * p.sd))
    line = []
    for d, s, r, q, y in zip(
        asked.depth, asked.step, asked.role, asked.quantile, asked.values, strict=True
    ):
        mine = ~held & (seen.depth == d) & (seen.role == r) & (seen.quantile == q)
        order = np.argsort(seen.step[mine])
        times, values = np.log1p(seen.step[mine][order]), seen.values[mine][order]
        line.append(np.interp(np.log1p(s), times, values) - y)
    line = np.array(line)
    assert found.baseline_rmse == pytest.approx(np.sqrt(np.mean(line[low] ** 2)), rel=1e-12)
    assert found.baseline_rmse_all == pytest.approx(np.sqrt(np.mean(line**2)), rel=1e-12)


def test_layers_are_held_out_where_there_is_one_step_and_nothing_where_too_few(observed) -> None:
    seen = observed((10,), (0, 1, 2, 3, 4))
    found = hold_out(seen, replace(QUICK, max_sweeps=10))
    assert found is not None and found.along == "depth" and found.n_scans == 2
    assert hold_out(seen.where(seen.depth < 3), QUICK) is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"modes": ("depth", "width")}, "choose once each"),
        ({"modes": ("depth", "depth")}, "choose once each"),
        ({"modes": ("depth", "matrix")}, "leave those out"),
        ({"ranks": (1, 2)}, "2 ranks for 4 modes"),
    ],
)
def test_settings_that_make_no_sense(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Settings(**given)
