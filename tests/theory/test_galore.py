"""Gradient dynamics of GaLore: worked cases, the recursion itself, bounds on random instances."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from theory.galore import activation_rank_bound, rank_one_limit, stable_rank_bounds
from theory.galore_convergence import Smoothness, contraction_rates, projected_factors
from theory.galore_modes import gradient_modes, lanczos_modes

Array = NDArray[np.float64]
STEPS = [0, 1, 5, 10]


def closed(m: int, n: int, a: float = 1.0, b: float = 0.37, c: float = 0.0) -> Array:
    i, j = np.arange(m)[:, None], np.arange(n)[None]
    return np.sin(a * (i + 1) * np.sqrt(j + 1) + b * (j + 1) + c)


def psd(n: int, r: int, a: float, b: float) -> Array:
    X = closed(n, r, a, b)
    return X @ X.T / r


def iterated(G: Array, B: Array, C: Array, eta: float, steps: int) -> list[Array]:
    """G_{t+1} = G_t - η (1/N) Σ B_i G_t C_i, step by step."""
    curve = [G]
    for _ in range(steps):
        G = G - eta * np.mean(B @ G @ C, axis=0)
        curve.append(G)
    return curve


def stable_rank(G: Array) -> float:
    s = np.linalg.svd(G, compute_uv=False)
    return float(np.sum(s**2) / s[0] ** 2)


def test_one_pair_of_factors() -> None:
    G0 = np.array([[1.0, 2.0], [3.0, -1.0]])
    found = stable_rank_bounds(G0, [np.diag([1.0, 2.0])], [np.diag([1.0, 3.0])], 0.2, STEPS)
    assert (found.lambda1, found.lambda2, found.lambda_max) == pytest.approx((1.0, 2.0, 6.0))
    assert found.eta_limit == pytest.approx(0.25)
    assert found.parallel_stable_rank == pytest.approx(1.0)
    assert found.coefficient == pytest.approx(14.0)
    assert found.gap == pytest.approx(0.0, abs=1e-12)
    np.testing.assert_allclose(
        found.exact, [1.47165845, 1.09436597, 1.00083117, 1.00000010], atol=1e-8
    )
    assert found.printed.value is not None and found.gap_aware.value is not None
    np.testing.assert_allclose(
        found.printed.value, [15.0, 8.875, 1.78838921, 1.04439697], atol=1e-8
    )
    np.testing.assert_allclose(found.gap_aware.value, [2, 2, 1.78838921, 1.04439697], atol=1e-8)


def test_the_printed_bound_fails_where_the_leading_pair_leaves_the_eigenspace() -> None:
    B = np.stack([np.eye(2), np.diag([0.0, 1.0])])
    C = np.stack([np.eye(2), np.diag([0.0, 5.0])])
    found = stable_rank_bounds([[1.0, 1.0], [1.0, -1.0]], B, C, 0.2, [0, 1, 2, 3, 5])
    assert (found.lambda1, found.lambda2) == pytest.approx((0.5, 3.0))
    assert found.parallel_stable_rank == pytest.approx(1.14589803, abs=1e-8)
    assert found.gap == pytest.approx(0.27639320, abs=1e-8)
    np.testing.assert_allclose(
        found.exact, [2, 1.39993183, 1.23797426, 1.18308457, 1.15279452], atol=1e-8
    )
    assert found.gap_aware.value is not None and found.printed.formula is not None
    np.testing.assert_allclose(
        found.gap_aware.value, [2, 1.43027810, 1.24328908, 1.18409028, 1.15283283], atol=1e-8
    )
    np.testing.assert_allclose(
        found.printed.formula, [1.52786405, 1.22134811, 1.16080175, 1.14884198, 1.14601290],
        atol=1e-8,
    )  # fmt: skip
    assert (found.printed.formula < found.exact).all()
    assert found.printed.value is None  # never offered as a bound


def test_no_component_at_the_smallest_eigenvalue() -> None:
    f = np.array([[1.0, 0, 1, 0], [0, 1.0, 0, 1]])
    a = np.array([[1.0, 2, 3], [1, 0, -1]])
    B = np.stack([np.eye(3), np.diag([1.0, 2, 3])])
    C = np.einsum("ia,ib->iab", f, f)
    G0 = 0.5 * np.einsum("ia,ib->ab", a, f)
    found = stable_rank_bounds(G0, B, C, 0.2, [0, 5, 50])
    assert found.status == "parallel_component_zero"
    assert (found.lambda1, found.lambda2) == pytest.approx((1.0, 3.0))
    np.testing.assert_allclose(found.exact, [1.11696312, 1.06670754, 1.06560782], atol=1e-8)
    np.testing.assert_allclose(
        found.printed.formula, [1.13664835, 1.06567720, 1.06560782], atol=1e-8
    )
    assert found.gap_aware.value is not None
    np.testing.assert_allclose(
        found.gap_aware.value, [1.18224607, 1.06697545, 1.06560782], atol=1e-8
    )
    corollary = activation_rank_bound(f, B)
    assert corollary.rank == 2 and not corollary.verdict.ok


def test_a_step_above_the_limit_gives_no_bound() -> None:
    G0 = np.array([[1.0, 2.0], [3.0, -1.0]])
    found = stable_rank_bounds(G0, [np.diag([1.0, 2.0])], [np.diag([1.0, 3.0])], 0.26, STEPS)
    assert found.status == "condition_violated"
    assert found.printed.value is None and found.gap_aware.value is None
    assert found.gap_aware.verdict.value == pytest.approx(0.26)
    assert found.gap_aware.verdict.limit == pytest.approx(0.25)


def test_one_dimensional_eigenspace_of_product_form_ends_at_rank_one() -> None:
    modes = gradient_modes(closed(2, 2), [np.diag([1.0, 2.0])], [np.diag([1.0, 3.0])])
    assert rank_one_limit(modes).ok


@pytest.mark.parametrize("seed", range(200))
def test_random_instances(seed: int) -> None:
    rng = np.random.default_rng(seed)
    m, n, N = rng.integers(2, 6), rng.integers(2, 6), rng.integers(1, 4)
    X, Y = rng.standard_normal((N, m, m + 1)), rng.standard_normal((N, n, n + 1))
    B, C = X @ X.swapaxes(1, 2), Y @ Y.swapaxes(1, 2)
    G0 = rng.standard_normal((m, n))
    limit = stable_rank_bounds(G0, B, C, 1e-9, [0]).eta_limit
    assert limit is not None
    eta, steps = limit * rng.uniform(0.1, 1.0), [0, 1, 3, 10, 40]
    found = stable_rank_bounds(G0, B, C, eta, steps)
    curve = iterated(G0, B, C, eta, steps[-1])
    np.testing.assert_allclose(found.exact, [stable_rank(curve[t]) for t in steps], rtol=1e-6)
    assert found.gap_aware.value is not None
    assert (found.exact <= found.gap_aware.value * (1 + 1e-9)).all()


def test_lanczos_modes_agree_with_the_dense_ones() -> None:
    rng = np.random.default_rng(4)
    X, Y = rng.standard_normal((2, 6, 8)), rng.standard_normal((2, 7, 9))
    B, C = X @ X.swapaxes(1, 2), Y @ Y.swapaxes(1, 2)
    G0 = rng.standard_normal((6, 7))
    dense, iterative = gradient_modes(G0, B, C), lanczos_modes(G0, B, C)
    assert iterative.method == "lanczos" and dense.method == "dense"
    ends = [0, 1, -1]
    np.testing.assert_allclose(iterative.eigenvalues[ends], dense.eigenvalues[ends], rtol=1e-6)
    np.testing.assert_allclose(iterative.components[0], dense.components[0], atol=1e-5)


def test_projected_factors() -> None:
    B = [psd(3, 3, 1.0, 0.2), psd(3, 3, 0.8, 0.5)]
    C = [psd(4, 4, 1.1, 0.3), psd(4, 4, 0.6, 0.9)]
    found = projected_factors(B, C, np.eye(3)[:, :2], np.eye(4)[:, :2])
    assert found.kappa == pytest.approx(0.13039284, abs=1e-8)
    assert found.lambda_min == pytest.approx(0.14652463, abs=1e-8)
    S = sum(np.kron(b[:2, :2], c[:2, :2]) for b, c in zip(B, C, strict=True)) / 2
    assert found.lambda_max == pytest.approx(np.linalg.eigvalsh(S)[-1], rel=1e-12)
    assert found.lambda_max == pytest.approx(0.5045385, abs=5e-8)
    f = np.array([[1.0, 0, 1, 0], [0, 1.0, 0, 1]])
    rank_one = projected_factors(
        [np.eye(3), np.diag([1.0, 2, 3])], np.einsum("ia,ib->iab", f, f),
        np.eye(3)[:, :2], np.eye(4)[:, :2],
    )  # fmt: skip
    assert (rank_one.kappa, rank_one.lambda_min, rank_one.lambda_max) == pytest.approx(
        (0.0, 0.5, 1.0), abs=1e-12
    )


def test_the_stated_rate_is_too_fast_and_the_safe_one_is_not() -> None:
    # A scalar: G(w) = A - B w C(w), B = 10, A = 2, C(w) = 1 + (1 - w)/2, hence L_C = 1/2, D = 1.
    eta, w, B, A = 0.01, 0.5, 10.0, 2.0

    def C(w: float) -> float:
        return 1.0 + 0.5 * (1.0 - w)

    gradient = A - B * w * C(w)
    after = w + eta * gradient
    ratio = abs((A - B * after * C(after)) / gradient)
    assert ratio == pytest.approx(0.8979, abs=1e-4)
    factors = projected_factors([[[B]]], [[[C(w)]]], [[1.0]], [[1.0]])
    rates = contraction_rates(factors, Smoothness(0.0, 0.0, 0.5, 1.0, B, 1.5), eta)
    assert rates.main_text.formula == pytest.approx(0.8750)
    assert rates.main_text.value is None  # c_B > L_B D: not offered
    assert rates.safe.value == pytest.approx(0.9250)
    assert ratio <= rates.safe.value  # type: ignore[operator]


def test_constant_factors_contract_at_the_sharp_rate() -> None:
    rng = np.random.default_rng(1)
    X, Y = rng.standard_normal((3, 4, 6)), rng.standard_normal((3, 5, 7))
    B, C = X @ X.swapaxes(1, 2), Y @ Y.swapaxes(1, 2)
    P, Q = (np.linalg.qr(rng.standard_normal(shape))[0] for shape in ((4, 2), (5, 3)))
    factors = projected_factors(B, C, P, Q)
    flat = Smoothness(0.0, 0.0, 0.0, 1.0, factors.norm_left, factors.norm_right)
    rates = contraction_rates(factors, flat, 1.0 / factors.lambda_max)
    assert rates.constant.value is not None and rates.safe.value is not None
    assert rates.constant.value <= rates.safe.value
    R = rng.standard_normal((2, 3))
    smaller = R - rates.eta * np.mean((P.T @ B @ P) @ R @ (Q.T @ C @ Q), axis=0)
    assert np.linalg.norm(smaller) <= rates.constant.value * np.linalg.norm(R) * (1 + 1e-12)


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="eta"):
        stable_rank_bounds(np.eye(2), [np.eye(2)], [np.eye(2)], float("nan"), [0])
    with pytest.raises(ValueError, match="B"):
        stable_rank_bounds(np.eye(2), [np.eye(3)], [np.eye(2)], 0.1, [0])
    with pytest.raises(ValueError, match="steps"):
        stable_rank_bounds(np.eye(2), [np.eye(2)], [np.eye(2)], 0.1, [-1])
