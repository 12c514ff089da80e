"""How fast the stable rank of a gradient falls under GaLore's linear dynamics, with its conditions.

J. Zhao et al., "GaLore: Memory-Efficient LLM Training by Gradient Low-Rank Projection",
arXiv 2403.03507, ICML 2024: Lemma 3.3, Corollaries 3.4 and 3.5. With the modes of
`theory.galore_modes`, λ_1 < λ_2 ≤ … ≤ λ_max the active eigenvalues, G∥ the component of G_{t0} at
λ_1, q = ‖G_{t0} - G∥‖_F, ρ = (1 - ηλ_2)/(1 - ηλ_1) and x = ρ^(t-t0) q:

    printed    sr(G_t) ≤ sr(G∥) + x²/‖G∥‖₂²
    gap-aware  sr(G_t) ≤ min{min(m, n), (‖G∥‖_F² + x²)/(‖G∥‖₂ - g x)²}  if g x < ‖G∥‖₂

Both need 0 < η ≤ 2/(λ_2 + λ_max), which the paper does not state: it keeps every other mode within
ρ^(t-t0). The printed bound moreover needs the leading pair y z' of G∥ inside the eigenspace of λ_1,
g = ‖(I - Π)(y z')‖_F = 0, and fails in general. The gap-aware bound follows from
‖G_t‖₂ ≥ y'G_t z. The printed statement takes λ_1 from all of S; where G_{t0} has no component there
(Corollary 3.4's setting) it says nothing, and the smallest active eigenvalue takes its place.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from theory.galore_modes import (
    ACTIVE,
    DISTINCT,
    RITZ_TOLERANCE,
    GradientModes,
    gradient_modes,
    symmetric_stack,
)
from theory.verdicts import Conditional, Status, Verdict, at_most, exceeds

Array = NDArray[np.float64]

PRODUCT_FORM = 1e-7  # a smaller gap, or a smaller σ_2/σ_1, is rounding


@dataclass(frozen=True, slots=True)
class StableRankBounds:
    """Lemma 3.3 at T times: arrays (T,); `exact` is NaN where G_t = 0."""

    steps: NDArray[np.int64]  # t - t0
    eta: float
    lambda1: float
    lambda2: float | None  # None where G_{t0} lies in one eigenspace
    lambda_max: float
    eta_limit: float | None  # 2/(λ_2 + λ_max)
    parallel_stable_rank: float  # sr(G∥)
    coefficient: float  # q²/‖G∥‖₂²
    gap: float  # g, or an upper bound on it after Lanczos
    exact: Array  # sr(G_t)
    literal: Verdict  # is the smallest eigenvalue of S active, as the printed lemma needs?
    printed: Conditional[Array]
    gap_aware: Conditional[Array]

    @property
    def status(self) -> Status:
        """Of the gap-aware bound; if that is ok, of the lemma's literal reading."""
        verdict = self.gap_aware.verdict
        return self.literal.status if verdict.ok else verdict.status


@dataclass(frozen=True, slots=True)
class RankBound:
    """Corollary 3.4: `rank` bounds rank(G_t) for all t whatever the verdict on the corollary."""

    rank: int
    verdict: Verdict


def stable_rank_bounds(
    gradient: ArrayLike, left: ArrayLike, right: ArrayLike, eta: float, steps: ArrayLike
) -> StableRankBounds:
    """Exact curve and both bounds for G_{t0} (m, n), B (N, m, m), C (N, n, n) at t - t0 = steps.

    Raises ValueError as `gradient_modes`, and for steps that are not whole numbers ≥ 0.
    """
    return bounds_from_modes(gradient_modes(gradient, left, right), eta, steps)


def bounds_from_modes(modes: GradientModes, eta: float, steps: ArrayLike) -> StableRankBounds:
    """As `stable_rank_bounds`, for several η on one decomposition."""
    t = _whole_steps(steps)
    lambdas = modes.eigenvalues
    lambda2 = float(lambdas[1]) if lambdas.size > 1 else None
    s = np.linalg.svd(modes.components[0], compute_uv=False)
    q = float(np.linalg.norm(modes.components[1:].sum(axis=0)))
    norm, stable_rank = float(s[0]), float(np.sum((s / s[0]) ** 2))
    verdict = step_verdict(modes, eta)
    x = _transient(modes, eta, t, q)
    printed = gap_aware = None
    if x is not None:
        with np.errstate(over="ignore", invalid="ignore"):
            printed = stable_rank + (x / norm) ** 2
            gap_aware = _gap_aware(stable_rank, x / norm, modes)
    return StableRankBounds(
        steps=t,
        eta=float(eta),
        lambda1=float(lambdas[0]),
        lambda2=lambda2,
        lambda_max=float(lambdas[-1]),
        eta_limit=step_limit(modes),
        parallel_stable_rank=stable_rank,
        coefficient=(q / norm) ** 2,
        gap=modes.gap,
        exact=stable_rank_curve(modes, eta, t),
        literal=_literal_verdict(modes),
        printed=Conditional(_printed_verdict(modes, verdict), printed),
        gap_aware=Conditional(verdict, gap_aware),
    )


def step_limit(modes: GradientModes) -> float | None:
    """2/(λ_2 + λ_max); None with one active eigenvalue, where no step size is too large."""
    if modes.eigenvalues.size < 2:
        return None
    total = float(modes.eigenvalues[1] + modes.eigenvalues[-1])
    return 2.0 / total if total > 0.0 else None


def step_verdict(modes: GradientModes, eta: float) -> Verdict:
    """The conditions of both bounds on S and η. Raises ValueError for an η that is not finite."""
    if not np.isfinite(eta):
        raise ValueError(f"eta must be finite, got {eta}")
    if not modes.converged:
        condition = "residual of the outermost Ritz pairs <= limit"
        return Verdict("not_converged", condition, modes.residual, RITZ_TOLERANCE)
    if modes.smallest < -DISTINCT * float(np.max(np.abs(modes.eigenvalues))):
        condition = "S is positive semidefinite"
        return Verdict("condition_violated", condition, modes.smallest, 0.0)
    shrink = 1.0 - eta * float(modes.eigenvalues[0])
    if abs(shrink) <= 1e-12:
        return Verdict("condition_violated", "1 - eta*lambda_1 is not 0", shrink, 0.0)
    positive = exceeds("eta > 0", float(eta), 0.0)
    if not positive.ok:
        return positive
    limit = step_limit(modes)
    condition = "eta <= 2/(lambda_2 + lambda_max)"
    if limit is None:
        return Verdict("ok", condition, float(eta))
    return at_most(condition, float(eta), limit)


def gradient_at(modes: GradientModes, eta: float, step: int) -> Array:
    """G_{t0+step} (m, n) up to a positive factor that keeps it within range; zeros if G_t = 0.

    The factor is max_j |1 - ηλ_j|^(-step).
    """
    shrink = 1.0 - eta * modes.eigenvalues
    largest = float(np.max(np.abs(shrink)))
    if largest == 0.0:
        return modes.components.sum(axis=0) * float(step == 0)
    return np.tensordot((shrink / largest) ** step, modes.components, axes=1)


def stable_rank_curve(modes: GradientModes, eta: float, steps: ArrayLike) -> Array:
    """sr(G_t) = ‖G_t‖_F²/‖G_t‖₂² (T,), without any bound; NaN where G_t = 0."""
    curve = np.full(np.shape(steps), np.nan)
    for i, step in enumerate(_whole_steps(steps)):
        s = np.linalg.svd(gradient_at(modes, eta, int(step)), compute_uv=False)
        if s[0] > 0.0:
            curve[i] = np.sum((s / s[0]) ** 2)
    return curve


def activation_rank_bound(activations: ArrayLike, left: ArrayLike) -> RankBound:
    """Corollary 3.4: C_i = f_i f_i' from activations (N, n), B (N, m, m); N' = rank{f_i}.

    The corollary (sr(G∥) ≤ n - N', sr(G_t) ≤ n/2) is empty under its own hypotheses: rows of G_t
    lie in the span of the f_i and the null space of S is orthogonal to it, hence G∥ = 0. What stays
    true is rank(G_t) ≤ N'. Raises ValueError for shapes that do not fit.
    """
    f = np.asarray(activations, dtype=np.float64)
    B = symmetric_stack(left, "B")
    if f.ndim != 2 or f.shape[0] != B.shape[0]:
        raise ValueError(f"activations must have shape ({B.shape[0]}, n), got {f.shape}")
    if not np.isfinite(f).all():
        raise ValueError("activations has elements that are not finite")
    rank, n = int(np.linalg.matrix_rank(f)), f.shape[1]
    rank_bound = min(rank, B.shape[1])
    if rank >= n:
        verdict = at_most("rank of the activations <= n - 1", rank, n - 1)
        return RankBound(rank_bound, verdict)
    deficient = int(np.count_nonzero(np.linalg.matrix_rank(B, hermitian=True) < B.shape[1]))
    if deficient:
        verdict = at_most("number of rank-deficient B_i", deficient, 0)
        return RankBound(rank_bound, verdict)
    condition = "G_t0 has a component in the null space of S"
    return RankBound(rank_bound, Verdict("parallel_component_zero", condition, 0.0, ACTIVE))


def rank_one_limit(modes: GradientModes) -> Verdict:
    """Corollary 3.5: G_t tends to rank one if G∥ is of product form; compares its σ_2/σ_1 with 0.

    The paper asks for a one-dimensional eigenspace spanned by a product y ⊗ z, which implies this.
    """
    s = np.linalg.svd(modes.components[0], compute_uv=False)
    ratio = float(s[1] / s[0]) if s.size > 1 else 0.0
    return at_most("sigma_2/sigma_1 of the parallel component", ratio, PRODUCT_FORM)


def _transient(
    modes: GradientModes, eta: float, steps: NDArray[np.int64], q: float
) -> Array | None:
    """x = |ρ|^(t-t0) q (T,); None where 1 - ηλ_1 = 0."""
    lambdas = modes.eigenvalues
    shrink = 1.0 - eta * float(lambdas[0])
    if shrink == 0.0:
        return None
    if lambdas.size < 2:
        return np.zeros(steps.shape)
    with np.errstate(over="ignore"):
        return q * abs((1.0 - eta * float(lambdas[1])) / shrink) ** steps.astype(np.float64)


def _gap_aware(stable_rank: float, x: Array, modes: GradientModes) -> Array:
    """x in units of ‖G∥‖₂; min(m, n) where the bound on ‖G_t‖₂ is not positive."""
    largest = float(min(modes.components.shape[1:]))
    margin = 1.0 - modes.gap * x
    bound = np.full(x.shape, largest)
    np.divide(stable_rank + x**2, margin**2, out=bound, where=margin > 0.0)
    return np.minimum(bound, largest)


def _literal_verdict(modes: GradientModes) -> Verdict:
    condition = "G_t0 has a component in the eigenspace of the smallest eigenvalue of S"
    active = modes.smallest_share > ACTIVE
    status: Status = "ok" if active else "parallel_component_zero"
    return Verdict(status, condition, modes.smallest_share, ACTIVE)


def _printed_verdict(modes: GradientModes, verdict: Verdict) -> Verdict:
    if not verdict.ok:
        return verdict
    return at_most("g <= 0: leading pair of G_par in its eigenspace", modes.gap, PRODUCT_FORM)


def _whole_steps(steps: ArrayLike) -> NDArray[np.int64]:
    values = np.asarray(steps)
    if values.ndim != 1 or not np.issubdtype(values.dtype, np.integer) or np.any(values < 0):
        raise ValueError(f"steps must be a list of whole numbers >= 0, got {steps!r}")
    return values.astype(np.int64)
