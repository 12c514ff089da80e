"""The matrices of a job as the engine sees them: the base, and what was tuned from it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from analyzer.analyses.critical import DenseUpdate
from analyzer.analyses.intruders import Side
from analyzer.analyses.judging import thresholds
from analyzer.checkpoints.adapters import LowRankDelta, target_update
from analyzer.errors import ShapeMismatch
from analyzer.scanning.registry import Entry
from analyzer.spectral import (
    Backend,
    BaseSVD,
    LowRankUpdate,
    Spectrum,
    low_rank_svd,
    svdvals,
)
from analyzer.spectral.prepare import Matrix
from analyzer.spectral.results import EPS, FloatArray
from theory.storage_noise import UNIT_ROUNDOFF, difference_floor, storage_floor


class BaseMatrix:
    """A base matrix, read and decomposed at most once; everything is computed when first asked."""

    def __init__(self, entry: Entry, backend: Backend, *, with_vectors: bool) -> None:
        self.entry = entry
        self._backend = backend
        self._with_vectors = with_vectors
        self._thresholds: dict[tuple[int, float], dict[Side, float | None]] = {}

    @cached_property
    def weight(self) -> torch.Tensor:
        """(rows, cols) in its storage dtype."""
        return read_weight(self.entry)

    @cached_property
    def svd(self) -> BaseSVD:
        return BaseSVD.compute(self.weight, self._backend)

    @cached_property
    def spectrum(self) -> Spectrum:
        """All singular values, as a by-product of the vectors where those are needed anyway."""
        return (
            spectrum_of(self.svd.s, self.svd.error, self.svd.method)
            if self._with_vectors
            else svdvals(self.weight, backend=self._backend)
        )

    @property
    def floor(self) -> float:
        return floor_of(self.weight, self.spectrum.fro_norm)

    def thresholds(self, k: int, epsilon: float) -> dict[Side, float | None]:
        """θ* of both sides, for everything that is scored against this base."""
        if (k, epsilon) not in self._thresholds:
            self._thresholds[k, epsilon] = thresholds(self.svd, k, epsilon)
        return self._thresholds[k, epsilon]


@dataclass(frozen=True, slots=True)
class TunedMatrix:
    """What was tuned from a base matrix: an update in its coordinates, or a dense pair.

    `delta` is the spectrum of ΔW, `delta_floor` what of it may be rounding of the storage.
    """

    update: LowRankUpdate | DenseUpdate
    delta: Spectrum
    delta_floor: float

    @property
    def is_zero(self) -> bool:
        return not self.delta.singular_values.any()


def tuned_matrix(entry: Entry, base: BaseMatrix, backend: Backend) -> TunedMatrix:
    """Read a fine-tuned matrix or apply an adapter's update. Raises ShapeMismatch, NonFinite."""
    if entry.matrix is not None:
        return _dense(read_weight(entry), entry, base, backend)
    assert entry.adapter is not None and entry.target is not None and entry.base is not None
    update = target_update(entry.adapter, entry.target, entry.base, base.weight)
    if not isinstance(update, LowRankDelta):
        return _dense(update.W, entry, base, backend)
    P, Q = update.P, update.Q
    if update.minus_base_rank:
        start, right = base.svd.truncated(update.minus_base_rank)
        P, Q = np.hstack([P, -start]), np.hstack([Q, right])
    svd = low_rank_svd(P, Q, backend=backend)
    bound = 8 * EPS * float(np.linalg.norm(P) * np.linalg.norm(Q))
    delta = spectrum_of(svd.S, np.full(svd.S.size, bound), "qr_core")
    return TunedMatrix(base.svd.update(P, Q), delta, 0.0)


def _dense(weight: Matrix, entry: Entry, base: BaseMatrix, backend: Backend) -> TunedMatrix:
    rows, cols = weight.shape
    if (rows, cols) != tuple(base.weight.shape):
        raise ShapeMismatch(
            f"{rows}×{cols} against the base's {'×'.join(map(str, base.weight.shape))}",
            path=entry.checkpoint.path,
            tensor=entry.row.name,
        )
    update = DenseUpdate(base.weight, weight)
    # Both sides were rounded when they were stored.
    floor = difference_floor(base.floor, floor_of(weight, base.spectrum.fro_norm))
    return TunedMatrix(update, svdvals(update.delta, backend=backend), floor)


def read_weight(entry: Entry) -> torch.Tensor:
    """The stored matrix (rows, cols), dtype as stored."""
    assert entry.matrix is not None
    return entry.checkpoint.read_matrix(entry.matrix, dtype=None)


def floor_of(weight: Matrix, fro_norm: float) -> float:
    """Singular values of a stored matrix below this are rounding noise."""
    dtype = str(weight.dtype).removeprefix("torch.")
    if dtype not in UNIT_ROUNDOFF:
        return 0.0
    rows, cols = weight.shape
    return storage_floor(fro_norm, rows, cols, dtype)


def spectrum_of(sigma: FloatArray, error: FloatArray, method: str) -> Spectrum:
    """Values that another factorisation gave, as a spectrum of their own."""
    return Spectrum(
        singular_values=sigma,
        error=error,
        method=method,
        precision="float64",
        certified=True,
        fro_norm=float(np.linalg.norm(sigma)),
        seconds=0.0,
    )
