"""One step of Adam in GaLore's subspace, and of Fira, which adds a scaled residual.

GaLore (arXiv 2403.03507, Algorithm 2), with G = ∇L and R its projection (theory.galore_projection):

    M ← β1 M + (1-β1) R,  V ← β2 V + (1-β2) R²,  N = M/(√V + ε)
    W ← W - lr·√(1-β2^t)/(1-β1^t)·α·back(N),  then decoupled weight decay of the whole W

A new projector is fitted at steps 0, T, 2T, …; the moments are kept and not rotated into it.

Fira (X. Chen et al., arXiv 2410.01623; xichen-fy/Fira) adds S = φ·(G - back(R)) to α·back(N), with
φ = ‖N‖/(‖R‖ + 1e-8) for each column (left) or row (right) of the projected gradient, or once for
the matrix, and S ← S/L, L = max(‖S‖/(‖S_prev‖ + 1e-8), γ)/γ from the second step on. The released
code subtracts α·back(R) instead, which for α < 1 leaves part of the subspace in the residual.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from theory.galore_projection import (
    Projector,
    ProjType,
    SideRule,
    as_matrix,
    captured_energy,
    check_rank,
    fit_projector,
    project,
    project_back,
    projection_side,
)

Array = NDArray[np.float64]

NORM_FLOOR = 1e-8  # of both denominators in Fira


@dataclass(frozen=True, slots=True)
class GaLoreSettings:
    """Defaults are the paper's pre-training values. `scale` is α (also Fira's), not divided by r.

    Raises ValueError for a value outside its range; the rank's upper limit is the matrix's.
    """

    rank: int
    update_proj_gap: int = 200  # T
    scale: float = 0.25
    proj_type: ProjType = "std"
    side_rule: SideRule = "paper"
    lr: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8  # the released code takes 1e-6
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank must be at least 1, got {self.rank}")
        if self.update_proj_gap < 1:
            raise ValueError(f"update_proj_gap must be at least 1, got {self.update_proj_gap}")
        for name, beta in (("beta1", self.beta1), ("beta2", self.beta2)):
            if not 0.0 <= beta < 1.0:
                raise ValueError(f"{name} must lie in [0, 1), got {beta}")
        if not self.eps > 0.0:
            raise ValueError(f"eps must be positive, got {self.eps}")


@dataclass(frozen=True, slots=True)
class GaLoreState:
    """What one matrix carries from step to step."""

    step: int  # steps done
    projector: Projector
    exp_avg: Array  # M, shape of R
    exp_avg_sq: Array  # V, shape of R
    residual_norm: float | None = None  # Fira's ‖S‖ after limiting; None under GaLore


@dataclass(frozen=True, slots=True)
class GaLoreStep:
    """`captured`: ‖R‖²/‖G‖² of this gradient; None for a zero gradient."""

    weight: Array
    state: GaLoreState
    refreshed: bool
    captured: float | None


@dataclass(frozen=True, slots=True)
class FiraStep:
    """As `GaLoreStep`, with φ (n,), (m,) or (1,), L, and ‖S‖ after limiting."""

    weight: Array
    state: GaLoreState
    refreshed: bool
    captured: float | None
    scaling: Array
    limiter: float
    residual_norm: float


@dataclass(frozen=True, slots=True)
class _Adam:
    state: GaLoreState
    refreshed: bool
    R: Array
    N: Array
    step_size: float  # lr with both bias corrections


def galore_step(
    weight: ArrayLike, gradient: ArrayLike, state: GaLoreState | None, settings: GaLoreSettings
) -> GaLoreStep:
    """One Adam-GaLore step on W, G (m, n); `state` None at the first step.

    Raises ValueError for shapes that do not agree, a rank over min(m, n), NaN or Inf.
    """
    W, G = _pair(weight, gradient)
    adam = _adam(G, state, settings)
    update = settings.scale * project_back(adam.state.projector, adam.N)
    return GaLoreStep(
        weight=_moved(W, update, adam.step_size, settings),
        state=adam.state,
        refreshed=adam.refreshed,
        captured=captured_energy(adam.state.projector, G),
    )


def fira_step(
    weight: ArrayLike,
    gradient: ArrayLike,
    state: GaLoreState | None,
    settings: GaLoreSettings,
    *,
    gamma: float = 1.01,
    residual: Literal["paper", "code"] = "paper",
    scaling: Literal["vector", "matrix"] = "vector",
) -> FiraStep:
    """One Adam-Fira step on W, G (m, n); the first step is not limited.

    Raises ValueError for γ < 1, for ``vector`` scaling of a projection on both sides (R then has
    neither the rows nor the columns of G), and as `galore_step`.
    """
    if not gamma >= 1.0:
        raise ValueError(f"gamma must be at least 1, got {gamma}")
    if residual not in ("paper", "code"):
        raise ValueError(f"residual must be 'paper' or 'code', got {residual!r}")
    W, G = _pair(weight, gradient)
    adam = _adam(G, state, settings)
    projector = adam.state.projector
    phi = _scaling(adam.R, adam.N, projector, scaling)
    kept = 1.0 if residual == "paper" else settings.scale
    S = phi * (G - kept * project_back(projector, adam.R))
    norm = float(np.linalg.norm(S))
    previous = None if state is None else state.residual_norm
    limiter = 1.0 if previous is None else max(norm / (previous + NORM_FLOOR), gamma) / gamma
    update = settings.scale * project_back(projector, adam.N) + S / limiter
    return FiraStep(
        weight=_moved(W, update, adam.step_size, settings),
        state=GaLoreState(
            adam.state.step, projector, adam.state.exp_avg, adam.state.exp_avg_sq, norm / limiter
        ),
        refreshed=adam.refreshed,
        captured=captured_energy(projector, G),
        scaling=phi.ravel(),
        limiter=limiter,
        residual_norm=norm / limiter,
    )


def _adam(G: Array, state: GaLoreState | None, settings: GaLoreSettings) -> _Adam:
    check_rank(settings.rank, G.shape[0], G.shape[1])
    done = 0 if state is None else state.step
    if state is None or done % settings.update_proj_gap == 0:
        side = projection_side(G.shape[0], G.shape[1], settings.proj_type, settings.side_rule)
        projector, refreshed = fit_projector(G, settings.rank, side), True
    else:
        projector, refreshed = state.projector, False
    R = project(projector, G)
    if state is not None and state.exp_avg.shape != R.shape:
        raise ValueError(f"moments of shape {state.exp_avg.shape} do not fit R of {R.shape}")
    M = (1.0 - settings.beta1) * R
    V = (1.0 - settings.beta2) * R**2
    if state is not None:
        M, V = M + settings.beta1 * state.exp_avg, V + settings.beta2 * state.exp_avg_sq
    t = done + 1
    correction = np.sqrt(1.0 - settings.beta2**t) / (1.0 - settings.beta1**t)
    return _Adam(
        state=GaLoreState(t, projector, M, V, None),
        refreshed=refreshed,
        R=R,
        N=M / (np.sqrt(V) + settings.eps),
        step_size=settings.lr * float(correction),
    )


def _scaling(R: Array, N: Array, projector: Projector, scaling: str) -> Array:
    """φ, shaped to multiply G: (1, n), (m, 1) or (1, 1)."""
    if scaling == "matrix":
        axis = (0, 1)
    elif scaling != "vector":
        raise ValueError(f"scaling must be 'vector' or 'matrix', got {scaling!r}")
    elif projector.side == "full":
        raise ValueError("vector scaling needs a projection on one side, got proj_type 'full'")
    else:
        axis = 0 if projector.side == "left" else 1
    norms = [np.sqrt(np.sum(X**2, axis=axis, keepdims=True)) for X in (N, R)]
    return norms[0] / (norms[1] + NORM_FLOOR)


def _moved(W: Array, update: Array, step_size: float, settings: GaLoreSettings) -> Array:
    return (W - step_size * update) * (1.0 - settings.lr * settings.weight_decay)


def _pair(weight: ArrayLike, gradient: ArrayLike) -> tuple[Array, Array]:
    W, G = as_matrix(weight), as_matrix(gradient)
    if W.shape != G.shape:
        raise ValueError(f"weight {W.shape} and gradient {G.shape} must have one shape")
    return W, G
