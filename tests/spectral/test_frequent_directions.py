"""Frequent Directions: the worked case and the guarantee on any stream."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from analyzer.errors import NonFinite, ShapeMismatch, UsageError
from analyzer.spectral import FrequentDirections
from analyzer.spectral.frequent_directions import empty, extend


def closed(m: int, n: int, c: float) -> torch.Tensor:
    i, j = np.mgrid[1 : m + 1, 1 : n + 1]
    return torch.from_numpy(np.sin(i * np.sqrt(j) + 0.37 * j + c))


def streamed(blocks: list[torch.Tensor], size: int) -> FrequentDirections:
    state = empty(size, blocks[0].shape[1])
    for block in blocks:
        state = extend(state, block)
    return state


def difference(blocks: list[torch.Tensor], state: FrequentDirections) -> np.ndarray:
    """Eigenvalues of AᵀA − BᵀB, ascending."""
    A, B = torch.cat(blocks).double().numpy(), state.sketch.numpy()
    return np.linalg.eigvalsh(A.T @ A - B.T @ B)


def test_worked_case() -> None:
    blocks = [closed(6, 8, 0.3 * t) for t in range(4)]
    state = streamed(blocks, 4)
    assert state.shrink == pytest.approx(5.13787570, abs=5e-9)
    assert difference(blocks, state)[-1] == pytest.approx(5.13787460, abs=5e-9)
    assert float(state.sketch.square().sum()) == pytest.approx(69.12209049, abs=5e-9)
    assert state.energy == pytest.approx(96.20353786, abs=1e-8)
    s = np.linalg.svd(torch.cat(blocks).numpy(), compute_uv=False)
    assert (s[1:] ** 2).sum() / 3 == pytest.approx(22.80108061, abs=5e-9)


@given(
    seed=st.integers(0, 10**6),
    size=st.integers(1, 12),
    columns=st.integers(1, 30),
    heights=st.lists(st.integers(0, 40), min_size=1, max_size=6),
    decay=st.floats(0.0, 4.0),
    wide=st.booleans(),
)
def test_guarantee(
    seed: int, size: int, columns: int, heights: list[int], decay: float, wide: bool
) -> None:
    rng = np.random.default_rng(seed)
    scale = np.arange(1, columns + 1) ** -decay
    blocks = [torch.from_numpy(rng.standard_normal((h, columns)) * scale) for h in heights]
    blocks = blocks if wide else [block.float() for block in blocks]
    state = streamed(blocks, size)
    A = torch.cat(blocks).double().numpy()
    total = float((A**2).sum())
    eigenvalues = difference(blocks, state)
    assert eigenvalues[0] >= -1e-12 * total
    assert eigenvalues[-1] <= state.shrink + 1e-12 * total
    assert state.energy == pytest.approx(total, rel=1e-12)
    tails = np.append(np.cumsum(np.linalg.svd(A, compute_uv=False)[::-1] ** 2)[::-1], 0.0)
    for j in range(min(size, tails.size)):
        assert state.shrink <= tails[j] / (size - j) + 1e-12 * total


def test_nothing_is_lost_while_the_rank_fits() -> None:
    rng = np.random.default_rng(0)
    basis = rng.standard_normal((5, 20))
    blocks = [torch.from_numpy(rng.standard_normal((h, 5)) @ basis) for h in (3, 40, 1)]
    state = streamed(blocks, 6)
    assert state.shrink < 1e-12 * state.energy
    assert np.abs(difference(blocks, state)).max() < 1e-12 * state.energy


def test_earlier_states_stay_as_they_were() -> None:
    first = extend(empty(3, 8), closed(6, 8, 0.0))
    kept = first.sketch.clone()
    extend(first, closed(6, 8, 0.3))
    assert torch.equal(first.sketch, kept)


def test_bad_arguments() -> None:
    with pytest.raises(UsageError, match="at least one row"):
        empty(0, 4)
    with pytest.raises(ShapeMismatch, match="4 columns"):
        extend(empty(2, 4), torch.ones(3, 5))
    with pytest.raises(NonFinite, match="1 NaN"):
        extend(empty(2, 2), torch.tensor([[1.0, np.nan]]))
