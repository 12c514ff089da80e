"""What a recorder wrote while a run trained: gradients of the minibatch and of fixed batches."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from analyzer.analyses.cosines import Cosines, of_sketches
from analyzer.analyses.observations import Observation, Origin, from_ritz, without_matrix
from analyzer.analyses.series import Lag, Noise, Series
from analyzer.analyses.thinning import MOST_STEPS, evenly
from analyzer.recorder.records import RecordFile
from analyzer.recorder.schema import Arrays, Entry, Header
from analyzer.scanning.trajectories.units import TrajectoryUnit
from analyzer.spectral.warm_start import Side


@dataclass(frozen=True, slots=True)
class Recorded:
    """One batch's gradient at one recorded step."""

    header: Header
    entry: Entry
    arrays: Arrays | None

    @property
    def step(self) -> int:
        return self.header.step


def record_series(unit: TrajectoryUnit) -> Iterator[Series]:
    """`grad` of the batches `train` and `probe`; the noise ceiling goes with the probe and serves
    the minibatch too. Raises CorruptFile for a record whose arrays cannot be read."""
    noise = tuple(_noise(unit.records))
    for batch in ("train", "probe"):
        held = [one for record in unit.records for one in _recorded(record, batch)]
        if not held:
            continue
        observations = tuple(map(_observation, held))
        lags = tuple(_lags(held)) if batch == "train" else ()
        cosines, flags = _cosines(held)
        yield Series("grad", batch, observations, cosines, noise, lags, unit.flags + flags)


def _recorded(record: RecordFile, batch: str) -> Iterator[Recorded]:
    for entry in record.header.entries:
        if entry.batch == batch:
            yield Recorded(record.header, entry, record.arrays(entry))


def _observation(one: Recorded) -> Observation:
    entry, arrays = one.entry, one.arrays
    side: Side = "left" if entry.side == "left" else "right"
    rates = one.header.learning_rates
    origin = Origin(entry.dtype, _sha(arrays), entry.n_tokens, rates[0] if rates else None)
    shape = entry.rows, entry.cols
    if arrays is None or entry.fro is None or entry.epsilon is None or entry.method is None:
        flags = entry.flags
        if "non_finite" in flags:
            counts = f"non_finite: {entry.n_nan} NaN, {entry.n_inf} infinite"
            flags = (counts, *(flag for flag in flags if flag != "non_finite"))
        found = without_matrix(one.step, shape, side, flags, entry.fro)
    else:
        found = from_ritz(
            arrays.sigma, arrays.basis, step=one.step, shape=shape, side=side,
            fro=entry.fro, epsilon=entry.epsilon, method=entry.method,
            precision="float64" if entry.dtype == "float64" else "float32",
        )  # fmt: skip
        found = replace(found, flags=entry.flags)
    return replace(found, origin=origin)


def _lags(held: list[Recorded]) -> Iterator[Lag]:
    """Energy captured of the own batch (lag 0), and of later ones by earlier bases."""
    for one in held:
        if one.arrays is not None and one.entry.fro:
            yield Lag(0, float(np.sum((one.arrays.sigma / one.entry.fro) ** 2)), None)
        for stale in one.entry.staleness:
            yield Lag(stale.lag_steps, stale.captured, stale.overlap)


def _cosines(held: list[Recorded]) -> tuple[Cosines | None, tuple[str, ...]]:
    """From sketches made with the same seed and width, which is most of them."""
    sketched = [(one, one.arrays.sketch) for one in held if one.arrays is not None]
    if not sketched:
        return None, ()
    made = Counter((one.header.seed, sketch.size) for one, sketch in sketched)
    ((chosen, count),) = made.most_common(1)
    flags = () if count == len(sketched) else (
        f"{len(sketched) - count} sketches of another seed or width are not compared",
    )  # fmt: skip
    alike = [(one, s) for one, s in sketched if (one.header.seed, s.size) == chosen]
    kept = evenly(alike, MOST_STEPS)
    return of_sketches([one.step for one, _ in kept], [sketch for _, sketch in kept]), flags


def _noise(records: tuple[RecordFile, ...]) -> Iterator[Noise]:
    """Independent batches against the basis of the probe."""
    for record in records:
        probes = {e.name: e for e in record.header.entries if e.batch == "probe"}
        for one in record.header.noise:
            probe = probes.get(one.name)
            arrays = record.arrays(probe) if probe is not None else None
            if probe is None or arrays is None or not probe.fro:
                continue
            energies = record.noise_arrays(one.name)
            inside = np.minimum(np.cumsum((arrays.sigma / probe.fro) ** 2), 1.0)
            yield Noise(
                record.header.step, one.n_tokens, one.dot_bc, one.norm_b, one.norm_c,
                inside, energies.out, energies.cv,
            )  # fmt: skip


def _sha(arrays: Arrays | None) -> str | None:
    """SHA-256 over what the record holds of the gradient."""
    if arrays is None:
        return None
    digest = hashlib.sha256()
    for array in (arrays.sigma, arrays.basis, arrays.sketch):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
