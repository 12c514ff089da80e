"""Mean-field variational inference: coordinate ascent on the evidence lower bound.

q(w) q(τ) Π_k q(U^k), each q(U^k) a full posterior over all functions of a mode and all its indexes.
The published conditional expectation propagation with moment matching (arXiv 2311.04829) makes
these same updates; seen as coordinate ascent no update can lower the bound, so that there is no
damping, the bound says when to stop, and it picks among restarts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from analyzer.models.funbat.core import (
    core_messages,
    learned_prior_variance,
    update_core,
    update_noise,
)
from analyzer.models.funbat.entries import Array
from analyzer.models.funbat.factors import Factor, condition
from analyzer.models.funbat.hyperparameters import is_learnable, learn_lengthscale
from analyzer.models.funbat.invariance import rebalance
from analyzer.models.funbat.offset import learn_offset
from analyzer.models.funbat.state import (
    Posterior,
    Problem,
    elbo,
    group_errors,
    shifted,
    update_functions,
)

FIRST_LENGTHSCALE_SWEEP, LENGTHSCALE_EVERY = 3, 4
HELD_NOISE_SWEEPS = 10
# Of more starts than FINALISTS, the best by their bounds after SCREENING_SWEEPS are followed on.
SCREENING_SWEEPS, FINALISTS = 25, 2


@dataclass(frozen=True, slots=True)
class Variational:
    """Settings.

    Sweeps end when the bound gains less than `tolerance` a sweep, as a share of itself or of the
    number of observations, whichever is larger.

    Every other start holds the noise at a small value for its first sweeps. Noise learned from the
    beginning takes up all that random functions do not explain yet, and functions whose messages
    it drowns fall to zero and stay there: fits end at a lower rank, far below the best bound. Small
    noise can fit short lengthscales to noise instead. The bound tells which start was right.
    """

    max_sweeps: int = 200
    tolerance: float = 1e-6
    restarts: int = 4
    learn_lengthscales: bool = True
    a0: float = 1e-3
    b0: float = 1e-3


@dataclass(frozen=True, slots=True)
class Run:
    """One start and how far it was followed."""

    posterior: Posterior
    elbo_trace: tuple[float, ...]
    converged: bool
    offset: float = 0.0  # learned constant, in the problem's units


def sweep(
    problem: Problem,
    posterior: Posterior,
    *,
    lengthscales: bool,
    prior_variance: bool = True,
    noise: bool = True,
) -> tuple[Posterior, float]:
    """Every mode, then core, then noise, once; and the ELBO. The flags say what else is learned."""

    def revise(k: int, Lam: Array, eta: Array) -> Factor:
        mode, lengthscale = problem.modes[k], posterior.factors[k].lengthscale
        if lengthscales and is_learnable(mode):
            lengthscale = learn_lengthscale(mode, Lam, eta, lengthscale)
        return condition(mode, Lam, eta, lengthscale)

    updated, sums, own = update_functions(problem, posterior, revise)
    if updated.core is not None:
        G, h = core_messages(sums, own, problem.last, problem.ranks)
        core = update_core(G, h, problem.ranks, updated.core.prior_variance)
        if prior_variance:
            core = replace(core, prior_variance=learned_prior_variance(core))
        updated = replace(updated, core=core)
    sse = group_errors(problem, updated, sums, own)
    if noise:
        learned = update_noise(sse, problem.counts, problem.a0, problem.b0)
        updated = replace(updated, noise=learned)
    return updated, elbo(problem, updated, sse)


def run(
    problem: Problem,
    begun: Run,
    settings: Variational,
    report: Callable[[int, float], None],
    *,
    sweeps: int,
    hold_noise: bool,
) -> Run:
    """Sweep until there were `sweeps`, or the ELBO settles over a round of lengthscale updates."""
    posterior, trace, n_values = begun.posterior, list(begun.elbo_trace), problem.counts.sum()
    converged, offset = begun.converged, begun.offset
    if offset:
        problem = shifted(problem, offset)
    for number in range(len(trace), sweeps):
        if converged:
            break
        due = number + 1 - FIRST_LENGTHSCALE_SWEEP
        learning = settings.learn_lengthscales and due >= 0 and due % LENGTHSCALE_EVERY == 0
        if number:
            posterior = rebalance(problem, posterior)
        if problem.learn_offset and due > 0:  # random functions know no constant
            problem, posterior, change = learn_offset(problem, posterior)
            offset += change
        posterior, bound = sweep(
            problem,
            posterior,
            lengthscales=learning,
            noise=not hold_noise or number >= HELD_NOISE_SWEEPS,
        )
        trace.append(bound)
        report(number + 1, bound)
        converged = _settled(trace, settings, float(n_values))
    return Run(posterior, tuple(trace), converged, offset)


def _settled(trace: list[float], settings: Variational, n_values: float) -> bool:
    window = LENGTHSCALE_EVERY if settings.learn_lengthscales else 1
    if len(trace) <= window:
        return False
    recent = np.array(trace[-window - 1 :])
    least = settings.tolerance * np.maximum(np.abs(recent[1:]), n_values)
    return bool(np.all(np.abs(np.diff(recent)) < least))
