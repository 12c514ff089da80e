"""Which scan tells most, and that pretended scans can only tell."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from analyzer.models.funbat.factors import posterior_at
from analyzer.models.spectral_tensor.fitting import SpectraFit, fit_spectra
from analyzer.models.spectral_tensor.pretending import with_scans
from analyzer.models.spectral_tensor.settings import Settings
from analyzer.models.spectral_tensor.suggestion import suggest

QUICK = Settings(restarts=1, max_sweeps=40)


def places(depths, steps, seen) -> dict[Any, np.ndarray]:
    axes = np.meshgrid(depths, steps, [0.0, 1.0], np.unique(seen.quantile), indexing="ij")
    d, s, r, q = (axis.ravel() for axis in axes)
    return {"depth": d, "step": s, "role": r, "quantile": q, "matrix": seen.matrix_at(d, r)}


def test_the_largest_gap_comes_first(observed) -> None:
    seen = observed((0, 10, 20, 1000), (0, 1, 2, 3))
    found = suggest(fit_spectra(seen, QUICK), seen)
    assert found[0].what == "step" and 20 < found[0].value < 1000
    assert found[0].value == round(np.expm1((np.log1p(20) + np.log1p(1000)) / 2))
    assert {one.value for one in found} == {2.0, 14.0, found[0].value}
    assert found[0].reduction > 0.1
    assert all(0 <= one.reduction < 1 for one in found)
    assert all(a.reduction >= b.reduction for a, b in pairwise(found))


def test_steps_that_are_there_are_candidates(observed) -> None:
    seen = observed((0, 10, 20, 1000), (0, 1, 2, 3))
    found = suggest(fit_spectra(seen, QUICK), seen, known_steps=[20.0, 400.0])
    assert 400.0 in {one.value for one in found} and 20.0 not in {one.value for one in found}


def test_missing_layers(observed) -> None:
    seen = observed((10,), (0, 1, 5, 6))
    calls = []
    found = suggest(
        fit_spectra(seen, QUICK), seen, progress=lambda done, total: calls.append((done, total))
    )
    assert {one.what for one in found} == {"depth"}
    assert found[0].value == 3.0  # the middle of the gap
    assert {one.value for one in found} == {2.0, 3.0, 4.0}
    assert all(one.reduction > 0 for one in found)
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_no_gap_no_suggestion(observed) -> None:
    seen = observed((10,), (0, 1, 2, 3))
    assert suggest(fit_spectra(seen, QUICK), seen) == []


@pytest.fixture
def fitted(observed) -> tuple[SpectraFit, Any]:
    seen = observed((0, 10, 100, 1000), (0, 1, 3, 4))
    return fit_spectra(seen, QUICK), seen


@pytest.mark.parametrize(("depths", "steps"), [([0, 1, 3, 4], [300.0]), ([2.0], [0, 10, 100])])
def test_pretended_scans_shrink_spreads_and_move_no_mean(fitted, depths, steps) -> None:
    fit, seen = fitted
    added = places(depths, steps, seen)
    after = with_scans(fit, added)
    everywhere = places([0, 1, 2, 3, 4], [0, 5, 30, 300, 600, 1000], seen)
    old, new = fit.predict(everywhere), after.predict(everywhere)
    np.testing.assert_allclose(new.mean, old.mean, atol=1e-7)
    assert np.all(new.sd_function <= old.sd_function * (1 + 1e-6) + 1e-9)
    here_old, here_new = fit.predict(added), after.predict(added)
    assert here_new.sd_function.mean() < 0.7 * here_old.sd_function.mean()


def test_pretended_precision_is_that_of_the_messages(fitted) -> None:
    """One entry: Λ grows by τ E[aaᵀ] at its index, a = E[W] ⊗ (1, u) of the other modes."""
    fit, seen = fitted
    tucker = fit.tucker
    one = {mode: values[:1] for mode, values in places([2.0], [30.0], seen).items()}
    wider = with_scans(fit, one).tucker
    x = fit.columns(one)
    moments = []
    for k, (mode, factor) in enumerate(zip(tucker.modes, tucker.factors, strict=True)):
        mean = np.concatenate([[1.0], tucker.functions(k, x[:, k]).mean[0]])
        cov = np.zeros((mean.size, mean.size))
        if mode.kernel == "iid":
            row = int(np.flatnonzero(mode.grid == x[0, k])[0])
            cov[1:, 1:] = factor.cov[row]
        else:
            cov[1:, 1:] = posterior_at(mode, factor, mode.scaled(x[:, k]))[1][0]
        moments.append(cov + np.outer(mean, mean))
    core = tucker.tucker_core
    second = (core.cov + np.outer(core.mean, core.mean)).reshape(core.mean.shape * 2)
    tau = tucker.noise.precision[0]  # of the first quantile
    subscripts = "abcdefgh,bf,cg,dh->ae"  # depth against step, role, quantile
    want = tau * np.einsum(subscripts, second, *moments[1:], optimize=True)[1:, 1:]
    place = int(np.flatnonzero(np.isclose(wider.modes[0].grid, 0.5))[0])
    np.testing.assert_allclose(wider.factors[0].precision[place], want, rtol=1e-8)
