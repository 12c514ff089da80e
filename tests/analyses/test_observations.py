"""Observed spectra and subspaces against a dense float64 SVD."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from analyzer.analyses.observations import Product, from_ritz, observe, without_matrix
from analyzer.analyses.series import crosswise, overlaps
from analyzer.errors import ShapeMismatch, UsageError
from analyzer.spectral.difference import Difference

SHAPES = [(40, 24), (24, 40), (32, 32), (7, 1), (1, 7)]


def sin_angle(U: np.ndarray, V: np.ndarray) -> float:
    """sin θ_max between two spans of one dimension."""
    return float(np.linalg.norm(V - U @ (U.T @ V), 2))


def leading(G: np.ndarray, r: int, side: str) -> np.ndarray:
    U, _, Vh = np.linalg.svd(G)
    return U[:, :r] if side == "left" else Vh[:r].T


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("side", [None, "left", "right"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_values_and_subspace_are_those_of_a_dense_svd(shape, side, dtype) -> None:
    stored = torch.from_numpy(np.random.default_rng(0).standard_normal(shape)).to(dtype)
    G = stored.double().numpy()
    found = observe(stored, step=3, rank=5, side=side)
    want = np.linalg.svd(G, compute_uv=False)
    assert found.spectrum is not None and found.basis is not None
    assert np.all(np.abs(found.sigma - want) <= found.spectrum.error + 1e-14 * want[0])
    assert found.fro == pytest.approx(np.linalg.norm(G), rel=1e-13)
    r = min(5, *shape)
    chosen = side or ("left" if shape[0] <= shape[1] else "right")
    assert (found.side, found.step, found.directions) == (chosen, 3, r)
    assert found.basis.shape == (shape[0] if chosen == "left" else shape[1], r)
    assert found.angle is not None
    assert sin_angle(found.basis, leading(G, r, chosen)) <= found.angle + 1e-13
    assert found.angle < 1e-9
    assert found.warnings == (("rounded_tail",) if dtype == torch.bfloat16 else ())


@pytest.mark.parametrize("shape", SHAPES[:3])
@pytest.mark.parametrize("rank", [1, 3])
def test_directions_of_a_rank_deficient_matrix_are_those_it_has(shape, rank: int) -> None:
    rng = np.random.default_rng(1)
    G = rng.standard_normal((shape[0], rank)) @ rng.standard_normal((rank, shape[1]))
    for stored in (G, G.astype(np.float32)):
        found = observe(stored, rank=8)
        assert found.directions == rank and found.basis is not None
        near = leading(G, rank, found.side)
        assert sin_angle(found.basis[:, :rank], near) < 1e-5
        # What rounding put after them is not compared with anything.
        (pair,) = overlaps([found, observe(2 * stored, step=1, rank=8)], 8)
        assert (pair.r, pair.overlap) == (rank, pytest.approx(1.0, abs=1e-9))


@pytest.mark.parametrize("shape", SHAPES[:3])
@pytest.mark.parametrize("cancelling", [0.0, 1e-6])
def test_a_product_is_its_matrix(shape, cancelling: float) -> None:
    rng = np.random.default_rng(2)
    m, n = shape
    first = Product(rng.standard_normal((m, 3)), rng.standard_normal((n, 3)))
    product = first
    if cancelling:
        moved = Product(first.P + cancelling * rng.standard_normal((m, 3)), first.Q)
        product = moved.minus(first)
    dense = product.P @ product.Q.T
    found = observe(product, rank=8)
    want = np.linalg.svd(dense, compute_uv=False)
    assert found.spectrum is not None and found.basis is not None
    size = found.sigma.size
    rounding = 1e-15 * np.linalg.norm(product.P) * np.linalg.norm(product.Q)
    assert np.all(np.abs(found.sigma - want[:size]) <= found.spectrum.error + rounding)
    assert np.all(want[size:] <= 30 * rounding)
    assert found.directions == 3 and found.angle is not None
    # The dense difference is itself wrong by rounding/gap.
    allowed = found.angle + 30 * rounding / want[2]
    assert sin_angle(found.basis[:, :3], leading(dense, 3, found.side)) <= allowed
    assert found.angle < 1e-7


def test_a_product_that_cancels_altogether_is_zero() -> None:
    rng = np.random.default_rng(3)
    product = Product(rng.standard_normal((9, 2)), rng.standard_normal((5, 2)))
    found = observe(product.minus(product))
    assert found.is_empty and found.flags == ("zero_gradient",) and found.fro == 0.0


def test_a_difference_is_formed_in_float64() -> None:
    rng = np.random.default_rng(4)
    later, earlier = (torch.from_numpy(rng.standard_normal((9, 6))).float() for _ in range(2))
    found = observe(Difference(later, earlier), rank=2)
    want = np.linalg.svd((later.double() - earlier.double()).numpy(), compute_uv=False)
    np.testing.assert_allclose(found.sigma, want, rtol=1e-13)
    assert found.directions == 2 and found.floor < 1e-13 * want[0]


def test_what_is_no_finite_matrix_is_empty_and_says_why() -> None:
    bad = np.ones((4, 5))
    bad[0, 0], bad[1, 2], bad[3, 4] = np.nan, np.inf, -np.inf
    found = observe(bad)
    assert found.flags == ("non_finite: 1 NaN, 2 infinite",)
    assert found.is_empty and not found.is_finite and found.fro is None and found.basis is None
    zero = observe(torch.zeros(4, 5))
    assert zero.is_empty and zero.is_finite and zero.flags == ("zero_gradient",)
    broken = observe(Product(bad, np.ones((3, 5))))
    assert broken.is_empty and not broken.is_finite


def test_bad_input_is_refused() -> None:
    with pytest.raises(UsageError, match="at least 1, got 0"):
        observe(np.ones((3, 3)), rank=0)
    for shape in [(3,), (2, 3, 4)]:
        with pytest.raises(ShapeMismatch, match="expected a matrix"):
            observe(np.ones(shape))


@pytest.mark.parametrize("scale", [1e-200, 1e-20, 1e15, 1e200])
def test_scale_changes_neither_ranks_nor_subspaces(scale: float) -> None:
    G = np.random.default_rng(5).standard_normal((12, 20))
    one, other = observe(G, rank=4), observe(scale * G, rank=4, step=1)
    np.testing.assert_allclose(other.sigma / scale, one.sigma, rtol=1e-12)
    (pair,) = overlaps([one, other], 4)
    assert pair.overlap == pytest.approx(1.0, abs=1e-12)
    assert pair.error is not None and pair.error < 1e-9


@pytest.mark.parametrize("shape", SHAPES[:3])
@pytest.mark.parametrize("noise", [1e-9, 1e-4])
def test_overlaps_and_their_error_bounds(shape, noise: float) -> None:
    """Both matrices are seen through slightly wrong subspaces whose angle bound is known."""
    rng = np.random.default_rng(6)
    found, true = [], []
    for step in range(4):
        G = rng.standard_normal(shape)
        exact = observe(G, step=step, rank=3)
        assert exact.basis is not None
        tilted = np.linalg.qr(exact.basis + noise * rng.standard_normal(exact.basis.shape))[0]
        angle = sin_angle(tilted, leading(G, 3, exact.side)) * (1 + 1e-9) + 1e-13
        seen = from_ritz(
            exact.sigma[:3], tilted, step=step, shape=shape, side=exact.side, fro=1.0,
            epsilon=0.0, method="exact",
        )  # fmt: skip
        found.append(replace(seen, angle=angle))
        true.append(leading(G, 3, exact.side))
    pairs = overlaps(found, 3)
    assert [(p.step_a, p.step_b) for p in pairs] == [
        (a, b) for a in range(4) for b in range(a + 1, 4)
    ]
    d = true[0].shape[0]
    for pair in pairs:
        inner = true[pair.step_a].T @ true[pair.step_b]
        want = float(np.sum(inner**2)) / 3
        assert pair.error is not None and abs(pair.overlap - want) <= pair.error
        assert pair.error < 30 * noise + 1e-11
        cosines = np.linalg.svd(inner, compute_uv=False)
        assert pair.theta_max == pytest.approx(np.arccos(cosines[-1]), abs=20 * noise + 1e-7)
        assert pair.chance == pytest.approx(3 / d)
        assert pair.corrected == pytest.approx((pair.overlap - 3 / d) / (1 - 3 / d))


def test_an_overlap_at_another_rank_than_the_bound_is_for_has_no_error() -> None:
    rng = np.random.default_rng(7)
    seen = [observe(rng.standard_normal((10, 10)), step=t, rank=4) for t in range(2)]
    (at_four,), (at_two,) = overlaps(seen, 4), overlaps(seen, 2)
    assert at_four.error is not None and at_two.error is None and at_two.r == 2


def test_steps_with_fewer_directions_are_left_out() -> None:
    rng = np.random.default_rng(8)
    thin = np.outer(rng.standard_normal(10), rng.standard_normal(12))
    seen = [observe(rng.standard_normal((10, 12)), step=t, rank=4) for t in (0, 2)]
    seen.insert(1, observe(thin, step=1, rank=4))
    seen.append(without_matrix(3, (10, 12), "left", ("no_gradient",)))
    assert [(p.step_a, p.step_b, p.r) for p in overlaps(seen, 4)] == [(0, 2, 4)]
    pairs = list(crosswise([(seen[0], seen[1]), (seen[0], seen[3])], 4))
    assert [(p.step_a, p.step_b, p.r) for p in pairs] == [(0, 1, 1)]


def test_long_runs_are_compared_at_forty_even_distances() -> None:
    rng = np.random.default_rng(9)
    seen = [observe(rng.standard_normal((4, 4)), step=t, rank=1) for t in range(100)]
    pairs = overlaps(seen, 1)
    steps = sorted({p.step_a for p in pairs} | {p.step_b for p in pairs})
    assert len(steps) == 40 and steps[0] == 0 and steps[-1] == 99
    assert set(np.diff(steps)) == {2, 3} and len(pairs) == 40 * 39 // 2
