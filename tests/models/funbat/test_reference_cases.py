"""Fully specified fits to their printed digits, and accuracy on functions that are known."""

from dataclasses import replace

import numpy as np
import pytest

from analyzer.models.funbat import Variational, factors, fit_funbat
from analyzer.models.funbat.core import Noise
from analyzer.models.funbat.entries import Mode
from analyzer.models.funbat.factors import posterior_at
from analyzer.models.funbat.initialise import start_from
from analyzer.models.funbat.message_passing import MessagePassing, pass_messages
from analyzer.models.funbat.messages import contract, moments
from analyzer.models.funbat.prediction import function_moments
from analyzer.models.funbat.state import all_moments, make_problem, weighted_sums
from analyzer.models.funbat.variational import sweep

SPECIFIED = {
    "tucker": {
        "ranks": (1, 2, 2),
        "precision": [[5.458569373662849]],
        "linear": [-1.2532767635433446],
        "bounds": [-36.6417510656, -34.3465902837, -33.0789276705],
        "tau": [7.36539981887, 5.73138948422, 4.56509214215],
        "predicted": (0.471136102952, 0.193092367095),
    },
    "cp": {
        "ranks": (2, 2, 2),
        "precision": [
            [19.333433043191764, 8.786913715097626],
            [8.786913715097626, 8.246894059326937],
        ],
        "linear": [-2.163032853441678, 0.5204142206601061],
        "bounds": [-31.9530166642, -28.292188205, -27.2490737466],
        "tau": [8.91345697657, 8.33815452676, 7.88989609093],
        "predicted": (0.641948192627, 0.146144910837),
    },
}


def specified(name):
    """Twelve entries on grids of 4, 5 and 6 points, a stated start, no learned scales."""
    ranks, n = SPECIFIED[name]["ranks"], np.arange(12)
    modes = [Mode("matern32", ranks[k], np.linspace(0, 1, 4 + k), 0.0, 1.0) for k in range(3)]
    rows = [((n * (k + 1) + k) % (4 + k)).astype(np.int32) for k in range(3)]
    x0, x1, x2 = (mode.grid[row] for mode, row in zip(modes, rows, strict=True))
    y = np.sin(3 * x0) + x1 * x2 - 0.5 * np.cos(2 * x2)
    np.testing.assert_allclose(y[:3], [-0.2483533547, 1.7995444031, 0.5609440722], atol=1e-10)
    problem = make_problem(
        modes, rows, y, diagonal=name == "cp", constant=False, noise_mode=None, a0=1e-3, b0=1e-3
    )
    means = [
        np.cos(np.arange(1, m.rank + 1) * (m.grid[:, None] + k + 1)) for k, m in enumerate(modes)
    ]
    core = None if name == "cp" else 1 / (1 + np.arange(4.0)).reshape(ranks)
    start = start_from(problem, [0.5] * 3, means, core, core_variance=0.01)
    return problem, start


@pytest.mark.parametrize("dense_size", [0, 150], ids=["scan", "dense"])
@pytest.mark.parametrize("name", sorted(SPECIFIED))
def test_specified_fit(name, dense_size, monkeypatch):
    monkeypatch.setattr(factors, "DENSE_SIZE", dense_size)
    expected = SPECIFIED[name]
    problem, posterior = specified(name)
    first = weighted_sums(
        problem, all_moments(problem, posterior), 0, Noise(np.array([10.0]), np.ones(1))
    )
    Lam, eta = contract(first, posterior.core, 0, problem.ranks[0])
    np.testing.assert_allclose(Lam[0], expected["precision"], rtol=1e-12)
    np.testing.assert_allclose(eta[0], expected["linear"], rtol=1e-12)
    for bound, tau in zip(expected["bounds"], expected["tau"], strict=True):
        posterior, found = sweep(problem, posterior, lengthscales=False, prior_variance=False)
        assert found == pytest.approx(bound, abs=1e-9)
        assert posterior.noise.precision[0] == pytest.approx(tau, rel=1e-10)
    at = np.array([0.37])
    known = [
        moments(*posterior_at(mode, factor, at), False)
        for mode, factor in zip(problem.modes, posterior.factors, strict=True)
    ]
    mean, variance = function_moments(posterior.core, known, [np.zeros(1, dtype=np.intp)] * 3)
    assert (mean[0], variance[0]) == pytest.approx(expected["predicted"], abs=1e-11)


@pytest.mark.parametrize("name", sorted(SPECIFIED))
def test_undamped_message_passing_is_coordinate_ascent(name):
    problem, start = specified(name)
    undamped = MessagePassing(3, 0.0, 0.0, 0.0)
    run = pass_messages(problem, start, undamped, lambda *_: None)
    np.testing.assert_allclose(run.elbo_trace, SPECIFIED[name]["bounds"], atol=1e-9)


def two_products():
    """1700 points on a grid of hundredths, f of multilinear rank 2, noise of sd 0.05."""
    n = np.arange(1, 1701)
    x = np.round(n[:, None] * (np.sqrt([2, 3, 5]) - 1) / [1, 1, 2] % 1, 2)
    f = np.sin(2 * np.pi * x[:, 0]) * np.cos(3 * x[:, 1]) * (1 + x[:, 2])
    f += 0.5 * np.cos(4 * x[:, 0]) * x[:, 1] ** 2 * np.sin(5 * x[:, 2])
    return x, f, f + 0.05 * np.sqrt(2) * np.sin(997 * n)


@pytest.mark.parametrize("kernel", ["matern32", "matern52"])
def test_recovers_a_sum_of_two_products(kernel):
    x, f, y = two_products()
    settings = Variational(max_sweeps=60, restarts=2)
    fit = fit_funbat(x[:1200], y[:1200], 2, kernel, center=False, inference=settings)
    found = fit.predict(x[1200:])
    assert np.sqrt(np.mean((found.mean - f[1200:]) ** 2)) < 0.010
    assert 0.047 < fit.noise_sd[0] < 0.055
    assert np.mean(np.abs(found.mean - f[1200:]) < 1.96 * found.sd_function) >= 0.90
    assert np.mean(np.abs(found.mean - y[1200:]) < 1.96 * found.sd) >= 0.90
    assert np.diff(fit.elbo_trace).min() > -1e-8 * abs(fit.elbo_trace[-1])
    assert fit.elbo_trace[-1] == max(fit.restart_elbos)


def test_noise_free_product():
    """The published synthetic function, f = sin²(2πx)cos(2πx) · e^{-2z} sin(1.5πz)."""
    rng = np.random.default_rng(0)
    x = rng.random((900, 2))
    wave = np.sin(2 * np.pi * x[:, 0]) ** 2 * np.cos(2 * np.pi * x[:, 0])
    f = wave * np.exp(-2 * x[:, 1]) * np.sin(1.5 * np.pi * x[:, 1])
    settings = Variational(restarts=1)
    fit = fit_funbat(x[:675], f[:675], 1, core="diagonal", center=False, inference=settings)
    assert np.sqrt(np.mean((fit.predict(x[675:]).mean - f[675:]) ** 2)) < 2e-5


@pytest.mark.parametrize("kw", [{}, {"core": "diagonal"}], ids=["tucker", "cp"])
def test_same_fit_whatever_the_order_and_the_back_end(kw, monkeypatch):
    x, _, y = two_products()
    x, y = x[:300], y[:300]
    settings = Variational(max_sweeps=12, restarts=1)
    fit = fit_funbat(x, y, 2, inference=settings, **kw)
    shuffled = np.random.default_rng(0).permutation(300)
    again = fit_funbat(x[shuffled], y[shuffled], 2, inference=settings, **kw)
    monkeypatch.setattr(factors, "DENSE_SIZE", 1000)
    dense = fit_funbat(x, y, 2, inference=settings, **kw)
    for other in (again, dense):
        np.testing.assert_allclose(other.elbo_trace, fit.elbo_trace, rtol=1e-8)
        np.testing.assert_allclose(other.predict(x).mean, fit.predict(x).mean, atol=1e-8)
        np.testing.assert_allclose(other.predict(x).sd, fit.predict(x).sd, rtol=1e-8)


def test_order_of_modes_and_empty_grid_points():
    """Transposed modes updated in the old order give the same fit; points nobody observed too."""
    rng = np.random.default_rng(3)
    modes = [Mode("matern32", r, np.linspace(0, 1, 5 + r), 0.0, 1.0) for r in (1, 2, 3)]
    rows = [rng.integers(0, m.grid.size, 60).astype(np.int32) for m in modes]
    y = rng.normal(size=60)
    means = [rng.normal(size=(m.grid.size, m.rank)) for m in modes]
    core = rng.normal(size=(1, 2, 3))
    swap = (2, 0, 1)

    def fitted(order, widen=False, mode_order=(0, 1, 2)):
        own = [modes[k] for k in order]
        own_rows, own_means = [rows[k] for k in order], [means[k] for k in order]
        if widen:
            grid = np.sort(np.concatenate([own[0].grid, [0.013, 0.77]]))
            place = np.searchsorted(grid, own[0].grid)
            spread = np.zeros((grid.size, own[0].rank))
            spread[place] = own_means[0]
            own[0] = Mode("matern32", own[0].rank, grid, 0.0, 1.0)
            own_rows[0], own_means[0] = place[own_rows[0]].astype(np.int32), spread
        problem = make_problem(
            own, own_rows, y, diagonal=False, constant=False, noise_mode=None, a0=1e-3, b0=1e-3
        )
        problem = replace(
            problem,
            order=tuple(mode_order),
            squares=np.bincount(own_rows[mode_order[-1]], y**2, own[mode_order[-1]].grid.size),
        )
        posterior = start_from(problem, [0.4] * 3, own_means, core.transpose(order))
        bounds = []
        for _ in range(5):
            posterior, bound = sweep(problem, posterior, lengthscales=False)
            bounds.append(bound)
        return posterior, bounds

    plain, bounds = fitted((0, 1, 2))
    turned, turned_bounds = fitted(swap, mode_order=(1, 2, 0))
    wider, wider_bounds = fitted((0, 1, 2), widen=True)
    np.testing.assert_allclose(turned_bounds, bounds, rtol=1e-10)
    np.testing.assert_allclose(wider_bounds, bounds, rtol=1e-10)
    np.testing.assert_allclose(turned.core.mean, plain.core.mean.transpose(swap), atol=1e-9)
    np.testing.assert_allclose(wider.core.mean, plain.core.mean, atol=1e-9)
