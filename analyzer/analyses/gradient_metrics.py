"""Numbers of one observed spectrum, with the interval that the truth lies in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analyzer.analyses.observations import Observation
from analyzer.analyses.spectra import noise_floor
from theory.ritz_certificate import RitzCertificate, ritz_certificate
from theory.spectral_summaries import (
    effective_rank_energy,
    numerical_rank,
    rank_at_energy,
    summarise,
)

ENERGY = 0.9  # of which rank_at_energy and the advice speak


@dataclass(frozen=True, slots=True)
class Metrics:
    """Spectral numbers of a matrix at one step; all None but `step` and `fro` if it is zero.

    From leading values alone `sigma1` and `energy_r` are lower bounds, `stable_rank` and
    `rank_at_energy` upper ones, and what needs every singular value is None.
    """

    step: int
    fro: float | None
    sigma1: float | None = None
    stable_rank: float | None = None
    stable_rank_lo: float | None = None
    stable_rank_hi: float | None = None
    effective_rank: float | None = None
    effective_rank_energy: float | None = None
    participation_ratio: float | None = None
    numerical_rank: int | None = None
    r: int | None = None
    energy_r: float | None = None
    energy_r_hi: float | None = None
    rank_at_energy: int | None = None  # 90 %
    rank_at_95: int | None = None
    rank_at_99: int | None = None
    sigma_error: float | None = None


def metrics(observation: Observation, rank: int) -> Metrics:
    """The numbers of one observation; `rank` is that of `energy_r`."""
    if observation.is_empty or not observation.fro:
        return Metrics(observation.step, observation.fro)
    if observation.spectrum is None:
        return _of_leading(observation, rank)
    s, error = observation.sigma, observation.spectrum.error
    summary = summarise(s)
    squares = s**2 / float(s[0]) ** 2
    total, r = float(squares.sum()), min(rank, s.size)
    first = (float(error[0]) + float(s[0]) * 1e-15) / float(s[0])
    energy = float(squares[:r].sum()) / total
    slack = 2.0 * float(np.sum((error / s[0]) * np.sqrt(squares) + (error / s[0]) ** 2)) / total
    sr = summary.stable_rank
    assert sr is not None
    return Metrics(
        step=observation.step,
        fro=observation.fro,
        sigma1=float(s[0]),
        stable_rank=sr,
        stable_rank_lo=max(1.0, sr * (1.0 - slack) / (1.0 + first) ** 2),
        stable_rank_hi=min(float(s.size), sr * (1.0 + slack) / max(1.0 - first, 1e-300) ** 2),
        effective_rank=summary.effective_rank,
        effective_rank_energy=effective_rank_energy(s),
        participation_ratio=summary.participation_ratio,
        numerical_rank=numerical_rank(
            s,
            max(observation.rows, observation.cols),
            noise_floor(observation.spectrum, observation.floor),
        ),
        r=r,
        energy_r=energy,
        energy_r_hi=min(1.0, energy + 2.0 * slack),
        rank_at_energy=rank_at_energy(s, ENERGY),
        rank_at_95=rank_at_energy(s, 0.95),
        rank_at_99=rank_at_energy(s, 0.99),
        sigma_error=float(error.max()),
    )


def _of_leading(observation: Observation, rank: int) -> Metrics:
    s, fro = observation.sigma, observation.fro
    assert fro
    r = min(rank, s.size)
    if observation.epsilon is None:
        shares = np.cumsum((s / fro) ** 2)
        return Metrics(
            step=observation.step, fro=fro, sigma1=float(s[0]),
            stable_rank=float((fro / s[0]) ** 2), r=r, energy_r=float(shares[r - 1]),
        )  # fmt: skip
    unit = float(np.ldexp(1.0, np.frexp(fro)[1]))  # squares of 1e-200 are nothing
    epsilon = observation.epsilon / unit / unit
    found = _certificate(observation, unit, epsilon)
    # ε bounds each σ_i² on its own; of their sums it does so only if it is all that is left out.
    left_out = (fro / unit) ** 2 - float(np.sum((s / unit) ** 2))
    sums = found if left_out <= epsilon else _certificate(observation, unit, left_out)
    assert sums.energy_lo is not None and sums.energy_hi is not None
    reached = [int(np.argmax(sums.energy_lo >= q)) + 1 if sums.energy_lo[-1] >= q else None
               for q in (ENERGY, 0.95, 0.99)]  # fmt: skip
    return Metrics(
        step=observation.step,
        fro=fro,
        sigma1=float(s[0]),
        stable_rank=found.stable_rank_hi,
        stable_rank_lo=found.stable_rank_lo,
        stable_rank_hi=found.stable_rank_hi,
        r=r,
        energy_r=float(sums.energy_lo[r - 1]),
        energy_r_hi=float(sums.energy_hi[r - 1]),
        rank_at_energy=reached[0],
        rank_at_95=reached[1],
        rank_at_99=reached[2],
        sigma_error=float(np.max(found.sigma_hi - found.sigma_lo)) * unit,
    )


def _certificate(observation: Observation, unit: float, epsilon: float) -> RitzCertificate:
    """In units of `unit`."""
    assert observation.fro
    return ritz_certificate(
        observation.sigma / unit, (observation.fro / unit) ** 2, epsilon,
        rows=observation.rows, cols=observation.cols, defect=0.0,
    )  # fmt: skip
