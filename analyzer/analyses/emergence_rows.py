"""The emergence of one matrix as rows of the store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from analyzer.analyses.gradient_metrics import Metrics, metrics
from analyzer.analyses.gradient_sources import SOURCES, spectrum_kind
from analyzer.analyses.observations import Observation
from analyzer.analyses.rows_emergence import (
    EmergenceRow,
    GradCosineRow,
    GradNoiseRow,
    GradOverlapRow,
    GradSingularValueRow,
    GradSpectrumRow,
    GradStalenessRow,
)
from analyzer.analyses.series import Noise, Overlap
from analyzer.analyses.series_summary import Emergence
from analyzer.analyses.spectra import spectrum_info
from analyzer.spectral import Spectrum
from analyzer.store.columns import Row
from analyzer.store.writing import SpectrumValues
from theory.gradient_noise import cross_validated_energy, disattenuated_cosine, signal_fraction


@dataclass(frozen=True, slots=True)
class Place:
    """Where the rows of one matrix of a run belong.

    `matrix_id` is that of the run's last checkpoint, `by_step` those of its other checkpoints.
    """

    run: str
    matrix_id: int
    matrix: str
    role: str
    layer: int | None
    by_step: Mapping[int, int]

    def at(self, step: int) -> int:
        return self.by_step.get(step, self.matrix_id)


def emergence_rows(place: Place, found: Emergence) -> Iterator[Row | SpectrumValues]:
    """Every row of one source: spectra, overlaps, cosines, noise and the summary."""
    series = found.series
    for observation, numbers in zip(series.observations, found.metrics, strict=True):
        if series.source != "projector":
            yield _spectrum_row(place, found, observation, numbers)
            for name, part in observation.blocks:
                part = replace(part, origin=observation.origin)
                yield _spectrum_row(place, found, part, metrics(part, found.rank), name)
            yield from _values(place, found, observation)
    yield from _overlap_rows(place, series.source, series.batch_id, found.overlaps, found)
    yield from _cosine_rows(place, found)
    if series.batch_id != "train":  # the minibatch shares the noise of the probe
        yield from (_noise_row(place, noise, found.rank) for noise in series.noise)
    yield from _staleness_rows(place, found)
    yield _summary_row(place, found)


def crosswise_rows(
    place: Place, first: Emergence, second: str, pairs: Sequence[Overlap]
) -> Iterator[GradOverlapRow]:
    """Overlaps of the subspaces of `first` with those of the source `second`, step by step."""
    yield from _overlap_rows(place, second, first.series.batch_id, pairs, first)


def _spectrum_row(
    place: Place,
    found: Emergence,
    observation: Observation,
    numbers: Metrics,
    block: str | None = None,
) -> GradSpectrumRow:
    series, origin = found.series, observation.origin
    return GradSpectrumRow(
        matrix_id=place.at(observation.step),
        run=place.run,
        step=observation.step,
        matrix=place.matrix,
        source=series.source,
        batch_id=series.batch_id,
        block=block,
        n_tokens=origin.n_tokens,
        learning_rate=origin.learning_rate,
        m=observation.rows,
        n=observation.cols,
        side=observation.side,
        fro=numbers.fro,
        sigma1=numbers.sigma1,
        stable_rank=numbers.stable_rank,
        stable_rank_lo=numbers.stable_rank_lo,
        stable_rank_hi=numbers.stable_rank_hi,
        effective_rank=numbers.effective_rank,
        effective_rank_energy=numbers.effective_rank_energy,
        participation_ratio=numbers.participation_ratio,
        numerical_rank=numbers.numerical_rank,
        r=numbers.r,
        energy_r=numbers.energy_r,
        energy_r_hi=numbers.energy_r_hi,
        rank_at_energy=numbers.rank_at_energy,
        rank_at_95=numbers.rank_at_95,
        rank_at_99=numbers.rank_at_99,
        sigma_error=numbers.sigma_error,
        snr=origin.snr,
        method=observation.method,
        precision=observation.precision,
        dtype=origin.dtype,
        origin_sha256=origin.sha256,
        flags="; ".join((*observation.flags, *observation.warnings)),
        caution=SOURCES[series.source].caution,
    )


def _values(
    place: Place, found: Emergence, observation: Observation
) -> Iterator[Row | SpectrumValues]:
    """A whole spectrum to the table of all spectra; leading values to a table of their own."""
    step, source = observation.step, found.series.source
    if isinstance(observation.spectrum, Spectrum) and step in place.by_step:
        kind, matrix_id = spectrum_kind(source), place.by_step[step]
        long_side = max(observation.rows, observation.cols)
        yield SpectrumValues(matrix_id, kind, observation.sigma)
        yield spectrum_info(matrix_id, kind, observation.spectrum, observation.floor, long_side)
        return
    for k, sigma in enumerate(observation.sigma, start=1):
        yield GradSingularValueRow(
            matrix_id=place.at(step),
            run=place.run,
            step=step,
            source=source,
            batch_id=found.series.batch_id,
            k=k,
            sigma=float(sigma),
        )


def _overlap_rows(
    place: Place,
    second: str,
    batch_id: str | None,
    pairs: Sequence[Overlap],
    found: Emergence,
) -> Iterator[GradOverlapRow]:
    side = found.series.observations[0].side if found.series.observations else "left"
    for pair in pairs:
        yield GradOverlapRow(
            matrix_id=place.matrix_id,
            run=place.run,
            matrix=place.matrix,
            source=found.series.source,
            source_b=second,
            batch_id=batch_id,
            step_a=pair.step_a,
            step_b=pair.step_b,
            side=side,
            r=pair.r,
            overlap=pair.overlap,
            overlap_error=pair.error,
            chance=pair.chance,
            corrected=pair.corrected,
            theta_max=pair.theta_max,
        )


def _cosine_rows(place: Place, found: Emergence) -> Iterator[GradCosineRow]:
    cosines, series = found.series.cosines, found.series
    if cosines is None:
        return
    tokens = {o.step: o.origin.n_tokens for o in series.observations}
    signal = {n.step: (_fraction(n), n.n_tokens) for n in series.noise}
    for a, step_a in enumerate(cosines.steps):
        for b in range(a + 1, len(cosines.steps)):
            step_b, value = cosines.steps[b], float(cosines.values[a, b])
            known = bool(np.isfinite(value))
            corrected, reason = None, None
            # One fixed batch has the same noise at every step: nothing to correct for.
            if series.batch_id == "train" and known and signal:
                corrected, reason = _disattenuated(value, step_a, step_b, signal, tokens)
            yield GradCosineRow(
                matrix_id=place.matrix_id,
                run=place.run,
                matrix=place.matrix,
                source=series.source,
                batch_id=series.batch_id,
                step_a=step_a,
                step_b=step_b,
                cosine=value if known else None,
                err=cosines.error,
                disattenuated=corrected,
                reason=reason,
            )


def _disattenuated(
    cosine: float,
    step_a: int,
    step_b: int,
    signal: Mapping[int, tuple[float | None, int | None]],
    tokens: Mapping[int, int | None],
) -> tuple[float | None, str | None]:
    """Corrected by the signal fractions of batches of the same size as the minibatch."""
    fractions = []
    for step in (step_a, step_b):
        rho, size = signal.get(step, (None, None))
        if rho is None:
            return None, "noise_not_recorded"
        if size is None or size != tokens.get(step):
            return None, "other_batch_size"
        fractions.append(rho)
    found = disattenuated_cosine(cosine, *fractions)
    return found.value, found.reason


def _fraction(noise: Noise) -> float | None:
    return signal_fraction(noise.dot_bc, noise.norm_b, noise.norm_c).value


def _noise_row(place: Place, noise: Noise, rank: int) -> GradNoiseRow:
    r = min(rank, noise.cv.size)
    fraction = signal_fraction(noise.dot_bc, noise.norm_b, noise.norm_c)
    energy = cross_validated_energy(float(noise.cv[r - 1]), noise.dot_bc)
    return GradNoiseRow(
        matrix_id=place.at(noise.step),
        run=place.run,
        step=noise.step,
        matrix=place.matrix,
        n_tokens=noise.n_tokens,
        signal_fraction=fraction.value,
        r=r,
        energy_in=float(noise.energy_in[r - 1]),
        energy_out=float(noise.out[r - 1] / noise.norm_b**2) if noise.norm_b else None,
        energy_cv=energy.value,
        reason=fraction.reason or energy.reason,
    )


def _staleness_rows(place: Place, found: Emergence) -> Iterator[GradStalenessRow]:
    lags = sorted({lag.steps for lag in found.series.lags})
    for steps in lags:
        pairs = [lag for lag in found.series.lags if lag.steps == steps]
        overlaps = [lag.overlap for lag in pairs if lag.overlap is not None]
        yield GradStalenessRow(
            matrix_id=place.matrix_id,
            run=place.run,
            matrix=place.matrix,
            batch_id=found.series.batch_id,
            lag=steps,
            n=len(pairs),
            captured=float(np.mean([lag.captured for lag in pairs])),
            overlap=float(np.mean(overlaps)) if overlaps else None,
        )


def _summary_row(place: Place, found: Emergence) -> EmergenceRow:
    series, measured = found.series, found.measured
    first, last = (measured[0], measured[-1]) if measured else (None, None)
    ranks = [m.stable_rank for m in measured if m.stable_rank is not None]
    ceiling = found.ceiling
    return EmergenceRow(
        matrix_id=place.matrix_id,
        run=place.run,
        matrix=place.matrix,
        type=place.role,
        layer=place.layer,
        source=series.source,
        batch_id=series.batch_id,
        n_steps=len(measured),
        step_first=first.step if first else None,
        step_last=last.step if last else None,
        stable_rank_first=first.stable_rank if first else None,
        stable_rank_max=max(ranks, default=None),
        stable_rank_end=last.stable_rank if last else None,
        r=found.rank,
        energy_r_first=first.energy_r if first else None,
        energy_r_end=last.energy_r if last else None,
        cos_adjacent=found.saturation.cos_adjacent,
        cos_late=found.saturation.cos_late,
        cos_all=found.saturation.cos_all,
        cos_error=series.cosines.error if series.cosines else None,
        saturation_step=found.saturation.saturation_step,
        overlap_adjacent=found.overlap_adjacent,
        overlap_late=found.overlap_late,
        overlap_chance=found.overlaps[0].chance if found.overlaps else None,
        signal_fraction=ceiling.signal_fraction.value if ceiling else None,
        signal_fraction_stderr=ceiling.signal_fraction.stderr if ceiling else None,
        energy_in=ceiling.energy_in if ceiling else None,
        energy_out=ceiling.energy_out if ceiling else None,
        energy_cv=ceiling.energy_cv.value if ceiling else None,
        energy_cv_stderr=ceiling.energy_cv.stderr if ceiling else None,
        advised_rank=found.advice_rank.value,
        advised_rank_basis=found.advice_rank.rests_on,
        advised_gap=found.advice_gap.value,
        advised_gap_basis=found.advice_gap.rests_on,
        motion=found.motion.verdict,
        motion_basis=found.motion.rests_on,
        worth_projecting=found.worth.verdict if found.worth else None,
        flags="; ".join((*series.flags, *_gaps(found))),
        caution=SOURCES[series.source].caution,
    )


def _gaps(found: Emergence) -> Iterator[str]:
    """What the series lacks, in words."""
    broken = [o.step for o in found.series.observations if o.is_empty and o.basis is None]
    if broken:
        yield f"no finite non-zero matrix at steps {', '.join(map(str, broken[:5]))}" + (
            " …" if len(broken) > 5 else ""
        )
    if len(found.measured) == 1:
        yield "one step: no maps and overlaps"
