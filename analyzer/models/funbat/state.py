"""The model's fixed part, the posterior at one moment, and what every inference shares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from analyzer.models.funbat.core import Noise, core_divergence, noise_terms, squared_errors
from analyzer.models.funbat.entries import Mode, Rows, Sorted, sort_entries
from analyzer.models.funbat.factors import Factor, without_constant
from analyzer.models.funbat.messages import Core, Moments, Sums, contract, moments, sum_entries

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Problem:
    """The data and the choices that inference does not change.

    Modes are updated in `order`. The last one carries the noise: one τ for all, or, with
    `grouped`, one an index of that mode.
    """

    modes: tuple[Mode, ...]
    entries: tuple[Sorted, ...]
    order: tuple[int, ...]
    diagonal: bool  # FunBaT-CP
    constant: bool  # a 1 before every mode's functions
    grouped: bool
    counts: Array  # entries of every noise group (G,)
    squares: Array  # Σ y² at every index of the last mode
    a0: float  # prior of τ: shape and rate
    b0: float
    learn_offset: bool  # whether a constant that is added to f is learned

    @property
    def last(self) -> int:
        return self.order[-1]

    @property
    def ranks(self) -> tuple[int, ...]:
        """Axes of the core: r_k, and one more for the constant."""
        return tuple(mode.rank + self.constant for mode in self.modes)


@dataclass(frozen=True, slots=True)
class Posterior:
    """q at one moment. `core` is None for the diagonal core."""

    factors: tuple[Factor, ...]
    core: Core | None
    noise: Noise


def make_problem(
    modes: Sequence[Mode],
    rows: Sequence[Rows],
    values: Array,
    *,
    diagonal: bool,
    constant: bool,
    noise_mode: int | None,
    a0: float,
    b0: float,
    learn_offset: bool = False,
) -> Problem:
    """Entries sorted for every mode; the mode that carries the noise is updated last."""
    entries = sort_entries(rows, values, [mode.grid.size for mode in modes])
    last = len(modes) - 1 if noise_mode is None else noise_mode
    order = (*(k for k in range(len(modes)) if k != last), last)
    per_index = np.diff(entries[last].starts).astype(np.float64)
    return Problem(
        modes=tuple(modes),
        entries=entries,
        order=order,
        diagonal=diagonal,
        constant=constant,
        grouped=noise_mode is not None,
        counts=per_index if noise_mode is not None else np.array([float(values.size)]),
        squares=_sums_by(rows[last], values**2, modes[last].grid.size),
        a0=a0,
        b0=b0,
        learn_offset=learn_offset,
    )


def shifted(problem: Problem, offset: float) -> Problem:
    """The same problem for y - offset."""
    entries = problem.entries[problem.last]
    counts = np.diff(entries.starts)
    sums = _sums_by(entries.rows[problem.last], entries.values, counts.size)
    return replace(
        problem,
        entries=tuple(replace(e, values=e.values - offset) for e in problem.entries),
        squares=problem.squares - 2.0 * offset * sums + offset**2 * counts,
    )


def all_moments(problem: Problem, posterior: Posterior) -> list[Moments]:
    return [moments(f.mean, f.cov, problem.constant) for f in posterior.factors]


def weighted_sums(problem: Problem, known: Sequence[Moments], mode: int, noise: Noise) -> Sums:
    """Sums over the entries of every index of `mode`, every entry weighted by its E[τ]."""
    entries, tau = problem.entries[mode], noise.precision
    if problem.grouped and mode != problem.last:
        weights = tau[entries.rows[problem.last]]
        return sum_entries(entries, mode, known, weights, problem.diagonal)
    return sum_entries(entries, mode, known, None, problem.diagonal).weighted(tau)


def update_functions(
    problem: Problem, posterior: Posterior, revise: Callable[[int, Array, Array], Factor]
) -> tuple[Posterior, Sums, Moments]:
    """q(U^k) of every mode in turn, each from messages that the newest of the others send.

    `revise(k, Λ, η)` makes the factor of mode k. Also returned: the last mode's sums, which depend
    on the other modes alone, and its new moments; core and noise need nothing else.
    """
    factors, known = list(posterior.factors), all_moments(problem, posterior)

    def update(k: int) -> Sums:
        sums = weighted_sums(problem, known, k, posterior.noise)
        Lam, eta = contract(sums, posterior.core, k, problem.ranks[k])
        if problem.constant:
            Lam, eta = without_constant(Lam, eta)
        factors[k] = revise(k, Lam, eta)
        known[k] = moments(factors[k].mean, factors[k].cov, problem.constant)
        return sums

    for k in problem.order[:-1]:
        update(k)
    sums = update(problem.last)
    return replace(posterior, factors=tuple(factors)), sums, known[problem.last]


def group_errors(problem: Problem, posterior: Posterior, sums: Sums, own: Moments) -> Array:
    """Σ E[(y - f)²] of every noise group, from the last mode's weighted sums."""
    unweighted = sums.weighted(1.0 / posterior.noise.precision)
    at_index = squared_errors(unweighted, own, problem.squares, posterior.core, problem.last)
    return at_index if problem.grouped else at_index.sum(keepdims=True)


def elbo(problem: Problem, posterior: Posterior, sse: Array) -> float:
    """E[ln p(y)] - KL(q ‖ prior) over noise, core and functions, in standardised units."""
    bound = noise_terms(posterior.noise, sse, problem.counts, problem.a0, problem.b0)
    if posterior.core is not None:
        bound -= core_divergence(posterior.core)
    return bound - sum(factor.divergence for factor in posterior.factors)


def _sums_by(rows: Rows, values: Array, size: int) -> Array:
    return np.bincount(rows, values, minlength=size).astype(np.float64)
