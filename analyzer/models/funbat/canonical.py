"""One form of a fit for display, and the fit as TensorLy's Tucker tensor.

Functions are determined up to an invertible map that the core absorbs. Here every mode's functions
become orthonormal over its observed indexes (mean square 1) and the core all-orthogonal with slices
of falling norm (L. De Lathauwer et al., "A multilinear singular value decomposition", SIAM J.
Matrix Anal. Appl. 21, 2000); the largest value of each function is positive. Predictions at
the observed indexes stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from analyzer.models.funbat.entries import Array
from analyzer.models.funbat.model import FunbatFit


@dataclass(frozen=True, slots=True)
class CanonicalForm:
    """Standardised values are core ×₁ factors[0] … ×_K factors[K-1]."""

    core: Array  # (r_1, …, r_K)
    factors: tuple[Array, ...]  # (n_k, r_k)


def grid_factors(fit: FunbatFit) -> list[Array]:
    """Posterior means (n_k, r_k) at the observed indexes, the constant 1 first if there is one."""
    means = [factor.mean for factor in fit.factors]
    return [np.insert(mean, 0, 1.0, axis=1) for mean in means] if fit.constant else means


def tucker_tensor(fit: FunbatFit) -> Any:
    """`tensorly.tucker_tensor.TuckerTensor` of posterior means, in standardised values."""
    from tensorly.tucker_tensor import TuckerTensor

    return TuckerTensor((fit.core, grid_factors(fit)))


def canonical_form(fit: FunbatFit) -> CanonicalForm:
    """Orthonormal functions and an all-orthogonal core."""
    core, orthonormal = fit.core, []
    for k, factor in enumerate(grid_factors(fit)):
        Q, R = np.linalg.qr(factor / np.sqrt(len(factor)))
        core = _multiply(core, R, k)
        orthonormal.append(Q * np.sqrt(len(factor)))
    rotations = [
        np.linalg.svd(np.moveaxis(core, k, 0).reshape(core.shape[k], -1), full_matrices=False)[0]
        for k in range(core.ndim)
    ]
    factors: list[Array] = []
    for k, (Q, rotation) in enumerate(zip(orthonormal, rotations, strict=True)):
        turned = Q @ rotation
        peaks = turned[np.abs(turned).argmax(0), np.arange(turned.shape[1])]
        signs = np.where(peaks < 0.0, -1.0, 1.0)
        core = _multiply(core, (rotation * signs).T, k)
        factors.append(turned * signs)
    return CanonicalForm(core, tuple(factors))


def _multiply(tensor: Array, matrix: Array, mode: int) -> Array:
    return np.moveaxis(np.tensordot(matrix, tensor, (1, mode)), 0, mode)
