"""EVA's incremental PCA against a batch PCA and PEFT's, its ranks against enumeration."""

import itertools

import numpy as np
import pytest
import torch

from theory.eva_ranks import (
    component_cosines,
    converged,
    explained_variance_ratio,
    pca_update,
    redistribute_ranks,
)


def batches(seed, count=5, rows=20, width=8):
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((width, width)) * 2.0 ** -np.arange(width)[:, None]
    return [rng.standard_normal((rows, width)) @ mixing + 3.0 for _ in range(count)]


def test_all_components_equal_batch_pca():
    parts = batches(0)
    state = None
    for rows in parts:
        state = pca_update(state, rows, 8)
    whole = np.vstack(parts)
    centred = whole - whole.mean(axis=0)
    _, s, Vt = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(state.mean, whole.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(state.singular_values, s, rtol=1e-10)
    np.testing.assert_allclose(np.abs(np.sum(state.components * Vt, axis=1)), 1.0, atol=1e-10)
    np.testing.assert_allclose(explained_variance_ratio(state), s**2 / np.sum(s**2), rtol=1e-10)


def test_truncated_update_is_peft_s():
    from peft.utils.incremental_pca import IncrementalPCA

    peer, state = IncrementalPCA(n_components=3), None
    for rows in batches(1):
        peer.partial_fit(torch.tensor(rows))
        before, state = state, pca_update(state, rows, 3)
        np.testing.assert_allclose(
            explained_variance_ratio(state), peer.explained_variance_ratio_.numpy(), rtol=1e-6
        )
        cosines = np.abs(np.sum(state.components * peer.components_.numpy(), axis=1))
        np.testing.assert_allclose(cosines, 1.0, atol=1e-9)
        if before is not None:
            moved = np.abs(np.sum(before.components * state.components, axis=1))
            np.testing.assert_allclose(component_cosines(before, state), moved, atol=1e-12)


def test_stopping_rule():
    first = pca_update(None, batches(2)[0], 3)
    more = pca_update(first, batches(2)[0], 3)  # the same rows: same centre, same components
    assert converged(first, more)
    np.testing.assert_allclose(component_cosines(first, more), 1.0, atol=1e-10)
    other = np.random.default_rng(3).standard_normal((200, 8)) * [1, 1, 1, 1, 1, 1, 1, 90]
    assert not converged(first, pca_update(first, other, 3))


@pytest.mark.parametrize("seed", range(10))
def test_redistribution_maximises_the_explained_variance(seed):
    rng = np.random.default_rng(seed)
    ratios = [np.sort(rng.dirichlet(np.full(6, 0.4)))[::-1] for _ in range(4)]
    found = redistribute_ranks(ratios, 2, rho=2.0)
    assert sum(found.ranks) == 8 and max(found.ranks) <= 4 and found.unassigned == 0
    value = sum(r[:k].sum() for r, k in zip(ratios, found.ranks, strict=True))
    best = max(
        sum(r[:k].sum() for r, k in zip(ratios, ks, strict=True))
        for ks in itertools.product(range(5), repeat=4)
        if sum(ks) == 8
    )
    assert value == pytest.approx(best, rel=1e-12)


def test_budget_that_cannot_be_spent_is_reported():
    found = redistribute_ranks([[0.9], [0.5, 0.1]], 2)
    assert found.ranks == (1, 2) and found.unassigned == 1
    assert redistribute_ranks([], 2).ranks == ()
    assert redistribute_ranks([[0.4, 0.3], [0.4, 0.3]], 1, rho=1.0).ranks == (1, 1)


def test_bad_input():
    rows = batches(0)[0]
    with pytest.raises(ValueError, match=r"1..8, got 9"):
        pca_update(None, rows, 9)
    with pytest.raises(ValueError, match=r"1..2, got 3"):
        pca_update(None, rows[:2], 3)
    with pytest.raises(ValueError, match="width 7 do not continue rows of 8"):
        pca_update(pca_update(None, rows, 2), rows[:, :7], 2)
    with pytest.raises(ValueError, match=r"got 2 and 0\.5"):
        redistribute_ranks([[1.0]], 2, rho=0.5)
    with pytest.raises(ValueError, match=r"got 0 and 2\.0"):
        redistribute_ranks([[1.0]], 0)
    assert explained_variance_ratio(pca_update(None, np.ones((4, 3)), 2)) is None
