"""Numbers of a spectrum, and intervals that must contain the true ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from analyzer.analyses.gradient_metrics import Metrics, metrics
from analyzer.analyses.observations import Product, from_ritz, observe, without_matrix
from analyzer.spectral.frequent_directions import empty, extend

SHAPES = [(40, 24), (24, 40), (32, 32)]


def truth(s: np.ndarray, r: int) -> dict[str, float]:
    """By their definitions, from singular values."""
    squares, p = s**2, s / s.sum()
    p = p[p > 0]
    q = squares[squares > 0] / squares.sum()
    shares = np.cumsum(squares) / squares.sum()
    return {
        "fro": float(np.sqrt(squares.sum())),
        "sigma1": float(s[0]),
        "stable_rank": float(squares.sum() / squares[0]),
        "effective_rank": float(np.exp(-np.sum(p * np.log(p)))),
        "effective_rank_energy": float(np.exp(-np.sum(q * np.log(q)))),
        "participation_ratio": float(squares.sum() ** 2 / np.sum(squares**2)),
        "energy_r": float(shares[r - 1]),
        "rank_at_energy": int(np.argmax(shares >= 0.9)) + 1,
    }


def check_whole(found: Metrics, s: np.ndarray, r: int, rel: float = 1e-9) -> None:
    for name, want in truth(s, r).items():
        assert getattr(found, name) == pytest.approx(want, rel=rel), name
    want = truth(s, r)
    assert found.stable_rank_lo is not None and found.stable_rank_hi is not None
    assert found.stable_rank_lo <= want["stable_rank"] * (1 + 1e-14)
    assert found.stable_rank_hi >= want["stable_rank"] * (1 - 1e-14)
    assert found.stable_rank_hi - found.stable_rank_lo < 1e-6 * want["stable_rank"]
    assert found.energy_r_hi is not None and found.energy_r_hi >= want["energy_r"] * (1 - 1e-14)
    assert found.r == r


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_whole_spectra(shape, dtype) -> None:
    G = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    found = metrics(observe(G, step=4, rank=5), 5)
    check_whole(found, np.linalg.svd(G.astype(float), compute_uv=False), 5)
    assert (found.step, found.numerical_rank) == (4, min(shape))


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_numerical_rank_is_that_of_the_stored_format(rank: int, dtype: torch.dtype) -> None:
    rng = np.random.default_rng(1)
    G = rng.standard_normal((32, rank)) @ rng.standard_normal((rank, 48))
    stored = torch.from_numpy(G).to(dtype)
    s = np.linalg.svd(stored.double().numpy(), compute_uv=False)
    found = metrics(observe(stored), 8)
    assert found.numerical_rank == rank
    if dtype != torch.bfloat16:  # for which max(m, n)·ε·σ₁ is larger than σ₁ of a large matrix
        assert rank == int(np.sum(s > 48 * torch.finfo(dtype).eps * s[0]))
    # Rounding raises the effective rank long before it moves the stable rank.
    exact = truth(np.linalg.svd(G, compute_uv=False), 8)
    assert found.stable_rank == pytest.approx(exact["stable_rank"], rel=1e-2)


@pytest.mark.parametrize("shape", SHAPES)
def test_products_and_what_cancels_in_them(shape) -> None:
    rng = np.random.default_rng(2)
    P, Q = rng.standard_normal((shape[0], 3)), rng.standard_normal((shape[1], 3))
    found = metrics(observe(Product(P, Q)), 2)
    check_whole(found, np.linalg.svd(P @ Q.T, compute_uv=False)[:3], 2)
    moved = Product(P + 1e-5 * rng.standard_normal(P.shape), Q).minus(Product(P, Q))
    found = metrics(observe(moved), 8)
    want = truth(np.linalg.svd(moved.P @ moved.Q.T, compute_uv=False)[:6], 3)
    assert found.numerical_rank == 3 and found.stable_rank is not None
    assert found.stable_rank == pytest.approx(want["stable_rank"], rel=1e-8)
    assert found.stable_rank_lo is not None and found.stable_rank_hi is not None
    slack = 1e-9
    assert found.stable_rank_lo - slack <= want["stable_rank"] <= found.stable_rank_hi + slack


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("width", [1, 4, 12])
@pytest.mark.parametrize("scale", [1.0, 1e-20, 1e15, 1e-140])
def test_intervals_of_ritz_values_contain_the_truth(shape, width: int, scale: float) -> None:
    rng = np.random.default_rng(width)
    for decay in (1.0, 0.6):
        U, _, Vh = np.linalg.svd(rng.standard_normal(shape), full_matrices=False)
        G = U @ np.diag(decay ** np.arange(min(shape))) @ Vh
        Q = np.linalg.qr(G @ rng.standard_normal((shape[1], width)))[0]
        ritz = np.linalg.svd(Q.T @ G, compute_uv=False)
        fro = float(np.linalg.norm(G))
        seen = from_ritz(
            scale * ritz, Q, step=0, shape=shape, side="left", fro=scale * fro,
            epsilon=(fro**2 - float(np.sum(ritz**2))) * scale**2, method="cold",
        )  # fmt: skip
        r = min(3, width)
        found = metrics(seen, 3)
        s = np.linalg.svd(G, compute_uv=False)
        want = truth(s, r)
        inside = 1 + 1e-12
        assert found.sigma1 is not None and found.sigma1 <= scale * s[0] * inside
        assert found.stable_rank_lo is not None and found.stable_rank_hi is not None
        assert found.stable_rank == found.stable_rank_hi
        assert found.stable_rank_lo / inside <= want["stable_rank"]
        assert want["stable_rank"] <= found.stable_rank_hi * inside
        assert found.energy_r is not None and found.energy_r_hi is not None
        assert found.energy_r / inside <= want["energy_r"] <= found.energy_r_hi * inside
        assert found.rank_at_energy is None or found.rank_at_energy >= want["rank_at_energy"]
        assert found.sigma_error is not None
        first = np.abs(scale * s[: ritz.size] - scale * ritz)
        assert np.all(first <= found.sigma_error * inside)
        assert found.effective_rank is None and found.numerical_rank is None


@pytest.mark.parametrize("size", [2, 6])
def test_intervals_of_a_sketch_whose_bound_is_for_each_value_alone(size: int) -> None:
    """δ of Frequent Directions bounds each σ² of the stream, not their sums."""
    rng = np.random.default_rng(3)
    state, blocks = empty(size, 20), []
    for _ in range(4):
        blocks.append(rng.standard_normal((10, 20)))
        state = extend(state, torch.from_numpy(blocks[-1]))
    A = np.vstack(blocks)
    s = np.linalg.svd(A, compute_uv=False)
    norms = torch.linalg.vector_norm(state.sketch, dim=1)
    kept = norms > 0
    seen = from_ritz(
        norms[kept].numpy(), (state.sketch[kept] / norms[kept, None]).T.numpy(), step=0,
        shape=(10, 20), side="right", fro=float(np.linalg.norm(A)), epsilon=state.shrink,
        method="frequent_directions", precision="float64",
    )  # fmt: skip
    for rank in (1, 2, 5):
        found = metrics(seen, rank)
        want = truth(s, found.r or 1)
        assert found.energy_r is not None and found.energy_r_hi is not None
        assert found.energy_r <= want["energy_r"] <= found.energy_r_hi * (1 + 1e-12)
        assert found.stable_rank_lo is not None and found.stable_rank_hi is not None
        assert found.stable_rank_lo <= want["stable_rank"] <= found.stable_rank_hi


def test_without_a_bound_only_estimates_are_given() -> None:
    seen = from_ritz(
        [3.0, 1.0], np.eye(5, 2), step=0, shape=(5, 9), side="left", fro=4.0, epsilon=None,
        method="frequent_directions",
    )  # fmt: skip
    found = metrics(seen, 2)
    assert (found.stable_rank, found.energy_r) == (16 / 9, 10 / 16)
    assert found.stable_rank_lo is None and found.energy_r_hi is None


def test_no_matrix_has_no_numbers() -> None:
    for seen in (
        observe(np.zeros((3, 4)), step=2),
        observe(np.full((3, 4), np.nan), step=2),
        without_matrix(2, (3, 4), "left", ("no_gradient",)),
    ):
        found = metrics(seen, 2)
        assert found == Metrics(2, seen.fro)
