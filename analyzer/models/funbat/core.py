"""q(w) of the Tucker core and q(τ) of the noise, given all functions.

With z_n = ⊗_k u^k, G = Σ τ_n E[z_n z_nᵀ] and h = Σ τ_n y_n E[z_n]:

    q(w) = N(S h, S),  S = (G + I/v)⁻¹;    v = mean(diag S + m²)
    q(τ_g) = Gamma(a₀ + N_g/2, b₀ + ½ Σ_{n in g} E[(y_n - wᵀz_n)²])

The sums over entries that the last mode's functions were updated from hold all that is needed: they
depend on the other modes only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve
from scipy.special import digamma, gammaln

from analyzer.errors import NotConverged
from analyzer.models.funbat.messages import Core, Moments, Sums, contract
from analyzer.models.funbat.packing import pack, packed_size, unpack_pairs

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Noise:
    """q(τ_g) = Gamma(shape, rate) of G groups: one, or one an index of a mode."""

    shape: Array  # a (G,)
    rate: Array  # b (G,)

    @property
    def precision(self) -> Array:
        """E[τ] = a/b (G,)."""
        return self.shape / self.rate

    @property
    def variance(self) -> Array:
        """E[1/τ] = b/(a - 1) (G,).

        It grows beyond use in a group of one or two entries (a < 2): there 2b/a stands for it.
        """
        return self.rate / np.maximum(self.shape - 1.0, 0.5 * self.shape)


def core_messages(
    sums: Sums, own: Moments, mode: int, ranks: tuple[int, ...]
) -> tuple[Array, Array]:
    """G (P, P) and h (P,) from the weighted sums of one mode and that mode's own moments."""
    others = [r for k, r in enumerate(ranks) if k != mode]
    square = (own.second.T @ sums.square).reshape(-1, *map(packed_size, others))
    linear = (own.mean.T @ sums.linear).reshape(-1, *others)
    G = unpack_pairs(np.moveaxis(square, 0, mode), ranks)
    return G, np.moveaxis(linear, 0, mode).ravel()


def update_core(G: Array, h: Array, ranks: tuple[int, ...], prior_variance: float) -> Core:
    """q(w). Raises NotConverged where G + I/v is not positive definite in float64."""
    precision = G + np.eye(h.size) / prior_variance
    try:
        root = np.linalg.cholesky(precision)
    except np.linalg.LinAlgError as error:
        condition = float(np.linalg.cond(precision))
        raise NotConverged(
            f"the core's precision is not positive definite (condition number {condition:.1e})",
            hint="use smaller ranks",
        ) from error
    cov = cho_solve((root, True), np.eye(h.size))
    return Core((cov @ h).reshape(ranks), 0.5 * (cov + cov.T), prior_variance)


def learned_prior_variance(core: Core) -> float:
    """v that maximises the ELBO: mean of E[w_p²]."""
    return float(np.mean(np.diag(core.cov) + core.mean.ravel() ** 2))


def squared_errors(
    unweighted: Sums, own: Moments, squares: Array, core: Core | None, mode: int
) -> Array:
    """Σ_{n at s} E[(y_n - f_n)²] at every index s of one mode, from its unweighted sums.

    `squares` (n,) holds Σ_{n at s} y_n².
    """
    Lam, eta = contract(unweighted, core, mode, own.mean.shape[1])
    both = np.where(np.eye(Lam.shape[-1], dtype=bool), 1.0, 2.0)
    return squares - 2.0 * (own.mean * eta).sum(-1) + (own.second * pack(both * Lam)).sum(-1)


def update_noise(sse: Array, counts: Array, a0: float, b0: float) -> Noise:
    """q(τ) from Σ E[(y - f)²] and the number of entries of every group (G,)."""
    return Noise(a0 + 0.5 * counts, b0 + 0.5 * np.maximum(sse, 0.0))


def noise_terms(noise: Noise, sse: Array, counts: Array, a0: float, b0: float) -> float:
    """Σ_g E[ln p(y_g)] - KL(q(τ_g) ‖ Gamma(a₀, b₀))."""
    a, b = noise.shape, noise.rate
    log_tau = digamma(a) - np.log(b)
    likelihood = 0.5 * counts * (log_tau - np.log(2.0 * np.pi)) - 0.5 * noise.precision * sse
    divergence = (
        (a - a0) * digamma(a)
        - gammaln(a)
        + gammaln(a0)
        + a0 * (np.log(b) - np.log(b0))
        + a * (b0 - b) / b
    )
    return float((likelihood - divergence).sum())


def core_divergence(core: Core) -> float:
    """KL(q(w) ‖ N(0, v I))."""
    v, P = core.prior_variance, core.mean.size
    _, log_det = np.linalg.slogdet(core.cov)
    spread = (np.trace(core.cov) + (core.mean**2).sum()) / v
    return 0.5 * float(spread - P + P * np.log(v) - log_det)
