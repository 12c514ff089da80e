"""The sequential smoother, the scans and the dense solve against each other and worked numbers."""

import numpy as np
import pytest
from mpmath import mp

from theory import dense_gp, kalman, kalman_scan, ornstein_uhlenbeck
from theory.kalman import matern_chain, values_of, whiten
from theory.state_space import MATERN, covariance, decay, n_states


def random_messages(rng, shape, r, scale=1.0):
    """Λ of full or deficient rank or 0, and η in its range."""
    R = rng.normal(size=(*shape, r, r)) * np.exp(rng.normal(size=(*shape, 1, 1))) * scale
    R[..., 0] *= rng.random((*shape, 1)) > 0.3
    Lam = R @ np.swapaxes(R, -1, -2) * (rng.random((*shape, 1, 1)) > 0.3)
    return Lam, (Lam @ rng.normal(size=(*shape, r, 1)))[..., 0]


def dense(kernel, x, ell, Lam, eta, at=None):
    at = x if at is None else at
    K, cross = (covariance(kernel, np.subtract.outer(a, x), ell) for a in (x, at))
    return dense_gp.smooth(K, cross, np.ones(at.size), whiten(Lam, eta))


def textbook(kernel, x, ell, Lam, eta):
    """Mean, covariance blocks, ln ∫ of everything at once, (I + KΛ)⁻¹K and det(I + KΛ)."""
    n, r = eta.shape
    K = np.kron(covariance(kernel, np.subtract.outer(x, x), ell), np.eye(r))
    blocks = np.zeros((n * r, n * r))
    for s in range(n):
        blocks[s * r : (s + 1) * r, s * r : (s + 1) * r] = Lam[s]
    M = np.eye(n * r) + K @ blocks
    cov = np.linalg.solve(M, K)
    mean = cov @ eta.ravel()
    log_normaliser = 0.5 * (eta.ravel() @ mean) - 0.5 * np.linalg.slogdet(M)[1]
    each = np.array([cov[s * r : (s + 1) * r, s * r : (s + 1) * r] for s in range(n)])
    return mean.reshape(n, r), each, log_normaliser


def high_precision(kernel, x, y, ell, noise):
    """Posterior mean and variance at the data in 60 digits."""
    mp.dps = 60
    K = mp.matrix(x.size, x.size)
    for i, j in np.ndindex(x.size, x.size):
        u = mp.mpf(decay(kernel, ell)) * abs(mp.mpf(x[i]) - mp.mpf(x[j]))
        K[i, j] = (1, 1 + u, 1 + u + u * u / 3)[n_states(kernel) - 1] * mp.exp(-u)
    gain = K * mp.inverse(K + mp.mpf(noise) * mp.eye(x.size))
    mean, cov = gain * mp.matrix(y.tolist()), K - gain * K
    return [float(m) for m in mean], [float(cov[i, i]) for i in range(x.size)]


@pytest.mark.parametrize("kernel", MATERN)
@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 16, 33])
def test_three_back_ends_and_one_solve(kernel, n):
    rng = np.random.default_rng(n)
    for r in (1, 2, 3):
        x = np.sort(rng.random(n)) * rng.choice([0.3, 1.0, 20.0])
        Lam, eta = random_messages(rng, (n,), r)
        mean, cov, log_normaliser = textbook(kernel, x, 0.4, Lam, eta)
        chain, seen = matern_chain(kernel, x, 0.4, r), whiten(Lam, eta)
        p = chain.noise.shape[-1] // r
        for result in (kalman.smooth(chain, seen), kalman_scan.smooth(chain, seen)):
            np.testing.assert_allclose(values_of(result.mean, r), mean, atol=1e-8)
            np.testing.assert_allclose(result.cov[:, ::p, ::p], cov, atol=1e-8)
            assert result.log_normaliser == pytest.approx(log_normaliser, abs=1e-8, rel=1e-8)
        result = dense(kernel, x, 0.4, Lam, eta)
        np.testing.assert_allclose(result.mean, mean, atol=1e-8)
        np.testing.assert_allclose(result.cov, cov, atol=1e-8)
        assert result.log_normaliser == pytest.approx(log_normaliser, abs=1e-8, rel=1e-8)
        assert kalman_scan.log_normaliser(chain, seen) == pytest.approx(
            log_normaliser, abs=1e-8, rel=1e-8
        )


def test_correlated_functions_worked_case():
    x, variance = np.array([0.0, 0.2, 0.5]), 1.5
    R = np.array([[1.0, 0.0], [0.5, 2.0]])
    Lam = np.array([(s + 1) * R @ R.T if s != 1 else np.zeros((2, 2)) for s in range(3)])
    eta = np.array([Lam[s] @ [np.cos(s + 1), np.sin(2 * s)] for s in range(3)])
    seen = whiten(variance * Lam, np.sqrt(variance) * eta)  # u = √variance · (unit process)
    for smoother in (kalman.smooth, kalman_scan.smooth):
        result = smoother(matern_chain("matern32", x, 0.4, 2), seen)
        np.testing.assert_allclose(
            np.sqrt(variance) * values_of(result.mean, 2),
            [[0.1836990224, -0.0054261337], [-0.1905001467, -0.2939077040],
             [-0.7825301001, -0.7369413887]],
            atol=1e-10,
        )  # fmt: skip
        cov = variance * result.cov[:, ::2, ::2]
        np.testing.assert_allclose(
            cov[0], [[0.5896243734, -0.0591039927], [-0.0591039927, 0.2054484210]], atol=1e-10
        )
        np.testing.assert_allclose(
            cov[1], [[0.6835709264, -0.0324189178], [-0.0324189178, 0.4728479605]], atol=1e-10
        )
        assert result.log_normaliser == pytest.approx(2.07551794127, abs=1e-10)


def test_batches_of_functions_and_modes():
    """Leading axes: two modes of different spacing, three sets of messages each."""
    rng = np.random.default_rng(5)
    x = np.sort(rng.random((2, 1, 9)), -1) * np.ones((2, 3, 1))
    Lam, eta = random_messages(rng, (2, 3, 9), 2)
    chain, seen = matern_chain("matern52", x, 0.3, 2), whiten(Lam, eta)
    for smoother in (kalman.smooth, kalman_scan.smooth):
        result = smoother(chain, seen)
        assert result.mean.shape == (2, 3, 9, 6) and result.log_normaliser.shape == (2, 3)
        for i, j in np.ndindex(2, 3):
            one = dense("matern52", x[i, j], 0.3, Lam[i, j], eta[i, j])
            np.testing.assert_allclose(values_of(result.mean, 2)[i, j], one.mean, atol=1e-10)
            np.testing.assert_allclose(result.cov[i, j, :, ::3, ::3], one.cov, atol=1e-10)
            assert result.log_normaliser[i, j] == pytest.approx(one.log_normaliser, abs=1e-9)


@pytest.mark.parametrize("kernel", MATERN)
def test_small_noise_and_short_gaps_at_high_precision(kernel):
    """Noise 1e-8 of the variance, gaps of 1e-6, a lengthscale of 30 spans."""
    x = np.array([0.0, 1e-6, 0.2, 0.200001, 0.5, 0.9, 1.0])
    y, noise, ell = np.sin(7 * x), 1e-8, 30.0
    exact_mean, exact_variance = high_precision(kernel, x, y, ell, noise)
    seen = whiten(np.full((x.size, 1, 1), 1 / noise), y[:, None] / noise)
    for smoother in (kalman.smooth, kalman_scan.smooth):
        result = smoother(matern_chain(kernel, x, ell), seen)
        np.testing.assert_allclose(result.mean[:, 0], exact_mean, atol=1e-8)
        np.testing.assert_allclose(result.cov[:, 0, 0], exact_variance, rtol=1e-7)


def test_repeated_indexes_and_nothing_known():
    x = np.array([0.0, 0.3, 0.3, 1.0])
    Lam = np.array([1.0, 2.0, 3.0, 0.0])[:, None, None]
    eta = np.array([0.5, -1.0, 2.0, 0.0])[:, None]
    merged = dense("matern32", x[[0, 1, 3]], 0.4, Lam[[0, 2, 3]] + [[[0.0]], [[2.0]], [[0.0]]],
                   eta[[0, 2, 3]] + [[0.0], [-1.0], [0.0]])  # fmt: skip
    for smoother in (kalman.smooth, kalman_scan.smooth):
        result = smoother(matern_chain("matern32", x, 0.4), whiten(Lam, eta))
        np.testing.assert_allclose(
            result.mean[[0, 1, 2, 3], 0], merged.mean[[0, 1, 1, 2], 0], atol=1e-12
        )
        prior = smoother(matern_chain("matern32", x, 0.4), whiten(0 * Lam, 0 * eta))
        assert not prior.mean.any() and prior.log_normaliser == 0.0
        np.testing.assert_allclose(prior.cov[:, 0, 0], 1.0)


def test_labels_are_independent():
    rng = np.random.default_rng(2)
    Lam, eta = random_messages(rng, (6,), 3)
    labels = np.arange(6.0)
    K = dense_gp.iid_covariance(labels, labels)
    whole = dense_gp.smooth(K, K, np.ones(6), whiten(Lam, eta))
    each = dense_gp.smooth_iid(whiten(Lam, eta))
    np.testing.assert_allclose(each.mean, whole.mean, atol=1e-12)
    np.testing.assert_allclose(each.cov, whole.cov, atol=1e-12)
    assert each.log_normaliser == pytest.approx(whole.log_normaliser)


@pytest.mark.parametrize("n", [1, 2, 3, 50])
def test_banded_precision_of_matern12(n):
    rng = np.random.default_rng(n)
    for r in (1, 2, 4):
        for ell in (1e-3, 0.3, 100.0):
            x = np.sort(rng.random(n)) + 1e-3 * np.arange(n)
            Lam, eta = random_messages(rng, (n,), r)
            mean, cov, log_normaliser = textbook("matern12", x, ell, Lam, eta)
            found = ornstein_uhlenbeck.smooth(np.diff(x) / ell, Lam, eta)
            np.testing.assert_allclose(found.mean, mean, atol=1e-8)
            np.testing.assert_allclose(found.cov, cov, atol=1e-8)
            for value in (
                found.log_normaliser,
                ornstein_uhlenbeck.log_normaliser(np.diff(x) / ell, Lam, eta),
            ):
                assert value == pytest.approx(log_normaliser, abs=1e-7, rel=1e-8)


@pytest.mark.parametrize("noise", [1e-8, 1.0, 1e4])
def test_banded_precision_at_its_shortest_gap(noise):
    x = np.array([0.0, 1e-6, 0.2, 0.2 + 1e-6, 0.5, 0.9])
    y = np.sin(7 * x)
    mean, variance = high_precision("matern12", x, y, 1.0, noise)
    found = ornstein_uhlenbeck.smooth(np.diff(x), np.full((6, 1, 1), 1 / noise), y[:, None] / noise)
    np.testing.assert_allclose(found.mean[:, 0], mean, atol=1e-9)
    np.testing.assert_allclose(found.cov[:, 0, 0], variance, rtol=1e-8)


def test_whitening():
    rng = np.random.default_rng(3)
    for r in (1, 3):
        Lam, eta = random_messages(rng, (20,), r)
        seen = whiten(Lam, eta)
        np.testing.assert_allclose(seen.root @ np.swapaxes(seen.root, 1, 2), Lam, atol=1e-11)
        np.testing.assert_allclose((seen.root @ seen.target[..., None])[..., 0], eta, atol=1e-9)
