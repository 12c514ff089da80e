"""Fits from user units to predictions: recovery, coverage, seeds, options, bad input."""

from dataclasses import replace

import numpy as np
import pytest
import tensorly as tl

from analyzer.errors import UsageError
from analyzer.models.funbat import (
    BadInput,
    MessagePassing,
    Variational,
    canonical_form,
    fit_funbat,
    tucker_tensor,
)
from theory.state_space import covariance

SHORT = Variational(max_sweeps=25, restarts=1)


@pytest.mark.parametrize(
    "kw",
    [
        {},
        {"core": "diagonal"},
        {"constant": True},
        {"noise_mode": 2},
        {"kernel": ("matern52", "matern32", "iid"), "constant": True},
    ],
    ids=str,
)
def test_recovers_a_smooth_function_in_user_units(smooth_data, kw):
    x, f, y = smooth_data
    train, test = slice(0, 300), slice(300, 400)
    fit = fit_funbat(x[train], y[train], 2, **({"inference": SHORT} | kw))
    mean, sd = fit.predict(x[test])
    assert np.sqrt(np.mean((mean - f[test]) ** 2)) < 0.06
    assert np.mean(np.abs(mean - y[test]) < 1.96 * sd) >= 0.88
    assert 0.07 < np.median(fit.noise_sd) < 0.13
    assert fit.noise_sd.size == (6 if "noise_mode" in kw else 1)
    assert np.diff(fit.elbo_trace).min() > -1e-8 * abs(fit.elbo_trace[-1])
    assert fit.explained > 0.97 and not fit.collapsed


def test_units_do_not_matter(smooth_data):
    x, _, y = smooth_data
    a = fit_funbat(x, y, 2, inference=SHORT)
    b = fit_funbat(1e3 * x - 5e4, -20.0 + 0.01 * y, 2, inference=SHORT)
    found, scaled = a.predict(x), b.predict(1e3 * x - 5e4)
    np.testing.assert_allclose(scaled.mean, -20.0 + 0.01 * found.mean, rtol=1e-7)
    np.testing.assert_allclose(scaled.sd, 0.01 * found.sd, rtol=1e-6)
    np.testing.assert_allclose(b.lengthscales, 1e3 * np.array(a.lengthscales), rtol=1e-6)


def drawn(seed, n, points=51):
    """x, f, y of a Tucker model of rank 2, Matérn-3/2 functions, on a grid; noise sd 0.2."""
    rng, grid = np.random.default_rng(seed), np.linspace(0, 1, points)
    K = covariance("matern32", np.subtract.outer(grid, grid), 0.4)
    L = np.linalg.cholesky(K + 1e-9 * np.eye(points))
    cells = rng.integers(0, points, (n, 3))
    U = [(L @ rng.normal(size=(points, 2)))[cells[:, k]] for k in range(3)]
    f = np.einsum("abc,na,nb,nc->n", rng.normal(size=(2, 2, 2)), *U)
    return grid[cells], f, f + 0.2 * rng.normal(size=n)


def test_intervals_of_data_drawn_from_the_model():
    """Pooled over 20 draws, 95 % intervals of y and of f hold 93 to 97 times in 100."""
    inside, inside_f = [], []
    settings = Variational(max_sweeps=40, restarts=4)
    for seed in range(20):
        x, f, y = drawn(seed, 1000)
        fit = fit_funbat(x[:700], y[:700], 2, center=False, inference=settings)
        found = fit.predict(x[700:])
        inside.append(np.abs(found.mean - y[700:]) < 1.96 * found.sd)
        inside_f.append(np.abs(found.mean - f[700:]) < 1.96 * found.sd_function)
    assert 0.93 <= np.mean(inside) <= 0.97
    assert 0.93 <= np.mean(inside_f) <= 0.97


def test_noise_held_at_first_keeps_weak_functions():
    """Noise that is learned from the start drowns the second functions here in every start."""
    x, f, y = drawn(12, 1000, points=101)
    settings = Variational(max_sweeps=40, restarts=4)
    fit = fit_funbat(x[:700], y[:700], 2, center=False, inference=settings)
    learned, held = fit.restart_elbos[::2], fit.restart_elbos[1::2]
    assert max(held) > max(learned) + 100.0 and fit.elbo_trace[-1] == max(held)
    assert 0.19 < fit.noise_sd[0] < 0.21
    found = fit.predict(x[700:])
    assert 0.9 < np.mean(np.abs(found.mean - f[700:]) < 1.96 * found.sd_function) < 0.98


def test_most_starts_are_followed_for_a_while_only():
    x, _, y = drawn(1, 300)
    seen = []
    settings = Variational(max_sweeps=40, restarts=5, tolerance=0.0)
    fit = fit_funbat(x, y, 2, inference=settings, progress=seen.append)
    sweeps = [max(p.sweep for p in seen if p.restart == j) for j in range(5)]
    at_25 = [next(p.elbo for p in seen if (p.restart, p.sweep) == (j, 25)) for j in range(5)]
    followed = np.argsort(at_25)[-2:]
    assert sorted(sweeps) == [25, 25, 25, 40, 40] and all(sweeps[j] == 40 for j in followed)
    assert fit.elbo_trace[-1] == max(fit.restart_elbos) and fit.n_sweeps == 40


@pytest.mark.parametrize("kw", [{}, {"core": "diagonal"}], ids=["tucker", "cp"])
def test_a_constant_is_learned(kw):
    """Values of rank 2 and a constant: subtracting the sample mean alone would leave rank 3."""
    x, f, y = drawn(16, 1000)
    if kw:
        u, v, w = (np.sin((k + 2) * x[:, k] + 1) for k in range(3))
        f, noise = 2 * u * v * w + x[:, 0] * x[:, 1], y - f
        y = f + noise
    settings = Variational(max_sweeps=60, restarts=2)
    errors = []
    for center, constant in ((False, 0.0), (True, 40.0)):
        fit = fit_funbat(x[:700], y[:700] + constant, 2, center=center, inference=settings, **kw)
        assert np.diff(fit.elbo_trace).min() > -1e-8 * abs(fit.elbo_trace[-1])
        found = fit.predict(x[700:])
        errors.append(np.sqrt(np.mean((found.mean - constant - f[700:]) ** 2)))
        assert 0.19 < fit.noise_sd[0] < 0.22
        residual = y[:700] + constant - fit.predict(x[:700]).mean
        explained = 1 - np.sum(residual**2) / np.sum((y[:700] - y[:700].mean() * center) ** 2)
        assert fit.explained == pytest.approx(explained, abs=1e-6)
    assert errors[1] < 1.15 * errors[0]


def test_a_diagonal_core_is_a_sum_of_products(smooth_data):
    x, _, y = smooth_data
    fit = fit_funbat(x, y, 3, core="diagonal", inference=SHORT)
    U = [fit.functions(k, x[:, k]).mean for k in range(3)]
    expected = fit.value_mean + fit.value_sd * (U[0] * U[1] * U[2]).sum(1)
    np.testing.assert_allclose(fit.predict(x).mean, expected, atol=1e-10)
    assert fit.core.shape == (3, 3, 3) and fit.core.sum() == 3.0 and not fit.core_cov.any()
    with_core = np.einsum("abc,na,nb,nc->n", fit.core, *U)
    np.testing.assert_allclose(fit.value_mean + fit.value_sd * with_core, expected, atol=1e-10)


def test_functions_and_unseen_indexes(smooth_data):
    x, _, y = smooth_data
    fit = fit_funbat(x, y, 2, kernel=("matern32", "matern32", "iid"), inference=SHORT)
    seen = fit.functions(1)
    np.testing.assert_allclose(seen.indexes, np.unique(x[:, 1]), rtol=1e-12)
    again = fit.functions(1, seen.indexes[:5])
    np.testing.assert_allclose(again.mean, seen.mean[:5], atol=1e-7)
    np.testing.assert_allclose(again.sd, seen.sd[:5], rtol=1e-6)
    far = fit.functions(0, [1e4])
    np.testing.assert_allclose(far.mean, 0.0, atol=1e-12)
    np.testing.assert_allclose(far.sd, 1.0)
    label = fit.functions(2, [77.0])  # never observed: the prior
    assert not label.mean.any() and (label.sd == 1.0).all()
    found = fit.predict([[105.0, 1.0, 0.0], [105.0, 1.0, 77.0], [1e4, 1.0, 0.0]])
    assert found.extrapolated.tolist() == [False, True, True]
    assert found.mean[2] == pytest.approx(fit.value_mean)
    assert found.sd[0] < found.sd[1] and (found.sd_function < found.sd).all()


def test_equal_seeds_give_equal_fits(smooth_data):
    x, _, y = smooth_data
    settings = Variational(max_sweeps=8, restarts=3)
    a, b = (fit_funbat(x, y, 2, inference=settings, seed=7) for _ in range(2))
    c = fit_funbat(x, y, 2, inference=settings, seed=8)
    assert a.restart_elbos == b.restart_elbos and a.elbo_trace == b.elbo_trace
    assert (a.predict(x).mean == b.predict(x).mean).all()
    assert a.restart_elbos != c.restart_elbos
    assert len(set(a.restart_elbos)) == 3 and a.elbo_trace[-1] == max(a.restart_elbos)


def test_progress_and_convergence(smooth_data):
    x, _, y = smooth_data
    seen = []
    settings = Variational(max_sweeps=200, restarts=2, tolerance=1e-3)
    fit = fit_funbat(x, y, 1, inference=settings, progress=seen.append)
    assert fit.converged and fit.n_sweeps < 200 and not any("converged" in w for w in fit.warnings)
    assert [p.restart for p in seen] == sorted(p.restart for p in seen)
    assert {p.restart for p in seen} == {0, 1}
    assert fit.elbo_trace[-1] in [p.elbo for p in seen]
    last = np.diff(fit.elbo_trace[-5:])
    assert (np.abs(last) < 1e-3 * np.maximum(np.abs(fit.elbo_trace[-4:]), 400)).all()
    before = np.diff(fit.elbo_trace[-6:-1])
    assert (np.abs(before) >= 1e-3 * np.maximum(np.abs(fit.elbo_trace[-5:-1]), 400)).any()


def test_published_message_passing(smooth_data):
    x, f, y = smooth_data
    lengths = (3.0, 1.0, 3.0)
    cp, tucker = (
        fit_funbat(x, y, 2, core=core, lengthscales=lengths, inference=MessagePassing(epochs=100))
        for core in ("diagonal", "full")
    )
    for fit in (cp, tucker):
        assert fit.method == "message-passing" and fit.n_sweeps == 100
        np.testing.assert_allclose(fit.lengthscales, lengths)  # not learned
    assert np.sqrt(np.mean((cp.predict(x).mean - f) ** 2)) < 0.15
    # From functions that all start in (0, 1) a full core stays near rank 1; smooth draws do not.
    settings = Variational(max_sweeps=25, restarts=1, learn_lengthscales=False, a0=1.0, b0=1.0)
    better = fit_funbat(x, y, 2, lengthscales=lengths, inference=settings)
    assert better.elbo_trace[-1] > tucker.elbo_trace[-1] + 100.0
    assert np.sqrt(np.mean((better.predict(x).mean - f) ** 2)) < 0.1


def test_tensorly_start_and_tucker_tensor():
    rng = np.random.default_rng(0)
    grid = np.array(np.meshgrid(np.arange(8.0), np.arange(7.0), np.arange(6.0), indexing="ij"))
    x = grid.reshape(3, -1).T
    f = np.sin(x[:, 0] / 2) * np.cos(x[:, 1] / 3) + 0.1 * x[:, 2] * np.cos(x[:, 0])
    keep = rng.random(len(f)) < 0.6
    for core in ("full", "diagonal"):
        fit = fit_funbat(
            x[keep], f[keep], 2, core=core, center=False, inference=SHORT, initial="tensorly"
        )
        assert np.sqrt(np.mean((fit.predict(x[~keep]).mean - f[~keep]) ** 2)) < 0.02
        tensor = fit.value_mean + fit.value_sd * tl.tucker_to_tensor(tucker_tensor(fit))
        np.testing.assert_allclose(tensor.ravel(), fit.predict(x).mean, atol=1e-6)


@pytest.mark.parametrize("kw", [{}, {"core": "diagonal"}, {"constant": True}], ids=str)
def test_canonical_form(smooth_data, kw):
    x, _, y = smooth_data
    fit = fit_funbat(x, y, 2, inference=Variational(max_sweeps=5, restarts=1), **kw)
    form = canonical_form(fit)
    np.testing.assert_allclose(
        tl.tucker_to_tensor((form.core, list(form.factors))),
        tl.tucker_to_tensor(tucker_tensor(fit)),
        atol=1e-10,
    )
    for k, U in enumerate(form.factors):
        np.testing.assert_allclose(U.T @ U / len(U), np.eye(U.shape[1]), atol=1e-10)
        assert (U.max(0) >= -U.min(0)).all()
        slices = np.moveaxis(form.core, k, 0).reshape(form.core.shape[k], -1)
        norms = np.linalg.norm(slices, axis=1)
        assert (np.diff(norms) <= 1e-10).all()
        off = slices @ slices.T - np.diag(norms**2)
        np.testing.assert_allclose(off, 0.0, atol=1e-9)


def test_what_a_fit_reports():
    rng = np.random.default_rng(0)
    x, noise = rng.random((150, 2)), rng.normal(size=150)
    noise[:3] = np.nan
    fit = fit_funbat(x, noise, 1, inference=Variational(max_sweeps=40, restarts=1))
    assert fit.n_missing == 3 and fit.n_observations == 147
    assert fit.warnings[0] == "3 NaN values were dropped"
    assert not any("ELBO" in warning for warning in fit.warnings)
    fallen = replace(fit, elbo_trace=(*fit.elbo_trace, fit.elbo_trace[-1] - 1.0))
    assert any("ELBO fell" in warning for warning in fallen.warnings)
    steep = np.column_stack([rng.random(200), rng.integers(0, 2, 200)])
    line = fit_funbat(steep, steep[:, 0] + steep[:, 1] + 0.01 * rng.normal(size=200), 2,
                      inference=Variational(max_sweeps=80, restarts=1))  # fmt: skip
    assert line.bound_hit == tuple(f"mode {k}" in " ".join(line.warnings) for k in range(2))
    fixed = Variational(max_sweeps=60, restarts=1, learn_lengthscales=False)
    flat = fit_funbat(x, rng.normal(size=150), 1, lengthscales=1e3, inference=fixed)
    assert flat.explained < 0.05
    assert flat.collapsed == (flat.explained < 0.01) == any("collapsed" in w for w in flat.warnings)


def test_one_index_in_a_mode_and_repeated_rows(smooth_data):
    x, _, y = smooth_data
    x = np.column_stack([x[:, :2], np.full(400, 4.0)])
    twice = np.concatenate([x, x]), np.concatenate([y, y])
    fit = fit_funbat(*twice, (2, 2, 1), inference=SHORT)
    assert fit.n_observations == 800 and fit.lengthscales[2] == 0.3 and not fit.bound_hit[2]
    assert np.isfinite(fit.predict(x).sd).all()
    assert fit.functions(2).indexes.tolist() == [4.0]


BAD = {
    "at least 2 columns": lambda x, y: fit_funbat(x[:, :1], y, 1),
    "must hold one number a row": lambda x, y: fit_funbat(x, y[:-1], 1),
    "are not finite": lambda x, y: fit_funbat(np.where(x > 109, np.nan, x), y, 1),
    "1 are infinite": lambda x, y: fit_funbat(x, np.where(np.arange(400) == 5, np.inf, y), 1),
    "at least 2 that are not NaN": lambda x, y: fit_funbat(x, np.full(400, np.nan), 1),
    "nothing to fit": lambda x, y: fit_funbat(x, np.ones(400), 1),
    "shape \\(N, K\\)": lambda x, y: fit_funbat([], [], 1),
    "7 in mode 2, which has 6": lambda x, y: fit_funbat(x, y, 7),
    "ranks: 0 in mode 0": lambda x, y: fit_funbat(x, y, 0),
    "ranks: 1.5 is not an integer": lambda x, y: fit_funbat(x, y, 1.5),
    "ranks: 2 given for 3 modes": lambda x, y: fit_funbat(x, y, (1, 2)),
    "one rank for all modes": lambda x, y: fit_funbat(x, y, (1, 2, 1), core="diagonal"),
    "kernel: 'rbf' is none of": lambda x, y: fit_funbat(x, y, 1, "rbf"),
    "lengthscales: -1.0": lambda x, y: fit_funbat(x, y, 1, lengthscales=-1.0),
    "noise_mode: 3": lambda x, y: fit_funbat(x, y, 1, noise_mode=3),
    "core: 'cp'": lambda x, y: fit_funbat(x, y, 1, core="cp"),
    "initial: 'svd'": lambda x, y: fit_funbat(x, y, 1, initial="svd"),
    "% of the grid is observed": lambda x, y: fit_funbat(x, y, 1, initial="tensorly"),
    "constant: a diagonal": lambda x, y: fit_funbat(x, y, 1, core="diagonal", constant=True),
}


@pytest.mark.parametrize("message", sorted(BAD))
def test_bad_input(smooth_data, message):
    x, _, y = smooth_data
    with pytest.raises(BadInput, match=message) as caught:
        BAD[message](x, y)
    assert isinstance(caught.value, ValueError) and isinstance(caught.value, UsageError)
    assert "\n" not in str(caught.value)


def test_bad_predictions(smooth_data):
    x, _, y = smooth_data
    fit = fit_funbat(x, y, 1, inference=Variational(max_sweeps=2, restarts=1))
    with pytest.raises(BadInput, match=r"shape \(N, 3\), got \(400, 2\)"):
        fit.predict(x[:, :2])
    with pytest.raises(BadInput, match="not finite"):
        fit.predict([[0.0, np.inf, 0.0]])
    with pytest.raises(BadInput, match="mode 3 does not exist"):
        fit.functions(3)
