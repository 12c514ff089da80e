"""The leading subspace against dense decompositions, its certificate, and what must not change."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from analyzer.errors import NonFinite, ShapeMismatch, UsageError
from analyzer.spectral import LeadingSubspace, leading_subspace
from analyzer.spectral.warm_start import Side, leading_subspaces, rayleigh_ritz


def closed(m: int, n: int, a: float, b: float) -> torch.Tensor:
    i, j = np.mgrid[1 : m + 1, 1 : n + 1]
    return torch.from_numpy(np.sin(a * i * np.sqrt(j) + b * j))


def orthonormal(rows: int, cols: int, rng: np.random.Generator) -> np.ndarray:
    return np.linalg.qr(rng.standard_normal((rows, cols)))[0]


def trajectory(m: int, n: int, steps: int, seed: int = 0) -> Iterator[torch.Tensor]:
    """A decaying spectrum on slowly turning vectors, and fresh noise."""
    rng = np.random.default_rng(seed)
    count = min(m, n) // 2
    U, V = orthonormal(m, count, rng), orthonormal(n, count, rng)
    for _ in range(steps):
        U, V = (np.linalg.qr(X + 0.01 * rng.standard_normal(X.shape))[0] for X in (U, V))
        noise = 0.1 * rng.standard_normal((m, n)) / np.sqrt(n)
        G = (U * np.arange(1, count + 1) ** -0.7) @ V.T + noise
        yield torch.from_numpy(G.astype(np.float32))


def captured(found: LeadingSubspace, G: torch.Tensor, r: int) -> float:
    """Energy of G in the first r columns of the basis itself over the best possible."""
    X = G.double() if found.basis.shape[0] == G.shape[0] else G.double().T
    best = torch.linalg.svdvals(X)[:r].square().sum()
    return float(torch.linalg.matrix_norm(found.basis[:, :r].double().T @ X) ** 2 / best)


def test_worked_case() -> None:
    G = closed(6, 8, 1.0, 0.37)
    Q = torch.linalg.qr(G @ closed(8, 3, 0.7, 0.2)).Q
    found = rayleigh_ritz(G, Q, float(torch.linalg.matrix_norm(G)), "cold")
    np.testing.assert_allclose(found.sigma, [2.61178138, 2.57200114, 2.09578515], atol=5e-9)
    assert found.epsilon == pytest.approx(7.3628875, abs=5e-8)
    total, low = found.fro**2, found.sigma**2
    assert low[:2].sum() / total == pytest.approx(0.533372, abs=5e-7)
    assert (low[:2].sum() + found.epsilon) / total == pytest.approx(0.825645, abs=5e-7)
    assert total / (low[0] + found.epsilon) == pytest.approx(1.776035, abs=5e-7)
    assert total / low[0] == pytest.approx(3.693052, abs=5e-7)


def random_case(seed: int) -> tuple[torch.Tensor, int, Side | None]:
    """Any shape up to 90, full or deficient rank, flat to steep, 1e-30 … 1e25, both precisions."""
    rng = np.random.default_rng(seed)
    m, n = (int(x) for x in rng.integers(1, 91, size=2))
    rank = int(rng.integers(1, min(m, n) + 1))
    s = np.arange(1, rank + 1) ** -rng.uniform(0, 4) * 10.0 ** rng.uniform(-30, 25)
    G = torch.from_numpy((orthonormal(m, rank, rng) * s) @ orthonormal(n, rank, rng).T)
    sides: tuple[Side | None, ...] = (None, "left", "right")
    return (
        G.to(torch.float32 if seed % 2 else torch.float64),
        int(rng.integers(1, 20)),
        sides[seed % 3],
    )


def assert_certified(found: LeadingSubspace, G: torch.Tensor, scale: float) -> None:
    s = np.linalg.svd(G.double().numpy() / scale, compute_uv=False)
    fro, low, epsilon = found.fro / scale, (found.sigma / scale) ** 2, found.epsilon / scale**2
    rounding = 64 * torch.finfo(found.basis.dtype).eps
    truth, total = s[: low.size] ** 2, fro**2
    assert fro == pytest.approx(np.sqrt((s**2).sum()), rel=1e-12)
    assert epsilon >= 0.0
    assert np.all(np.diff(found.sigma) <= 0.0)
    assert np.all(truth <= low + epsilon)
    assert np.all(low <= truth + rounding * total)
    gram = found.basis.T.double() @ found.basis.double()
    torch.testing.assert_close(gram, torch.eye(low.size).double(), atol=rounding, rtol=0)


def test_certificate_contains_the_truth() -> None:
    """Cold, then warm from a perturbed matrix; the width is that of ‖G‖² − ‖QᵀG‖²."""
    methods = set()
    for seed in range(1000):
        G, rank, side = random_case(seed)
        scale = float(G.abs().max())
        cold = leading_subspace(G, rank, side=side, seed=seed)
        assert_certified(cold, G, scale)
        kick = torch.from_numpy(np.random.default_rng(seed).standard_normal(G.shape)).to(G)
        moved = G + 0.1 * scale * kick
        warm = leading_subspace(moved, rank, previous=cold.basis, side=side, seed=seed)
        assert_certified(warm, moved, scale)
        X = moved.double() / scale
        X = X if X.shape[0] == warm.basis.shape[0] and side != "right" else X.T
        residual = X - warm.basis.double() @ (warm.basis.double().T @ X)
        width = float(residual.square().sum())
        slack = 64 * torch.finfo(G.dtype).eps * (warm.fro / scale) ** 2
        assert warm.epsilon / scale**2 == pytest.approx(width, abs=slack)
        methods |= {cold.method, warm.method}
    assert methods == {"cold", "warm", "exact"}


@pytest.mark.parametrize("scale", [1e-42, 1e-20, 1e15, 1e37])
def test_scale_changes_nothing_but_the_units(scale: float) -> None:
    """Float32 down to subnormal numbers, whose own rounding the tolerance allows for."""
    G = next(trajectory(64, 80, 1))
    plain, scaled = (leading_subspace(X, 8) for X in (G, (G.double() * scale).float()))
    rtol = 1e-5 if scale > 1e-38 else 2e-2
    np.testing.assert_allclose(scaled.sigma, plain.sigma * scale, rtol=rtol)
    assert scaled.epsilon == pytest.approx(plain.epsilon * scale**2, rel=2 * rtol)


@pytest.mark.parametrize("scale", [1e-150, 1e150])
def test_float64_where_squares_leave_the_range(scale: float) -> None:
    G = next(trajectory(64, 80, 1)).double()
    found = leading_subspace(G * scale, 8)
    np.testing.assert_allclose(found.sigma, leading_subspace(G, 8).sigma * scale, rtol=1e-12)


@pytest.mark.parametrize("shape", [(20, 50), (50, 20), (300, 30), (70, 200), (200, 70)])
@pytest.mark.parametrize("side", ["left", "right"])
def test_exact_on_short_sides_and_at_full_rank(shape: tuple[int, int], side: Side) -> None:
    G = torch.from_numpy(np.random.default_rng(0).standard_normal(shape))
    rank = 6 if min(shape) <= 32 else 500
    found = leading_subspace(G, rank, side=side)
    U, s, Vh = np.linalg.svd(G.numpy(), full_matrices=False)
    k = min(rank, *shape)
    assert (found.method, found.basis.shape[1]) == ("exact", k)
    np.testing.assert_allclose(found.sigma, s[:k], rtol=1e-10)
    truth = U[:, :k] if side == "left" else Vh[:k].T
    np.testing.assert_allclose(np.abs(truth.T @ found.basis.numpy()), np.eye(k), atol=1e-7)


@pytest.mark.parametrize("shape", [(96, 160), (160, 96)])
def test_warm_start_on_a_drifting_trajectory(shape: tuple[int, int]) -> None:
    shares, previous = [], None
    for step, G in enumerate(trajectory(*shape, 25)):
        found = leading_subspace(G, 16, previous=previous, seed=step)
        assert found.method == ("warm" if step else "cold")
        assert found.basis.shape == (96, 16)
        shares.append(captured(found, G, 8))
        previous = found.basis
    assert np.mean(shares[1:]) > 0.99
    assert min(shares[1:]) > 0.97


def steps_until_found(fresh: int, seed: int) -> int:
    """Steps until a dominant direction orthogonal to the basis has a cosine above 0.95 with it."""
    rng = np.random.default_rng(seed)
    U, V = orthonormal(120, 41, rng), orthonormal(160, 41, rng)
    old = (U[:, :40] * np.arange(1, 41) ** -0.1) @ V[:, :40].T
    previous = torch.from_numpy(U[:, :16])
    G = torch.from_numpy(old + 3.0 * np.outer(U[:, 40], V[:, 40]))
    for step in range(1, 10):
        previous = leading_subspace(G, 16, previous=previous, seed=step, fresh=fresh).basis
        if np.linalg.norm(previous.numpy().T @ U[:, 40]) > 0.95:
            return step
    return 10


def test_fresh_columns_find_a_new_direction_within_two_steps() -> None:
    assert max(steps_until_found(2, seed) for seed in range(20)) <= 2
    # an old basis exactly orthogonal to it never sees it: what the fresh columns are for
    assert steps_until_found(0, 0) > 2


def test_a_jump_of_the_certificate_restarts() -> None:
    rng = np.random.default_rng(0)
    U, V = orthonormal(100, 20, rng), orthonormal(100, 20, rng)
    first, other = (torch.from_numpy(U[:, i : i + 10] @ V[:, i : i + 10].T) for i in (0, 10))
    other += 0.2 * first  # what the old basis goes on seeing
    before = leading_subspace(first, 10)
    ratio = before.epsilon / before.fro**2
    missed = leading_subspace(other, 10, previous=before.basis)
    assert missed.epsilon > 0.5 * missed.fro**2
    found = leading_subspace(other, 10, previous=before.basis, previous_epsilon_ratio=ratio)
    assert found.restarted and found.method == "cold"
    assert found.epsilon < 0.1 * found.fro**2
    again = leading_subspace(other, 10, previous=found.basis, previous_epsilon_ratio=0.05)
    assert not again.restarted and again.method == "warm"


def mixed_group(side: Side) -> tuple[list[torch.Tensor], list[torch.Tensor], list[float]]:
    """60×90 matrices, bases from the step before, and its ε ratios: two plain ones, one of a new
    direction that its basis misses, a zero, a NaN, an infinity, and two at the ends of the range.
    """
    rng = np.random.default_rng(4)
    moving = list(trajectory(60, 90, 3, seed=4))
    U, V = (torch.from_numpy(orthonormal(size, 1, rng)).float() for size in (60, 90))
    rest = moving[1] - U @ (U.T @ moving[1])
    new = rest - (rest @ V) @ V.T + 20.0 * U @ V.T
    nan, inf = moving[1].clone(), moving[1].clone()
    nan[2, 3], inf[59, 89] = torch.nan, -torch.inf
    group = [moving[1], moving[2], new, torch.zeros(60, 90), nan, inf,
             moving[1] * 1e-30, moving[2] * 1e34]  # fmt: skip
    before = leading_subspace(moving[0], 9, side=side)
    basis = before.basis
    direction = U if side == "left" else V
    blind = torch.linalg.qr(basis - direction @ (direction.T @ basis)).Q
    bases = [basis, basis, blind, *[basis] * 5]
    return group, bases, [before.epsilon / before.fro**2] * len(group)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_group_is_its_matrices_one_by_one(side: Side) -> None:
    group, bases, ratios = mixed_group(side)
    methods = []
    for previous in (bases, [None] * len(group), [None, *bases[1:]]):
        found = leading_subspaces(
            group, 9, previous=previous, previous_epsilon_ratios=ratios, side=side, seed=5, fresh=0
        )
        for i, (one, G) in enumerate(zip(found, group, strict=True)):
            options: dict[str, Any] = {
                "previous": previous[i], "previous_epsilon_ratio": ratios[i],
                "side": side, "seed": 5, "fresh": 0,
            }  # fmt: skip
            if isinstance(one, NonFinite):
                with pytest.raises(NonFinite) as caught:
                    leading_subspace(G, 9, **options)
                counts = caught.value.n_nan, caught.value.n_inf, caught.value.first_index
                assert (one.n_nan, one.n_inf, one.first_index) == counts
                methods.append("non_finite")
                continue
            alone = leading_subspace(G, 9, **options)
            assert (one.method, one.restarted) == (alone.method, alone.restarted)
            assert one.fro == alone.fro
            np.testing.assert_allclose(one.sigma, alone.sigma, rtol=1e-4)
            assert one.epsilon == pytest.approx(alone.epsilon, rel=1e-4)
            if one.method != "zero":
                assert_certified(one, G, float(G.abs().max()))
            methods.append(f"{one.method} again" if one.restarted else one.method)
    last = ["zero", "non_finite", "non_finite"]
    assert methods == [
        *["warm", "warm", "cold again", *last, "warm", "warm"],
        *["cold", "cold", "cold", *last, "cold", "cold"],
        *["cold", "warm", "cold again", *last, "warm", "warm"],
    ]


def test_half_precision_is_computed_in_float32() -> None:
    G = next(trajectory(64, 80, 1)).to(torch.bfloat16)
    found, wide = leading_subspace(G, 8), leading_subspace(G.float(), 8)
    assert found.basis.dtype == torch.float32
    assert torch.equal(found.basis, wide.basis)


def test_repeats_to_the_bit_and_leaves_the_global_state_alone() -> None:
    first, second = trajectory(64, 80, 2)
    products: Any = torch.backends.mkldnn
    precision = products.matmul.fp32_precision
    torch.manual_seed(1)
    state = torch.get_rng_state()
    kept = second.clone()
    runs = []
    for _ in range(2):
        cold = leading_subspace(first, 8, seed=3)
        runs.append(leading_subspace(second, 8, previous=cold.basis, seed=4))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(second, kept)
    assert products.matmul.fp32_precision == precision
    assert torch.equal(runs[0].basis, runs[1].basis)
    assert runs[0].epsilon == runs[1].epsilon
    assert not torch.equal(leading_subspace(second, 8, seed=5).basis, runs[0].basis)


def test_autocast_does_not_reach_the_products() -> None:
    G = next(trajectory(64, 80, 1)).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = leading_subspace(G, 8)
    assert torch.equal(inside.basis, leading_subspace(G, 8).basis)
    assert not inside.basis.requires_grad


def test_another_rank_and_dtype_of_the_previous_basis() -> None:
    G = next(trajectory(64, 80, 1))
    best = leading_subspace(G, 24).basis
    for columns in (0, 3, 24):
        found = leading_subspace(G, 12, previous=best[:, :columns].double(), side="left")
        assert found.basis.shape == (64, 12)
        assert found.basis.dtype == torch.float32


def test_zero_and_empty() -> None:
    found = leading_subspace(torch.zeros(5, 9), 3)
    assert (found.method, found.fro, found.epsilon) == ("zero", 0.0, 0.0)
    assert torch.equal(found.basis, torch.eye(5, 3))
    assert not found.sigma.any()
    assert leading_subspace(torch.zeros(0, 9)).sigma.size == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite(bad: float, dtype: torch.dtype) -> None:
    G = torch.ones(40, 50, dtype=dtype)
    G[3, 7] = bad
    with pytest.raises(NonFinite) as caught:
        leading_subspace(G)
    assert caught.value.n_nan + caught.value.n_inf == 1
    assert caught.value.first_index == 157


def test_bad_arguments() -> None:
    G = torch.ones(40, 50)
    with pytest.raises(UsageError, match="rank"):
        leading_subspace(G, 0)
    with pytest.raises(UsageError, match="fresh"):
        leading_subspace(G, fresh=-1)
    with pytest.raises(ShapeMismatch, match="matrix"):
        leading_subspace(torch.ones(5))
    with pytest.raises(ShapeMismatch, match="50 rows"):
        leading_subspace(G, previous=torch.ones(50, 16))
