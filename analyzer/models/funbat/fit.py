"""Fit a functional Bayesian Tucker model to values at continuous indexes.

S. Fang, X. Yu, Z. Wang, S. Li, M. Kirby & S. Zhe, "Functional Bayesian Tucker decomposition for
continuous-indexed tensor data", arXiv 2311.04829, ICLR 2024.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from analyzer.models.funbat import checks
from analyzer.models.funbat.checks import BadInput
from analyzer.models.funbat.entries import Mode, make_mode
from analyzer.models.funbat.initialise import (
    HELD_NOISE_PRECISION,
    NOISE_PRECISION,
    constant_noise,
    random_start,
    tensorly_start,
)
from analyzer.models.funbat.message_passing import MessagePassing, pass_messages, published_start
from analyzer.models.funbat.model import FunbatFit
from analyzer.models.funbat.prediction import function_moments
from analyzer.models.funbat.state import Posterior, Problem, all_moments, make_problem
from analyzer.models.funbat.variational import (
    FINALISTS,
    SCREENING_SWEEPS,
    Run,
    Variational,
    run,
)

LONGEST_START = 0.3  # of a mode's span
SHORTEST_START = 2.0  # median gaps between its indexes


@dataclass(frozen=True, slots=True)
class Progress:
    """One sweep done."""

    restart: int
    sweep: int
    elbo: float


def fit_funbat(
    indexes: ArrayLike,
    values: ArrayLike,
    ranks: int | Sequence[int],
    kernel: str | Sequence[str] = "matern32",
    *,
    core: Literal["full", "diagonal"] = "full",
    lengthscales: float | Sequence[float | None] | None = None,
    constant: bool = False,
    noise_mode: int | None = None,
    center: bool = True,
    inference: Variational | MessagePassing | None = None,
    initial: Literal["prior", "tensorly"] = "prior",
    seed: int = 0,
    progress: Callable[[Progress], None] | None = None,
) -> FunbatFit:
    """Fit y ≈ W ×₁ U¹(i_1) … ×_K U^K(i_K) to values (N,) at indexes (N, K), K ≥ 2, in any units.

    `ranks` and `kernel` (matern12, matern32, matern52; iid for labels) are one for all modes or one
    a mode; `core` "diagonal" is FunBaT-CP. `lengthscales`, in user units, are where learning
    starts; by default restarts differ in them, from 0.3 of each span down. `constant` adds main
    effects and lower interactions to a full core. `noise_mode` gives every index of that mode its
    own noise. `center` adds a learned constant to the model, which starts at the values' mean and
    is what the prior returns far from the data; with `constant` the core has one.

    NaN values are dropped and counted. `inference` is `Variational()` unless given; of its
    restarts the one of the highest ELBO is kept. Equal seeds give equal fits. Raises BadInput (a
    ValueError) for arguments that make no sense.
    """
    started = time.perf_counter()
    settings = inference or Variational()
    data = checks.observed(indexes, values)
    n_modes, diagonal = data.indexes.shape[1], core == "diagonal"
    _check_choices(core, initial, constant, noise_mode, n_modes)
    kernels = checks.kernels(kernel, n_modes)
    all_ranks = checks.ranks(ranks, data.indexes, diagonal)
    given = checks.lengthscales(lengthscales, n_modes)
    made = [make_mode(kernels[k], all_ranks[k], data.indexes[:, k]) for k in range(n_modes)]
    modes = [mode for mode, _ in made]
    mean = float(data.values.mean()) if center else 0.0
    sd = float(np.sqrt(np.mean((data.values - mean) ** 2)))
    problem = make_problem(
        modes,
        [rows for _, rows in made],
        (data.values - mean) / sd,
        diagonal=diagonal,
        constant=constant,
        noise_mode=noise_mode,
        a0=settings.a0,
        b0=settings.b0,
        learn_offset=center and not constant,
    )
    runs = _runs(problem, settings, given, initial, seed, progress)
    best = max(runs, key=lambda one: one.elbo_trace[-1])
    return FunbatFit(
        modes=problem.modes,
        factors=best.posterior.factors,
        tucker_core=best.posterior.core,
        noise=best.posterior.noise,
        noise_mode=noise_mode,
        constant=constant,
        value_mean=mean + sd * best.offset,
        value_sd=sd,
        learned_lengthscales=isinstance(settings, Variational) and settings.learn_lengthscales,
        method="variational" if isinstance(settings, Variational) else "message-passing",
        elbo_trace=best.elbo_trace,
        restart_elbos=tuple(one.elbo_trace[-1] for one in runs),
        converged=best.converged,
        explained=_explained(problem, best),
        n_observations=data.values.size,
        n_missing=data.n_missing,
        seed=seed,
        seconds=time.perf_counter() - started,
    )


def _runs(
    problem: Problem,
    settings: Variational | MessagePassing,
    given: Sequence[float | None],
    initial: str,
    seed: int,
    progress: Callable[[Progress], None] | None,
) -> list[Run]:
    """Every start as far as it was followed. Restart j of seed s draws from the stream (s, j)."""
    streams = [np.random.default_rng([seed, restart]) for restart in range(settings.restarts)]
    lengthscales = [
        [
            _start_length(mode, length, rng if restart > 1 else None)
            for mode, length in zip(problem.modes, given, strict=True)
        ]
        for restart, rng in enumerate(streams)
    ]

    def report(restart: int) -> Callable[[int, float], None]:
        return lambda sweep, bound: progress and progress(Progress(restart, sweep, bound))

    if isinstance(settings, MessagePassing):
        starts = [
            published_start(problem, lengths, rng)
            for lengths, rng in zip(lengthscales, streams, strict=True)
        ]
        return [pass_messages(problem, s, settings, report(j)) for j, s in enumerate(starts)]

    def follow(restart: int, begun: Run, sweeps: int) -> Run:
        held = _holds_noise(restart)
        return run(problem, begun, settings, report(restart), sweeps=sweeps, hold_noise=held)

    screened = settings.restarts > FINALISTS
    first = min(SCREENING_SWEEPS, settings.max_sweeps) if screened else settings.max_sweeps
    runs: list[Run] = []
    for restart, rng in enumerate(streams):
        start = _start(problem, lengthscales[restart], initial, rng, _holds_noise(restart))
        runs.append(follow(restart, Run(start, (), False), first))
    for restart in sorted(range(len(runs)), key=lambda j: -runs[j].elbo_trace[-1])[:FINALISTS]:
        runs[restart] = follow(restart, runs[restart], settings.max_sweeps)
    return runs


def _holds_noise(restart: int) -> bool:
    return restart % 2 == 1


def _start(
    problem: Problem,
    lengthscales: Sequence[float],
    initial: str,
    rng: np.random.Generator,
    holds_noise: bool,
) -> Posterior:
    if initial == "tensorly":
        start = tensorly_start(problem, lengthscales, int(rng.integers(2**31)))
    else:
        start = random_start(problem, lengthscales, rng)
    precision = HELD_NOISE_PRECISION if holds_noise else NOISE_PRECISION
    return replace(start, noise=constant_noise(problem, precision))


def _start_length(mode: Mode, length: float | None, rng: np.random.Generator | None) -> float:
    """A starting ℓ as a share of the span; nan for labels, which have none.

    Where it is not given, the first two starts take 0.3, and the others one between
    `SHORTEST_START` gaps and that, even in ln ℓ: learning moves ℓ to the nearest optimum, not to
    the best.
    """
    if mode.kernel == "iid":
        return float("nan")
    if length is not None:
        return length / mode.span
    if rng is None or mode.grid.size < 2:
        return LONGEST_START
    shortest = min(SHORTEST_START * float(np.median(np.diff(mode.grid))), LONGEST_START)
    return float(np.exp(rng.uniform(np.log(shortest), np.log(LONGEST_START))))


def _explained(problem: Problem, run: Run) -> float:
    entries = problem.entries[0]
    rows = [np.asarray(row, dtype=np.intp) for row in entries.rows]
    mean, _ = function_moments(run.posterior.core, all_moments(problem, run.posterior), rows)
    errors = entries.values - run.offset - mean
    return 1.0 - float((errors**2).sum() / (entries.values**2).sum())


def _check_choices(
    core: str, initial: str, constant: bool, noise_mode: int | None, n_modes: int
) -> None:
    if core not in ("full", "diagonal"):
        raise BadInput(f"core: {core!r} is neither 'full' nor 'diagonal'")
    if initial not in ("prior", "tensorly"):
        raise BadInput(f"initial: {initial!r} is neither 'prior' nor 'tensorly'")
    if constant and core == "diagonal":
        raise BadInput("constant: a diagonal core has no lower interactions to add")
    if noise_mode is not None and not 0 <= noise_mode < n_modes:
        raise BadInput(f"noise_mode: {noise_mode} is none of the modes 0 to {n_modes - 1}")
