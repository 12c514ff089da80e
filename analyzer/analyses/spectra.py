"""Rows of one spectrum: its summaries with method and error bound."""

from __future__ import annotations

from analyzer.spectral import Spectrum
from analyzer.store.schema import SpectrumInfoRow
from theory.spectral_summaries import numerical_rank, summarise


def spectrum_info(
    matrix_id: int, kind: str, spectrum: Spectrum, storage_floor: float, long_side: int
) -> SpectrumInfoRow:
    """Summaries of a spectrum; NULL where a zero matrix leaves them undefined.

    `storage_floor`, in units of σ: values below it are rounding of the storage, and the numerical
    rank counts only what is above twice that.
    """
    sigma = spectrum.singular_values
    largest = float(sigma.max(initial=0.0))
    summary = summarise(sigma)
    floor = noise_floor(spectrum, storage_floor)
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
        numerical_rank=numerical_rank(sigma, long_side, floor),
        participation_ratio=summary.participation_ratio,
        seconds=spectrum.seconds,
    )


def noise_floor(spectrum: Spectrum, storage_floor: float) -> float:
    """What of a spectrum is noise: of the storage, or values as large as their own error bound."""
    unresolved = spectrum.singular_values[spectrum.error >= spectrum.singular_values]
    return max(storage_floor, float(unresolved.max(initial=0.0)))
