"""Mean-field variational inference: coordinate ascent on the evidence lower bound.

q(w) q(τ) Π_k q(U^k), each q(U^k) a full posterior over all functions of a mode and all its indexes.
The published conditional expectation propagation with moment matching (arXiv 2311.04829) makes
these same updates; seen as coordinate ascent no update can lower the bound, so that there is no
damping, the bound says when to stop, and it picks among restarts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

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
from analyzer.models.funbat.state import (
    Posterior,
    Problem,
    elbo,
    group_errors,
    update_functions,
)

FIRST_LENGTHSCALE_SWEEP, LENGTHSCALE_EVERY = 3, 4


@dataclass(frozen=True, slots=True)
class Variational:
    """Settings. Sweeps end when the bound gains less than `tolerance` of itself a sweep."""

    max_sweeps: int = 200
    tolerance: float = 1e-6
    restarts: int = 4
    learn_lengthscales: bool = True
    a0: float = 1e-3
    b0: float = 1e-3


@dataclass(frozen=True, slots=True)
class Run:
    """One start followed to its end."""

    posterior: Posterior
    elbo_trace: tuple[float, ...]
    converged: bool


def sweep(
    problem: Problem, posterior: Posterior, *, lengthscales: bool, prior_variance: bool = True
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
    updated = replace(updated, noise=update_noise(sse, problem.counts, problem.a0, problem.b0))
    return updated, elbo(problem, updated, sse)


def run(
    problem: Problem,
    start: Posterior,
    settings: Variational,
    report: Callable[[int, float], None],
) -> Run:
    """Sweep until the ELBO settles over one whole round of lengthscale updates."""
    posterior, trace, quiet = start, [], 0
    for number in range(settings.max_sweeps):
        due = number + 1 - FIRST_LENGTHSCALE_SWEEP
        learning = settings.learn_lengthscales and due >= 0 and due % LENGTHSCALE_EVERY == 0
        if number:
            posterior = rebalance(problem, posterior)
        posterior, bound = sweep(problem, posterior, lengthscales=learning)
        gain = bound - trace[-1] if trace else float("inf")
        trace.append(bound)
        report(number + 1, bound)
        quiet = quiet + 1 if abs(gain) < settings.tolerance * abs(bound) else 0
        if quiet >= (LENGTHSCALE_EVERY if settings.learn_lengthscales else 1):
            return Run(posterior, tuple(trace), True)
    return Run(posterior, tuple(trace), False)
