"""The matrices of a job as the engine sees them: the base, and what was tuned from it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from analyzer.analyses.critical import DenseUpdate
from analyzer.analyses.judging import thresholds
from analyzer.analyses.parameters import Side
from analyzer.checkpoints.adapters import LowRankDelta, target_update
from analyzer.errors import AdapterError, ShapeMismatch, WorkbenchError
from analyzer.scanning.drafts import Entry
from analyzer.spectral import (
    Backend,
    BaseSVD,
    LowRankUpdate,
    Spectrum,
    low_rank_svd,
    svdvals,
)
from analyzer.spectral.prepare import fro_norm
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
        with _naming(self.entry):
            return BaseSVD.compute(self.weight, self._backend)

    @cached_property
    def spectrum(self) -> Spectrum:
        """All singular values, as a by-product of the vectors where those are needed anyway."""
        if self._with_vectors:
            return spectrum_of(self.svd.s, self.svd.error, self.svd.method)
        with _naming(self.entry):
            return svdvals(self.weight, backend=self._backend)

    @cached_property
    def floor(self) -> float:
        return floor_of(self.weight)

    def thresholds(self, k: int, epsilon: float) -> dict[Side, float | None]:
        """θ* of both sides, for everything that is scored against this base."""
        if (k, epsilon) not in self._thresholds:
            self._thresholds[k, epsilon] = thresholds(self.svd, k, epsilon)
        return self._thresholds[k, epsilon]


@dataclass(frozen=True, slots=True)
class TunedMatrix:
    """What was tuned from a base matrix: an update in its coordinates, or a dense pair.

    `factors` are P (rows, r) and Q (cols, r) of an update in the base's coordinates.
    `delta` is the spectrum of ΔW; what of it, and of the tuned weight's own spectrum, may be
    rounding of the storage are `delta_floor` and `weight_floor`.
    """

    update: LowRankUpdate | DenseUpdate
    delta: Spectrum
    delta_floor: float
    weight_floor: float
    factors: tuple[FloatArray, FloatArray] | None = None

    @property
    def is_zero(self) -> bool:
        return not self.delta.singular_values.any()


def tuned_matrix(entry: Entry, base: BaseMatrix, backend: Backend) -> TunedMatrix:
    """Read a fine-tuned matrix or apply an adapter's update. Raises ShapeMismatch, NonFinite."""
    if entry.matrix is not None:
        return _fine_tuned(read_weight(entry), entry, base, backend)
    assert entry.adapter is not None and entry.target is not None and entry.base is not None
    update = target_update(entry.adapter, entry.target, entry.base, base.weight)
    if not isinstance(update, LowRankDelta):
        # An exact function of the stored base and factors: nothing was rounded in between.
        dense = DenseUpdate(base.weight, update.W)
        return TunedMatrix(dense, svdvals(dense.delta, backend=backend), 0.0, base.floor)
    P, Q = update.P, update.Q
    floor = 0.0
    if update.minus_base_rank:
        floor = cancellation_floor(low_rank_svd(P, Q).fro_norm, entry)
        start, right = base.svd.truncated(update.minus_base_rank)
        P, Q = np.hstack([P, -start]), np.hstack([Q, right])
    delta = _product_spectrum(P, Q, backend)
    return TunedMatrix(base.svd.update(P, Q), delta, floor, base.floor, (P, Q))


def update_alone(entry: Entry, backend: Backend) -> Spectrum:
    """Spectrum of ΔW where there is no base, from an adapter's factors alone."""
    assert entry.adapter is not None and entry.target is not None and entry.base is not None
    update = target_update(entry.adapter, entry.target, entry.base, None)
    if not isinstance(update, LowRankDelta) or update.minus_base_rank:
        raise AdapterError("its change depends on the base", tensor=entry.row.name)
    return _product_spectrum(update.P, update.Q, backend)


def _product_spectrum(P: FloatArray, Q: FloatArray, backend: Backend) -> Spectrum:
    """Singular values of P Qᵀ, never formed."""
    svd = low_rank_svd(P, Q, backend=backend)
    bound = 8 * EPS * float(np.linalg.norm(P) * np.linalg.norm(Q))
    return spectrum_of(svd.S, np.full(svd.S.size, bound), "qr_core")


def cancellation_floor(fro_norm: float, entry: Entry) -> float:
    """Rounding of the stored factors, left over where their initial product is subtracted."""
    assert entry.target is not None and entry.base is not None
    dtypes = {t.name: t.dtype for t in entry.checkpoint.tensors()}
    dtype = dtypes[entry.target.tensor_names[0]]
    floor = storage_floor(fro_norm, entry.base.rows, entry.base.cols, dtype)
    return difference_floor(floor, floor)  # both factors were rounded


def _fine_tuned(
    weight: torch.Tensor, entry: Entry, base: BaseMatrix, backend: Backend
) -> TunedMatrix:
    rows, cols = weight.shape
    if (rows, cols) != tuple(base.weight.shape):
        raise ShapeMismatch(
            f"{rows}×{cols} against the base's {'×'.join(map(str, base.weight.shape))}",
            path=entry.checkpoint.path,
            tensor=entry.row.name,
        )
    _ = base.spectrum  # a base that cannot be analysed is named as such
    update = DenseUpdate(base.weight, weight)
    with _naming(entry):
        delta = svdvals(update.delta, backend=backend)
    own = floor_of(weight)
    # Both sides were rounded when they were stored.
    return TunedMatrix(update, delta, difference_floor(base.floor, own), own)


@contextmanager
def _naming(entry: Entry) -> Iterator[None]:
    """Errors about an array are errors about this checkpoint's tensor."""
    try:
        yield
    except WorkbenchError as error:
        error.path = error.path or entry.checkpoint.path
        error.tensor = error.tensor or entry.row.name
        raise


def read_weight(entry: Entry) -> torch.Tensor:
    """The stored matrix (rows, cols), dtype as stored."""
    assert entry.matrix is not None
    return entry.checkpoint.read_matrix(entry.matrix, dtype=None)


def floor_of(weight: torch.Tensor) -> float:
    """Singular values of a stored matrix below this are rounding noise; 0 if it is not finite."""
    dtype = str(weight.dtype).removeprefix("torch.")
    if dtype not in UNIT_ROUNDOFF or weight.numel() == 0:
        return 0.0
    rows, cols = weight.shape
    return storage_floor(fro_norm(weight), rows, cols, dtype)


def spectrum_of(sigma: FloatArray, error: FloatArray, method: str) -> Spectrum:
    """Values that another factorisation gave, as a spectrum of their own."""
    return Spectrum(
        singular_values=sigma,
        error=error,
        method=method,
        precision="float64",
        certified=True,
        fro_norm=float(np.linalg.norm(sigma)),
        seconds=None,
    )
