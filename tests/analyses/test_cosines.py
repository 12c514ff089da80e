"""Cosines from arrays, blocks, products and sketches against dense ones."""

from __future__ import annotations

import itertools

import mpmath
import numpy as np
import pytest
import torch

from analyzer.analyses import cosines as module
from analyzer.analyses.cosines import of_arrays, of_blocks, of_products, of_sketches
from analyzer.analyses.observations import Product
from analyzer.spectral import count_sketch


def dense(matrices: list[np.ndarray]) -> np.ndarray:
    flat = np.array([G.ravel() for G in matrices]).astype(np.longdouble)
    norms = np.sqrt((flat**2).sum(axis=1))
    return np.asarray(flat @ flat.T / np.outer(norms, norms), dtype=float)


def alike(rng: np.random.Generator, count: int, shape: tuple[int, int]) -> list[np.ndarray]:
    """Matrices with cosines of all sizes."""
    mean = rng.standard_normal(shape)
    return [mean * (t / 2) + rng.standard_normal(shape) for t in range(count)]


def test_arrays_of_any_precision_and_size() -> None:
    matrices = [G.astype(np.float32) for G in alike(np.random.default_rng(0), 4, (6, 9))]
    found = of_arrays((1, 2, 5, 9), matrices)
    assert found.steps == (1, 2, 5, 9)
    assert np.abs(found.values - dense(matrices)).max() <= found.error < 1e-13
    for scale in (np.float32(1e-20), np.float32(1e15)):
        scaled = of_arrays(range(4), [scale * G for G in matrices])
        np.testing.assert_allclose(scaled.values, found.values, atol=1e-6)


@pytest.mark.parametrize("block", [7, 54, 1 << 18])
def test_blocks_equal_the_whole(block: int, monkeypatch) -> None:
    monkeypatch.setattr(module, "BLOCK", block)
    matrices = alike(np.random.default_rng(1), 5, (6, 9))
    flat = [torch.from_numpy(G).reshape(-1) for G in matrices]
    found = of_blocks(range(5), 54, lambda part: [one[part] for one in flat])
    assert np.abs(found.values - dense(matrices)).max() <= found.error < 1e-13


def test_a_zero_matrix_has_no_cosine() -> None:
    matrices = [*alike(np.random.default_rng(2), 2, (3, 3)), np.zeros((3, 3))]
    flat = [torch.from_numpy(G).reshape(-1) for G in matrices]
    products = [Product(G, np.eye(3)) for G in matrices]
    for found in (
        of_arrays(range(3), matrices),
        of_blocks(range(3), 9, lambda part: [one[part] for one in flat]),
        of_products(range(3), products),
    ):
        assert np.isnan(found.values[2]).all() and np.isnan(found.values[:, 2]).all()
        assert np.abs(found.values[:2, :2] - dense(matrices[:2])).max() <= found.error < 1e-12


@pytest.mark.parametrize("shape", [(30, 12), (12, 30), (16, 16)])
def test_products_equal_dense_ones(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(3)
    m, n = shape
    products = []
    P, Q = rng.standard_normal((m, 3)), rng.standard_normal((n, 3))
    for t in range(4):
        P, Q = P + 0.3 * t * rng.standard_normal((m, 3)), Q + 0.2 * rng.standard_normal((n, 3))
        products.append(Product(P, Q))
    found = of_products(range(4), products)
    want = dense([one.P @ one.Q.T for one in products])
    assert np.abs(found.values - want).max() <= found.error < 1e-12


@pytest.mark.parametrize("step", [1e-2, 1e-5, 1e-8])
def test_differences_of_products_keep_what_cancellation_leaves(step: float) -> None:
    """Against the same factors multiplied with 50 digits."""
    rng = np.random.default_rng(4)
    states = [Product(rng.standard_normal((8, 2)), rng.standard_normal((5, 2)))]
    drift = rng.standard_normal((8, 2))
    for _ in range(3):
        last = states[-1]
        states.append(Product(last.P + step * (drift + rng.standard_normal((8, 2))), last.Q))
    changes = [b.minus(a) for a, b in itertools.pairwise(states)]
    with mpmath.workdps(50):
        exact = [mpmath.matrix(c.P.tolist()) * mpmath.matrix(c.Q.tolist()).T for c in changes]
        flat = [list(matrix) for matrix in exact]
        norms = [mpmath.sqrt(mpmath.fdot(x, x)) for x in flat]
        want = np.array(
            [
                [float(mpmath.fdot(x, y) / (p * q)) for y, q in zip(flat, norms, strict=True)]
                for x, p in zip(flat, norms, strict=True)
            ]
        )
    found = of_products(range(3), changes)
    assert np.abs(found.values - want).max() <= found.error < 1e-13 / step + 1e-13
    assert 0.1 < abs(want[0, 1]) < 0.99


def test_a_product_that_cancels_does_not_spoil_the_others() -> None:
    rng = np.random.default_rng(5)
    a, b = (Product(rng.standard_normal((8, 2)), rng.standard_normal((5, 2))) for _ in range(2))
    found = of_products(range(3), [a, b.minus(b), b])
    assert np.isnan(found.values[1]).all() and found.error < 1e-12
    want = dense([a.P @ a.Q.T, b.P @ b.Q.T])
    assert abs(found.values[0, 2] - want[0, 1]) <= found.error


def test_sketches_are_within_their_error() -> None:
    matrices = alike(np.random.default_rng(6), 6, (24, 32))
    found = of_sketches(
        range(6), [count_sketch(torch.from_numpy(G), 1024, 0).numpy() for G in matrices]
    )
    assert found.error == pytest.approx(2 / 32)
    assert np.abs(found.values - dense(matrices)).max() <= found.error
