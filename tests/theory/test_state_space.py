"""Discretised Matérn processes against worked numbers, matrix exponentials, the kernel."""

import numpy as np
import pytest
from mpmath import mp
from scipy.linalg import expm, solve_continuous_lyapunov

from theory.state_space import (
    MATERN,
    companion,
    covariance,
    decay,
    discretise,
    n_states,
    state_scale,
    stationary_covariance,
)

CASES = {
    "matern12": ([[0.5488116360940264]], [[1.3976115761755958]]),
    "matern32": (
        [[0.7213304237515004, 0.10611803264314366], [-1.2734163917177237, -0.013876872797209347]],
        [[0.6890999550917304, 1.872450045471202], [1.872450045471202, 20.752199764242096]],
    ),
}


def in_units(kernel, lengthscale, variance, gap):
    """A, Q and P∞ of the states f, f', f'' themselves."""
    step = discretise(kernel, gap, lengthscale)
    T = np.diag(state_scale(kernel, lengthscale))
    A = T @ step.transition @ np.linalg.inv(T)
    return A, variance * T @ step.noise @ T, variance * T @ step.stationary @ T


@pytest.mark.parametrize("kernel", sorted(CASES))
def test_worked_case(kernel):
    A, Q, _ = in_units(kernel, 0.5, 2.0, 0.3)
    np.testing.assert_allclose(A, CASES[kernel][0], atol=1e-12)
    np.testing.assert_allclose(Q, CASES[kernel][1], rtol=1e-12)


def test_worked_case_matern52():
    A, Q, P = in_units("matern52", 0.5, 2.0, 0.3)
    np.testing.assert_allclose(
        A[0], [0.847418025656854, 0.18364298193234377, 0.011763737460785403], atol=1e-8
    )
    np.testing.assert_allclose(
        np.diag(Q), [0.26922844656584477, 9.594333915108525, 678.1906533917219], rtol=1e-8
    )
    np.testing.assert_allclose(Q[0, 1:], [1.320274891473437, -3.7995663207457118], rtol=1e-8)
    np.testing.assert_allclose(P[[0, 2], [2, 2]], [-40 / 3, 800.0])


@pytest.mark.parametrize("kernel", MATERN)
@pytest.mark.parametrize("gap", [1e-5, 0.03, 0.7, 6.0])
def test_against_matrix_exponential_at_high_precision(kernel, gap):
    """Q keeps its digits at short gaps, where P∞ - A P∞ Aᵀ in float64 has none left."""
    mp.dps = 60
    step = discretise(kernel, gap, 0.4)
    F, u = companion(kernel), mp.mpf(decay(kernel, 0.4)) * mp.mpf(gap)
    A = mp.expm(mp.matrix(F.tolist()) * u)
    P = mp.matrix(exact_stationary(kernel))
    Q = P - A * P * A.T
    for i in range(n_states(kernel)):
        for j in range(n_states(kernel)):
            assert step.transition[i, j] == pytest.approx(float(A[i, j]), rel=1e-11, abs=1e-15)
            assert step.noise[i, j] == pytest.approx(float(Q[i, j]), rel=1e-10, abs=1e-18)


def exact_stationary(kernel):
    third = mp.mpf(1) / 3
    return {
        "matern12": [[1]],
        "matern32": [[1, 0], [0, 1]],
        "matern52": [[1, 0, -third], [0, third, 0], [-third, 0, 1]],
    }[kernel]


@pytest.mark.parametrize("kernel", MATERN)
def test_stationary_covariance_solves_lyapunov(kernel):
    F, p = companion(kernel), n_states(kernel)
    diffusion = np.zeros((p, p))
    diffusion[-1, -1] = {1: 2.0, 2: 4.0, 3: 16.0 / 3.0}[p]
    expected = solve_continuous_lyapunov(F, -diffusion)
    np.testing.assert_allclose(stationary_covariance(kernel), expected, atol=1e-14)


@pytest.mark.parametrize("kernel", MATERN)
def test_the_first_state_has_the_kernel_as_covariance(kernel):
    gaps = np.array([0.0, 0.1, 0.5, 2.0])
    step = discretise(kernel, gaps, 0.7)
    np.testing.assert_allclose(
        (step.transition @ step.stationary)[:, 0, 0], covariance(kernel, -gaps, 0.7), atol=1e-14
    )
    np.testing.assert_allclose(
        step.transition[2], expm(companion(kernel) * decay(kernel, 0.7) * 0.5), atol=1e-13
    )
    assert not step.noise[0].any()


def test_two_steps_are_one():
    for kernel in MATERN:
        a, b, ab = (discretise(kernel, gap, 0.3) for gap in (0.2, 0.5, 0.7))
        np.testing.assert_allclose(b.transition @ a.transition, ab.transition, atol=1e-14)
        np.testing.assert_allclose(
            b.transition @ a.noise @ b.transition.T + b.noise, ab.noise, atol=1e-14
        )


def test_bad_input():
    with pytest.raises(ValueError, match="unknown kernel 'rbf': one of matern12"):
        n_states("rbf")
    for lengthscale in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(ValueError, match="lengthscale must be positive"):
            decay("matern12", lengthscale)
    with pytest.raises(ValueError, match="sort the indexes"):
        discretise("matern32", [0.1, -0.1], 1.0)
