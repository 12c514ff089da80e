"""The published schedule: conditional expectation propagation with damped messages.

arXiv 2311.04829, algorithm 1 and the hyperparameters of its released code. Every epoch updates the
messages to each mode's functions, its smoothing posterior, the messages to the core and those to
the noise, each as D·old + (1 - D)·new; a fixed number of epochs, no test of convergence, functions
and core from Uniform(0, 1), unit covariances, E[τ] = 1, τ ~ Gamma(1, 1), w ~ N(0, I). Moments are
the exact ones, the core's covariance included. Damping is linear in the messages, so that it is
applied to their sums and no message of a single entry is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from analyzer.models.funbat.core import Noise, core_messages, update_core
from analyzer.models.funbat.factors import Factor, condition
from analyzer.models.funbat.initialise import start_from
from analyzer.models.funbat.state import (
    Posterior,
    Problem,
    elbo,
    group_errors,
    update_functions,
)
from analyzer.models.funbat.variational import Run

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class MessagePassing:
    """Settings; damping 0 replaces a message, 1 keeps it. Lengthscales stay as given."""

    epochs: int = 100
    damping_functions: float = 0.5
    damping_core: float = 0.9
    damping_noise: float = 0.6
    restarts: int = 1
    a0: float = 1.0
    b0: float = 1.0


def published_start(
    problem: Problem, lengthscales: Sequence[float], rng: np.random.Generator
) -> Posterior:
    """Functions and core from Uniform(0, 1), covariances I, E[τ] = 1."""
    factors = [rng.random((mode.grid.size, mode.rank)) for mode in problem.modes]
    core = None if problem.diagonal else rng.random(problem.ranks)
    return start_from(
        problem,
        lengthscales,
        factors,
        core,
        function_variance=1.0,
        core_variance=1.0,
        noise_precision=1.0,
    )


def pass_messages(
    problem: Problem,
    start: Posterior,
    settings: MessagePassing,
    report: Callable[[int, float], None],
) -> Run:
    """All epochs, from messages that say nothing. The trace is the ELBO of each epoch's posterior.

    A damped posterior is no maximiser of the bound, which may fall between epochs.
    """
    posterior, trace = start, []
    P = 0 if start.core is None else start.core.mean.size
    core_message = np.zeros((P, P)), np.zeros(P)
    noise_message = np.zeros(problem.counts.size), np.zeros(problem.counts.size)
    for epoch in range(settings.epochs):
        posterior, sums, own = update_functions(
            problem, posterior, _damped_factors(problem, posterior, settings.damping_functions)
        )
        if posterior.core is not None:
            new = core_messages(sums, own, problem.last, problem.ranks)
            core_message = (
                _damped(core_message[0], new[0], settings.damping_core),
                _damped(core_message[1], new[1], settings.damping_core),
            )
            core = update_core(*core_message, problem.ranks, posterior.core.prior_variance)
            posterior = replace(posterior, core=core)
        sse = group_errors(problem, posterior, sums, own)
        noise_message = (
            _damped(noise_message[0], 0.5 * problem.counts, settings.damping_noise),
            _damped(noise_message[1], 0.5 * sse, settings.damping_noise),
        )
        noise = Noise(problem.a0 + noise_message[0], problem.b0 + noise_message[1])
        posterior = replace(posterior, noise=noise)
        trace.append(elbo(problem, posterior, sse))
        report(epoch + 1, trace[-1])
    return Run(posterior, tuple(trace), False)


def _damped_factors(
    problem: Problem, posterior: Posterior, damping: float
) -> Callable[[int, Array, Array], Factor]:
    """How a mode's new messages become its factor, given those of the epoch before."""

    def revise(k: int, Lam: Array, eta: Array) -> Factor:
        old = posterior.factors[k]
        return condition(
            problem.modes[k],
            _damped(old.precision, Lam, damping),
            _damped(old.linear, eta, damping),
            old.lengthscale,
        )

    return revise


def _damped(old: Array, new: Array, damping: float) -> Array:
    return damping * old + (1.0 - damping) * new
