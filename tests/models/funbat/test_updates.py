"""Messages, core, noise, bound and rebalancing against the model written out entry by entry."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from scipy.linalg import block_diag
from scipy.special import digamma, gammaln
from scipy.stats import gamma

from analyzer.models.funbat.core import Noise, core_messages
from analyzer.models.funbat.entries import Mode
from analyzer.models.funbat.factors import Factor, evidence
from analyzer.models.funbat.invariance import rebalance
from analyzer.models.funbat.messages import Core, contract
from analyzer.models.funbat.offset import learn_offset
from analyzer.models.funbat.prediction import function_moments
from analyzer.models.funbat.state import (
    Posterior,
    Problem,
    all_moments,
    group_errors,
    make_problem,
    weighted_sums,
)
from analyzer.models.funbat.variational import sweep
from theory.state_space import covariance


@dataclass
class Case:
    problem: Problem
    posterior: Posterior
    rows: list
    y: np.ndarray


def random_case(
    *, ranks=(2, 1, 3), n=40, diagonal=False, constant=False, noise_mode=None, seed=0
) -> Case:
    """A random posterior, messages included, for random entries on small grids."""
    rng = np.random.default_rng(seed)
    sizes = [4 + k for k in range(len(ranks))]
    modes = [
        Mode("matern32", r, np.linspace(0, 1, size), 0.0, 1.0)
        for r, size in zip(ranks, sizes, strict=True)
    ]
    rows = [rng.integers(0, size, n).astype(np.int32) for size in sizes]
    y = 2 * np.prod([np.cos(1.0 + row) for row in rows], axis=0) + sum(np.sin(row) for row in rows)
    y += 0.2 * rng.normal(size=n)
    problem = make_problem(
        modes, rows, y, diagonal=diagonal, constant=constant, noise_mode=noise_mode,
        a0=1e-3, b0=1e-3,
    )  # fmt: skip
    factors = tuple(
        Factor(
            mean=rng.normal(size=(size, r)),
            cov=spd(rng, size, r),
            precision=np.zeros((size, r, r)),
            linear=np.zeros((size, r)),
            lengthscale=0.5,
            divergence=0.0,
        )
        for size, r in zip(sizes, ranks, strict=True)
    )
    P = int(np.prod(problem.ranks))
    core = None if diagonal else Core(rng.normal(size=problem.ranks), spd(rng, 1, P)[0], 0.7)
    groups = problem.counts.size
    noise = Noise(5 + rng.random(groups), 1 + rng.random(groups))
    return Case(problem, Posterior(factors, core, noise), rows, y)


def spd(rng, count, r):
    A = rng.normal(size=(count, r, r + 1))
    return 0.1 * A @ A.transpose(0, 2, 1)


def entry_moments(case, mode, n):
    """E[u] and E[uuᵀ] of one entry in one mode, with the constant."""
    factor, s = case.posterior.factors[mode], case.rows[mode][n]
    mean, cov = factor.mean[s], factor.cov[s]
    if case.problem.constant:
        mean = np.concatenate([[1.0], mean])
        cov = np.pad(cov, ((1, 0), (1, 0)))
    return mean, cov + np.outer(mean, mean)


def full_core(case):
    """E[w] and E[wwᵀ] of P = Π r_k weights."""
    if case.posterior.core is not None:
        w = case.posterior.core.mean.ravel()
        return w, case.posterior.core.cov + np.outer(w, w)
    ranks = case.problem.ranks
    W = np.zeros(ranks)
    W[(np.arange(ranks[0]),) * len(ranks)] = 1.0
    return W.ravel(), np.outer(W.ravel(), W.ravel())


def entry_z(case, n):
    """E[z] and E[zzᵀ] of one entry, z = u¹ ⊗ … ⊗ u^K."""
    m, S = np.ones(1), np.ones((1, 1))
    for k in range(len(case.problem.modes)):
        mean, second = entry_moments(case, k, n)
        m, S = np.kron(m, mean), np.kron(S, second)
    return m, S


def entry_tau(case, n):
    tau = case.posterior.noise.precision
    return tau[case.rows[case.problem.last][n]] if case.problem.grouped else tau[0]


def dense_elbo(case):
    """E[ln p(y, τ, w, U)] - E[ln q], every Gaussian as one dense matrix.

    q(U^k) is taken as the exact posterior of the factor's own messages.
    """
    noise, problem = case.posterior.noise, case.problem
    w, ww = full_core(case)
    bound = 0.0
    for n, y in enumerate(case.y):
        m, S = entry_z(case, n)
        error = y * y - 2 * y * (w @ m) + (ww * S).sum()
        g = case.rows[problem.last][n] if problem.grouped else 0
        log_tau = digamma(noise.shape[g]) - np.log(noise.rate[g])
        bound += 0.5 * (log_tau - np.log(2 * np.pi)) - 0.5 * noise.precision[g] * error
    for a, b in zip(noise.shape, noise.rate, strict=True):
        q = gamma(a, scale=1 / b)
        # E[ln Gamma(τ; a0, b0)] + entropy
        log_prior = problem.a0 * np.log(problem.b0) - gammaln(problem.a0)
        log_prior += (problem.a0 - 1) * (digamma(a) - np.log(b)) - problem.b0 * a / b
        bound += log_prior + q.entropy()
    if case.posterior.core is not None:
        core = case.posterior.core
        prior = core.prior_variance * np.eye(w.size)
        bound -= gaussian_kl(core.mean.ravel(), core.cov, prior)
    for mode, factor in zip(problem.modes, case.posterior.factors, strict=True):
        mean, cov, prior = dense_factor(mode, factor)
        bound -= gaussian_kl(mean, cov, prior)
    return bound


def dense_factor(mode, factor):
    """Mean (nr,), covariance and prior (nr, nr) of a whole mode."""
    n, r = factor.linear.shape
    K = covariance(mode.kernel, np.subtract.outer(mode.grid, mode.grid), factor.lengthscale)
    prior = np.kron(K, np.eye(r))
    blocks = np.zeros((n, r, n, r))
    blocks[np.arange(n), :, np.arange(n), :] = factor.precision
    cov = np.linalg.solve(np.eye(n * r) + prior @ blocks.reshape(n * r, n * r), prior)
    return cov @ factor.linear.ravel(), 0.5 * (cov + cov.T), prior


def gaussian_kl(mean, cov, prior):
    inverse = np.linalg.inv(prior)
    return 0.5 * (
        np.trace(inverse @ cov)
        + mean @ inverse @ mean
        - mean.size
        + np.linalg.slogdet(prior)[1]
        - np.linalg.slogdet(cov)[1]
    )


CASES = [
    {},
    {"ranks": (2, 2), "n": 15},
    {"ranks": (1, 2, 1, 2), "n": 60, "seed": 3},
    {"constant": True},
    {"noise_mode": 1},
    {"constant": True, "noise_mode": 0},
    {"ranks": (2, 2, 2), "diagonal": True},
    {"ranks": (2, 2, 2), "diagonal": True, "noise_mode": 2},
]


@pytest.mark.parametrize("kw", CASES, ids=str)
def test_messages_are_the_sums_written_entry_by_entry(kw):
    case = random_case(**kw)
    problem, posterior = case.problem, case.posterior
    ranks, known = problem.ranks, all_moments(problem, posterior)
    w, ww = full_core(case)
    K = len(ranks)
    for k in range(K):
        n_k, r = problem.modes[k].grid.size, ranks[k]
        Lam, eta = np.zeros((n_k, r, r)), np.zeros((n_k, r))
        for n, y in enumerate(case.y):
            m, S = np.ones(()), np.ones(())
            for j in range(K):  # the own mode is left open, as the identity
                mean, second = entry_moments(case, j, n)
                m = np.multiply.outer(m, np.eye(r) if j == k else mean)
                S = np.multiply.outer(S, np.eye(r * r).reshape(r, r, r * r) if j == k else second)
            a = np.tensordot(flatten(m, K, k, 1), w, (0, 0))
            aa = np.tensordot(flatten(S, K, k, 2), ww, ((0, 1), (0, 1))).reshape(r, r)
            tau, s = entry_tau(case, n), case.rows[k][n]
            Lam[s] += tau * aa
            eta[s] += tau * y * a
        sums = weighted_sums(problem, known, k, posterior.noise)
        found = contract(sums, posterior.core, k, r)
        np.testing.assert_allclose(found[0], Lam, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(found[1], eta, rtol=1e-10, atol=1e-10)


def flatten(tensor, K, open_mode, per_mode):
    """Axes of all modes joined to P (and P), the open mode's free axis last."""
    # axes: per_mode a mode, and one more right after those of the open mode
    axes, at = [[] for _ in range(per_mode)], 0
    free = None
    for k in range(K):
        for part in range(per_mode):
            axes[part].append(at)
            at += 1
        if k == open_mode:
            free = at
            at += 1
    order = [axis for part in axes for axis in part] + [free]
    out = tensor.transpose(order)
    P = int(np.prod(out.shape[: len(axes[0])]))
    return out.reshape(*([P] * per_mode), -1)


@pytest.mark.parametrize("kw", CASES, ids=str)
def test_core_and_noise_from_the_last_mode(kw):
    case = random_case(**kw)
    problem, posterior = case.problem, case.posterior
    known = all_moments(problem, posterior)
    sums = weighted_sums(problem, known, problem.last, posterior.noise)
    w, ww = full_core(case)
    G, h = np.zeros(ww.shape), np.zeros(w.shape)
    sse = np.zeros(problem.counts.size)
    for n, y in enumerate(case.y):
        m, S = entry_z(case, n)
        tau = entry_tau(case, n)
        G += tau * S
        h += tau * y * m
        group = case.rows[problem.last][n] if problem.grouped else 0
        sse[group] += y * y - 2 * y * (w @ m) + (ww * S).sum()
    own = known[problem.last]
    found = group_errors(problem, posterior, sums, own)
    np.testing.assert_allclose(found, sse, rtol=1e-10, atol=1e-10)
    if not problem.diagonal:
        found_G, found_h = core_messages(sums, own, problem.last, problem.ranks)
        np.testing.assert_allclose(found_G, G, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(found_h, h, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kw", CASES, ids=str)
def test_bound_equals_the_dense_one_and_never_falls(kw):
    case = random_case(**kw)
    trace = []
    for number in range(6):
        if number > 2:
            case.posterior = rebalance(case.problem, case.posterior)
        case.posterior, bound = sweep(case.problem, case.posterior, lengthscales=number % 2 == 1)
        assert bound == pytest.approx(dense_elbo(case), rel=1e-8, abs=1e-7)
        trace.append(bound)
    assert np.diff(trace).min() > -1e-8 * np.abs(trace).max()


@pytest.mark.parametrize("kw", CASES, ids=str)
def test_rebalancing_keeps_predictions_and_is_the_best_such_step(kw):
    case = random_case(**kw)
    for _ in range(3):
        case.posterior, _ = sweep(case.problem, case.posterior, lengthscales=False)
    after = replace(case, posterior=rebalance(case.problem, case.posterior))
    rows = [np.asarray(r, dtype=np.intp) for r in case.rows]
    for moved, kept in zip(
        function_moments(after.posterior.core, all_moments(case.problem, after.posterior), rows),
        function_moments(case.posterior.core, all_moments(case.problem, case.posterior), rows),
        strict=True,
    ):
        np.testing.assert_allclose(moved, kept, rtol=1e-7, atol=1e-8)
    before = divergences(case, [np.eye(m.rank) for m in case.problem.modes])
    steps = [
        np.linalg.lstsq(old.mean, new.mean, rcond=None)[0].T
        for old, new in zip(case.posterior.factors, after.posterior.factors, strict=True)
    ]
    found = divergences(case, steps)
    assert found < before
    if case.problem.diagonal:  # joint optimum over scales whose product is 1
        rng = np.random.default_rng(1)
        for _ in range(5):
            a = np.exp(0.05 * rng.normal(size=(3, 2)))
            a /= a.prod(0) ** (1 / 3)
            others = [np.diag(s) @ step for s, step in zip(a, steps, strict=True)]
            assert divergences(case, others) > found


def divergences(case, steps):
    """Σ KL of functions and core once every U^k → A_k U^k, densely."""
    total, turn = 0.0, np.ones((1, 1))
    for mode, factor, A in zip(case.problem.modes, case.posterior.factors, steps, strict=True):
        mean, cov, prior = dense_factor(mode, factor)
        whole = np.kron(np.eye(mode.grid.size), A)
        total += gaussian_kl(whole @ mean, whole @ cov @ whole.T, prior)
        inverse = np.linalg.inv(A).T
        if case.problem.constant:
            inverse = block_diag(1.0, inverse)
        turn = np.kron(turn, inverse)
    core = case.posterior.core
    if core is not None:
        prior = core.prior_variance * np.eye(core.mean.size)
        total += gaussian_kl(turn @ core.mean.ravel(), turn @ core.cov @ turn.T, prior)
    return total


@pytest.mark.parametrize("constant", [False, True])
def test_the_step_of_one_mode_is_its_optimum(constant):
    case = random_case(ranks=(2, 3), n=30, constant=constant)
    for _ in range(3):
        case.posterior, _ = sweep(case.problem, case.posterior, lengthscales=False)
    new = rebalance(case.problem, case.posterior).factors[0].mean
    step = np.linalg.lstsq(case.posterior.factors[0].mean, new, rcond=None)[0].T
    best = divergences(case, [step, np.eye(3)])
    rng = np.random.default_rng(2)
    for _ in range(10):
        near = (np.eye(2) + 0.03 * rng.normal(size=(2, 2))) @ step
        assert divergences(case, [near, np.eye(3)]) > best - 1e-10


@pytest.mark.parametrize("kw", [c for c in CASES if not c.get("constant")], ids=str)
def test_the_learned_constant_is_the_optimum_over_it_and_the_last_functions(kw):
    """Against the bound of y - c by differences, and the posterior of messages of y - c."""
    case = random_case(**kw)
    k, posterior = case.problem.last, case.posterior
    tau = np.array([entry_tau(case, n) for n in range(len(case.y))])

    def of_shifted_values(c):
        problem = make_problem(
            case.problem.modes, case.rows, case.y - c, diagonal=case.problem.diagonal,
            constant=False, noise_mode=kw.get("noise_mode"), a0=1e-3, b0=1e-3,
        )  # fmt: skip
        sums = weighted_sums(problem, all_moments(problem, posterior), k, posterior.noise)
        return problem, contract(sums, posterior.core, k, problem.ranks[k])

    def bound(c):
        problem, messages = of_shifted_values(c)
        return evidence(problem.modes[k], *messages)(0.5) - 0.5 * np.sum(tau * (case.y - c) ** 2)

    shifted, moved, found = learn_offset(case.problem, posterior)
    assert all(bound(found) > bound(found + step) for step in (-1e-3, 1e-3, -0.3, 0.3))
    slope = (bound(found + 1e-4) - bound(found - 1e-4)) / 2e-4
    assert abs(slope) < 1e-5 * abs(bound(found + 1.0) - bound(found))
    expected, (_, eta) = of_shifted_values(found)
    np.testing.assert_allclose(shifted.squares, expected.squares, atol=1e-11)
    for one, two in zip(shifted.entries, expected.entries, strict=True):
        np.testing.assert_allclose(one.values, two.values, atol=1e-12)
    np.testing.assert_allclose(moved.factors[k].linear, eta, atol=1e-10)
    mean, _, _ = dense_factor(expected.modes[k], moved.factors[k])
    np.testing.assert_allclose(moved.factors[k].mean.ravel(), mean, atol=1e-9)
