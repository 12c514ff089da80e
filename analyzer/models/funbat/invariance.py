"""Steps along the directions that the likelihood does not see.

U^k → A U^k with the core turned by A⁻ᵀ leaves every prediction as it is; the priors alone decide on
A, and alternating updates of functions and core approach their choice very slowly. Such a step is
taken exactly, before a sweep (Y. Qi & T. Jaakkola, "Parameter expanded variational Bayesian
methods", NIPS 2006; J. Luttinen & A. Ilin, "Transformations in variational Bayesian factor
analysis to speed up learning", Neurocomputing 73, 2010). With

    Ψ = E[U K⁻¹ Uᵀ],   Φ = E[W_(k) W_(k)ᵀ]/v,   c = n - P/r,   S = AᵀA

the bound changes by -½tr(ΨS) - ½tr(ΦS⁻¹) + ½c ln|S|, whose maximum solves SΨS - cS - Φ = 0.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.optimize import root_scalar

from analyzer.models.funbat.factors import Array, Factor
from analyzer.models.funbat.messages import Core
from analyzer.models.funbat.state import Posterior, Problem


def rebalance(problem: Problem, posterior: Posterior) -> Posterior:
    """The best A of every mode in turn, or for a diagonal core the best scales.

    The factors' messages still belong to the functions before: a sweep must follow.
    """
    if posterior.core is None:
        return replace(posterior, factors=_rescaled(posterior.factors))
    factors, core = list(posterior.factors), posterior.core
    for k, factor in enumerate(factors):
        A = _best_transform(_prior_energy(factor), core, k, len(factor.mean), problem.constant)
        factors[k] = _transformed(factor, A)
        core = _turned(core, k, np.linalg.inv(A).T.astype(np.float64), problem.constant)
    return replace(posterior, factors=tuple(factors), core=core)


def _prior_energy(factor: Factor) -> Array:
    """Ψ (r, r), from K⁻¹ E[uuᵀ] = I - Λ Cov + (η - Λm)mᵀ at every index."""
    residual = factor.linear - (factor.precision @ factor.mean[..., None])[..., 0]
    n, r = factor.mean.shape
    Psi = factor.mean.T @ residual + n * np.eye(r)
    Psi -= np.einsum("sij,sjk->ik", factor.cov, factor.precision)
    return 0.5 * (Psi + Psi.T)


def _best_transform(Psi: Array, core: Core, mode: int, n: int, constant: bool) -> Array:
    """A (r, r) symmetric; the identity where Ψ is not positive, which only rounding can do."""
    r = Psi.shape[0]
    values, vectors = np.linalg.eigh(Psi)
    if values[0] <= 0.0:
        return np.eye(r)
    root = (vectors * np.sqrt(values)) @ vectors.T
    inverse_root = (vectors / np.sqrt(values)) @ vectors.T
    Phi = _core_energy(core, mode)[constant:, constant:] / core.prior_variance
    c = n - core.mean.size / core.mean.shape[mode]
    inner, basis = np.linalg.eigh(root @ Phi @ root)
    S = inverse_root @ ((basis * _positive_root(c, inner)) @ basis.T) @ inverse_root
    squares, axes = np.linalg.eigh(S)
    if squares[0] <= 0.0:
        return np.eye(r)
    return (axes * np.sqrt(squares)) @ axes.T


def _positive_root(c: float, inner: Array) -> Array:
    """s > 0 with s² - cs - φ = 0, without cancellation for c < 0."""
    phi = np.maximum(inner, 0.0)
    discriminant = np.sqrt(c * c + 4.0 * phi)
    return 0.5 * (c + discriminant) if c > 0.0 else 2.0 * phi / (discriminant - c)


def _core_energy(core: Core, mode: int) -> Array:
    """E[W_(k) W_(k)ᵀ] (r_k, r_k)."""
    ranks = core.mean.shape
    before, r, after = int(np.prod(ranks[:mode])), ranks[mode], int(np.prod(ranks[mode + 1 :]))
    W = core.mean.reshape(before, r, after)
    cov = core.cov.reshape(before, r, after, before, r, after)
    return np.einsum("aib,ajb->ij", W, W) + np.einsum("aibajb->ij", cov)


def _transformed(factor: Factor, A: Array) -> Factor:
    return replace(factor, mean=factor.mean @ A.T, cov=A @ factor.cov @ A.T)


def _turned(core: Core, mode: int, B: Array, constant: bool) -> Core:
    """w → (I ⊗ B ⊗ I) w in one mode; the constant's slice stays."""
    ranks = core.mean.shape
    full = np.eye(ranks[mode])
    full[constant:, constant:] = B
    mean = np.moveaxis(np.tensordot(full, core.mean, (1, mode)), 0, mode)
    K, P = len(ranks), core.mean.size
    cov = core.cov.reshape(*ranks, *ranks)
    for axis in (mode, K + mode):
        cov = np.moveaxis(np.tensordot(full, cov, (1, axis)), 0, axis)
    return replace(core, mean=mean, cov=cov.reshape(P, P))


def _rescaled(factors: tuple[Factor, ...]) -> tuple[Factor, ...]:
    """Scales a_k of every component with Π_k a_k = 1: a_k² = (n_k - μ)/Ψ_k for one μ."""
    n = np.array([float(len(f.mean)) for f in factors])
    energies = np.array([np.diag(_prior_energy(f)) for f in factors])
    scales = np.ones_like(energies)
    for j in range(energies.shape[1]):
        Psi = energies[:, j]
        if np.all(Psi > 1e-9 * n):  # always, but for rounding
            scales[:, j] = np.sqrt((n - _multiplier(n, Psi)) / Psi)
    return tuple(_transformed(f, np.diag(a)) for f, a in zip(factors, scales, strict=True))


def _multiplier(n: Array, Psi: Array) -> float:
    """μ < min n with Σ ln((n - μ)/Ψ) = 0; the sum falls in μ."""

    def excess(mu: float) -> float:
        return float(np.log((n - mu) / Psi).sum())

    low = high = float(n.min()) - 1.0
    while excess(low) < 0.0:
        low -= 2.0 * (float(n.max()) - low)
    while excess(high) > 0.0:
        high = 0.5 * (high + float(n.min()))
    return float(root_scalar(excess, bracket=(low, high), xtol=1e-10).root)
