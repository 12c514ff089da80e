"""CorDA against PEFT's module; EoRA against whitening, least squares and random competitors."""

import numpy as np
import pytest
import torch

from theory.activation_aware import batch_mean_adequacy, corda, eora, second_moment


def problem(seed, m=9, n=7, samples=40):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((samples, n)) @ (rng.standard_normal((n, n)) * np.geomspace(3, 0.2, n))
    return rng.standard_normal((m, n)), X


@pytest.mark.parametrize("shape", [(9, 7), (5, 7)])
def test_corda_splits_the_weight_exactly(shape):
    W, X = problem(0, *shape)
    C = second_moment(X)
    for rank in range(1, min(shape)):
        top = corda(W, C, rank, "ipm")
        bottom = corda(W, C, min(shape) - rank, "kpm")
        np.testing.assert_allclose(top.B @ top.A + bottom.B @ bottom.A, W, atol=1e-11)
        np.testing.assert_allclose(top.residual + top.B @ top.A, W, atol=1e-14)
        assert top.A.shape == (rank, shape[1]) and top.B.shape == (shape[0], rank)
    whole = corda(W, C, min(shape), "ipm")
    assert np.linalg.norm(whole.residual) < 1e-11 and whole.reconstruction_error < 1e-11
    damped = C + 0.01 * np.mean(np.diag(C)) * np.eye(shape[1])
    # the adapter's part of W C is its best approximation
    s = np.linalg.svd(W @ damped, compute_uv=False)
    two = corda(W, C, 2, "ipm")
    assert np.linalg.norm(two.residual @ damped) == pytest.approx(np.linalg.norm(s[2:]))
    assert two.condition == pytest.approx(np.linalg.cond(damped))


@pytest.mark.parametrize("mode", ["ipm", "kpm"])
def test_corda_is_peft_s(mode):
    from peft import LoraConfig
    from peft.tuners.lora.corda import collect_eigens_for_layer

    W, X = problem(1)
    linear = torch.nn.Linear(7, 9, bias=False)
    linear.weight.data = torch.tensor(W, dtype=torch.float32)
    linear.covariance_matrix = torch.tensor(second_moment(X), dtype=torch.float32)
    eigens = collect_eigens_for_layer(linear, LoraConfig())
    part = slice(0, 3) if mode == "ipm" else slice(-3, None)
    expected = eigens.U_WC[:, part] * eigens.S_WC[part] @ eigens.V_WC[:, part].T
    ours = corda(W, second_moment(X), 3, mode)
    np.testing.assert_allclose(ours.B @ ours.A, expected.numpy(), atol=2e-4)
    np.testing.assert_allclose(ours.singular_values, eigens.S_WC.numpy(), rtol=1e-4, atol=1e-5)


def output_error(D, BA, X):
    return np.linalg.norm((D - BA) @ X.T) / np.sqrt(X.shape[0])


@pytest.mark.parametrize("rank", [1, 3, 7])
def test_eora_equals_the_whitened_solution(rank):
    D, X = problem(2)
    found = eora(D, second_moment(X), rank)
    root = np.linalg.cholesky(second_moment(X))
    U, s, Vt = np.linalg.svd(D @ root)
    dense = np.linalg.solve(root.T, ((U[:, :rank] * s[:rank]) @ Vt[:rank]).T).T
    np.testing.assert_allclose(found.B @ found.A, dense, atol=1e-9)
    assert found.error == pytest.approx(output_error(D, found.B @ found.A, X), abs=1e-9)
    assert found.null_directions == 0


def test_no_competitor_beats_eora():
    rng = np.random.default_rng(3)
    D, X = problem(3)
    found, r = eora(D, second_moment(X), 2), 2
    assert found.error < 0.999 * output_error(D, np.zeros_like(D), X)
    U, s, Vt = np.linalg.svd(D)
    plain = (U[:, :r] * s[:r]) @ Vt[:r]
    assert found.error < 0.99 * output_error(D, plain, X)
    for trial in range(200):
        size = 10.0 ** rng.uniform(-4, 0.5)
        start = (found.B, found.A) if trial % 2 else (0.0, 0.0)
        B = start[0] + size * rng.standard_normal(found.B.shape)
        A = start[1] + size * rng.standard_normal(found.A.shape)
        assert output_error(D, B @ A, X) >= found.error * (1 - 1e-12)
        # the best B for this A, by least squares
        B = np.linalg.lstsq(X @ A.T, X @ D.T, rcond=None)[0].T
        assert output_error(D, B @ A, X) >= found.error * (1 - 1e-12)


def test_eora_with_fewer_samples_than_inputs():
    D, X = problem(4, samples=4)
    found = eora(D, second_moment(X), 2)
    assert found.null_directions == 3
    s = np.linalg.svd(D @ X.T / 2.0, compute_uv=False)  # √N = 2
    assert found.error == pytest.approx(np.linalg.norm(s[2:]), rel=1e-9)
    assert output_error(D, found.B @ found.A, X) == pytest.approx(found.error, rel=1e-7)
    unseen = np.linalg.svd(X)[2][4:]
    assert np.linalg.norm(found.A @ unseen.T) < 1e-9 * np.linalg.norm(found.A)


def test_batch_mean_adequacy():
    rng = np.random.default_rng(5)
    X = rng.standard_normal((50, 6)) + 0.5
    C = second_moment(X)
    mean = X.mean(axis=0)
    expected = np.trace(np.outer(mean, mean)) / np.trace(C)
    assert batch_mean_adequacy(X) == pytest.approx(expected, rel=1e-12)
    assert batch_mean_adequacy(1e-200 * X) == pytest.approx(expected, rel=1e-12)
    assert batch_mean_adequacy(np.tile(X[:1], (4, 1))) == pytest.approx(1.0)
    assert batch_mean_adequacy(np.vstack([X, -X])) == pytest.approx(0.0, abs=1e-30)
    assert batch_mean_adequacy(np.zeros((3, 2))) is None


def test_bad_input():
    W, X = problem(6)
    C = second_moment(X)
    for rank in (0, 8):
        with pytest.raises(ValueError, match=f"1..7 for a 9 x 7 matrix, got {rank}"):
            corda(W, C, rank, "ipm")
        with pytest.raises(ValueError, match=f"1..7 for a 9 x 7 matrix, got {rank}"):
            eora(W, C, rank)
    with pytest.raises(ValueError, match="positive definite, smallest eigenvalue 0"):
        corda(W, np.zeros((7, 7)), 2, "ipm")
    with pytest.raises(ValueError, match="positive semidefinite, smallest eigenvalue -1"):
        eora(W, np.diag([1.0, 1, 1, 1, 1, 1, -1]), 2)
    with pytest.raises(ValueError, match="do not fit the 7 inputs"):
        eora(W, np.eye(6), 2)
    with pytest.raises(ValueError, match="symmetric"):
        eora(W, np.triu(np.ones((7, 7))), 2)
    with pytest.raises(ValueError, match="got 'top'"):
        corda(W, C, 2, "top")
