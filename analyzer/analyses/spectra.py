"""Rows of one spectrum: its summaries with method and error bound."""

from __future__ import annotations

import numpy as np

from analyzer.spectral import Spectrum
from analyzer.spectral.results import EPS
from analyzer.store.schema import SpectrumInfoRow
from theory.spectral_summaries import summarise


def spectrum_info(
    matrix_id: int, kind: str, spectrum: Spectrum, storage_floor: float
) -> SpectrumInfoRow:
    """Summaries of a spectrum; NULL where a zero matrix leaves them undefined.

    `storage_floor`, in units of σ: values below it are rounding of the storage, and the numerical
    rank counts only what is above twice that.
    """
    sigma = spectrum.singular_values
    largest = float(sigma.max(initial=0.0))
    summary = summarise(sigma)
    tolerance = max(sigma.size * EPS * largest, 2.0 * noise_floor(spectrum, storage_floor))
    return SpectrumInfoRow(
        matrix_id=matrix_id,
        kind=kind,
        method=spectrum.method,
        precision=spectrum.precision,
        error_bound=float(spectrum.error.max(initial=0.0)),
        storage_floor=storage_floor,
        fro_norm=spectrum.fro_norm,
        spectral_norm=largest,
        stable_rank=summary.stable_rank,
        effective_rank=summary.effective_rank,
        numerical_rank=int(np.count_nonzero(sigma > tolerance)),
        participation_ratio=summary.participation_ratio,
        seconds=spectrum.seconds,
    )


def noise_floor(spectrum: Spectrum, storage_floor: float) -> float:
    """What of a spectrum is noise: of the storage, or values as large as their own error bound."""
    unresolved = spectrum.singular_values[spectrum.error >= spectrum.singular_values]
    return max(storage_floor, float(unresolved.max(initial=0.0)))
