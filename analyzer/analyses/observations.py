"""One matrix at one step: its leading singular values and subspace, and how wrong they can be.

Whatever a gradient or update comes from, it is brought into this form once; spectra, overlaps and
summaries are then computed the same way for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import ArrayLike

from analyzer.errors import NonFinite, ShapeMismatch, UsageError
from analyzer.spectral import CPU, Backend, LowRankSVD, low_rank_svd, svd_topk, svdvals
from analyzer.spectral.difference import Difference
from analyzer.spectral.results import EPS, FloatArray, Spectrum, TopK
from analyzer.spectral.warm_start import Side, default_side
from theory.storage_noise import UNIT_ROUNDOFF, storage_floor

HALF_PRECISION = frozenset({"bfloat16", "float16", "float8_e4m3fn", "float8_e5m2"})


_NO_BLOCKS: Mapping[str, slice] = {}


@dataclass(frozen=True, slots=True)
class Product:
    """The matrix P Qᵀ (m, n), never formed: P (m, r), Q (n, r) float64."""

    P: FloatArray
    Q: FloatArray

    def minus(self, other: Product) -> Product:
        return Product(np.hstack([self.P, -other.P]), np.hstack([self.Q, other.Q]))


@dataclass(frozen=True, slots=True)
class Origin:
    """What a matrix was computed from: kept beside its numbers."""

    dtype: str = "float64"  # of the storage
    sha256: str | None = None
    n_tokens: int | None = None
    learning_rate: float | None = None
    snr: float | None = None  # ‖m̂‖²/Σv̂ of Adam's moments


@dataclass(frozen=True, slots=True)
class Observation:
    """Leading singular values σ̂ (l,) and singular vectors (d, l') of a matrix (rows, cols).

    `spectrum` holds all singular values, of a low-rank product those that its factors allow, where
    they were computed. Otherwise σ̂ are Ritz values:
    σ̂_i² ≤ σ_i² ≤ σ̂_i² + `epsilon`, or estimates without a bound (`epsilon` None). `angle` bounds
    sin θ_max between the computed leading subspace of the asked rank and the true one; None without
    a gap behind it, or where it is not known. Singular values below twice `floor` are rounding of
    the storage.
    Without a finite non-zero matrix σ̂ is empty, and `flags` say why.
    """

    step: int
    rows: int
    cols: int
    side: Side
    fro: float | None
    sigma: FloatArray
    basis: FloatArray | None
    epsilon: float | None = 0.0
    angle: float | None = None
    spectrum: Spectrum | None = None
    method: str | None = None
    precision: str = "float64"
    floor: float = 0.0
    flags: tuple[str, ...] = ()
    origin: Origin = Origin()
    blocks: tuple[tuple[str, Observation], ...] = ()  # of a fused matrix, by name

    @property
    def is_empty(self) -> bool:
        return self.sigma.size == 0

    @property
    def is_finite(self) -> bool:
        return not any(flag.startswith("non_finite") for flag in self.flags)

    @property
    def directions(self) -> int:
        """Columns of the basis that are singular vectors, not what rounding put after them."""
        if self.basis is None:
            return 0
        kept = self.basis.shape[1]
        if self.is_empty:
            return kept  # a subspace that was stored as such
        unit = UNIT_ROUNDOFF.get(self.precision, UNIT_ROUNDOFF["float64"])
        rounding = 2.0 * max(self.rows, self.cols) * unit * float(self.sigma[0])
        return int(np.count_nonzero(self.sigma[:kept] > max(rounding, 2.0 * self.floor)))

    @property
    def warnings(self) -> tuple[str, ...]:
        """What limits the numbers: a batch smaller than the matrix, rounding of the storage."""
        tokens, dtype = self.origin.n_tokens, self.origin.dtype
        known = {
            "token_limited": tokens is not None and tokens < min(self.rows, self.cols),
            "rounded_tail": self.spectrum is not None and dtype in HALF_PRECISION,
            "rounding_only": bool(np.all(self.sigma <= 2.0 * self.floor)) and not self.is_empty,
        }
        return tuple(flag for flag, holds in known.items() if holds)


def observe(
    matrix: np.ndarray | torch.Tensor | Difference | Product,
    *,
    step: int = 0,
    rank: int = 8,
    side: Side | None = None,
    dtype: str | None = None,
    blocks: Mapping[str, slice] = _NO_BLOCKS,
    backend: Backend = CPU,
) -> Observation:
    """All singular values of a matrix and its `rank` leading vectors on `side`.

    `side` defaults to GaLore's: left for rows ≤ columns. `dtype` is that of the storage, if the
    matrix was converted from it. `blocks` are rows of a fused matrix that are observed by
    themselves as well. NaN or infinities give an empty observation with their counts in its flags,
    a zero matrix an empty one. Raises UsageError for rank < 1, ShapeMismatch for what is no matrix.
    """
    whole = _observe(matrix, step, rank, side, dtype, backend)
    parts = {name: _observe(_rows(matrix, part), step, rank, None, dtype, backend)
             for name, part in blocks.items()}  # fmt: skip
    return replace(whole, blocks=tuple(parts.items())) if parts else whole


def _rows(
    matrix: np.ndarray | torch.Tensor | Difference | Product, part: slice
) -> np.ndarray | torch.Tensor | Difference | Product:
    return Product(matrix.P[part], matrix.Q) if isinstance(matrix, Product) else matrix[part]


def _observe(
    matrix: np.ndarray | torch.Tensor | Difference | Product,
    step: int,
    rank: int,
    side: Side | None,
    dtype: str | None,
    backend: Backend,
) -> Observation:
    if rank < 1:
        raise UsageError(f"the rank of a subspace must be at least 1, got {rank}")
    if isinstance(matrix, Product):
        rows, cols = matrix.P.shape[0], matrix.Q.shape[0]
    elif matrix.ndim == 2:
        rows, cols = matrix.shape
    else:
        raise ShapeMismatch(f"expected a matrix, got shape {tuple(matrix.shape)}")
    chosen = side or default_side(rows, cols)
    dtype = dtype or _dtype(matrix)
    empty = Observation(step, rows, cols, chosen, None, np.empty(0), None, origin=Origin(dtype))
    try:
        if isinstance(matrix, Product):
            return _of_product(matrix, empty, rank, backend)
        spectrum = svdvals(matrix, backend=backend)
        if not spectrum.fro_norm:
            return _zero(empty)
        top = svd_topk(matrix, min(rank, rows, cols), backend=backend)
    except NonFinite as error:
        flag = f"non_finite: {error.n_nan} NaN, {error.n_inf} infinite"
        return replace(empty, flags=(flag,))
    return replace(
        empty,
        fro=spectrum.fro_norm,
        sigma=spectrum.singular_values,
        basis=top.U if chosen == "left" else top.Vh.T,
        angle=_angle(top, spectrum),
        spectrum=spectrum,
        floor=_floor(spectrum, rows, cols, dtype),
        method=spectrum.method,
    )


def from_ritz(
    sigma: ArrayLike,
    basis: ArrayLike,
    *,
    step: int,
    shape: tuple[int, int],
    side: Side,
    fro: float,
    epsilon: float | None,
    method: str,
    precision: str = "float32",
) -> Observation:
    """An observation from Ritz values and vectors and their ε, see `Observation`."""
    return Observation(
        step, *shape, side, fro, np.asarray(sigma, dtype=np.float64),
        np.asarray(basis, dtype=np.float64), epsilon, method=method, precision=precision,
    )  # fmt: skip


def without_matrix(
    step: int, shape: tuple[int, int], side: Side, flags: tuple[str, ...], fro: float | None = None
) -> Observation:
    """A step at which there is no finite non-zero matrix, and why."""
    return Observation(step, *shape, side, fro, np.empty(0), None, flags=flags)


def _floor(spectrum: Spectrum, rows: int, cols: int, dtype: str) -> float:
    """So that twice of it is the rank tolerance max(m, n)·ε·σ₁ of the stored dtype.

    In half precision that exceeds σ₁ from 128 or 1024 rows on; there it is the noise of rounding.
    """
    if dtype in HALF_PRECISION:
        return storage_floor(spectrum.fro_norm, rows, cols, dtype)
    largest = float(spectrum.singular_values[0])
    return max(rows, cols) * UNIT_ROUNDOFF.get(dtype, 0.0) * largest


def _dtype(matrix: np.ndarray | torch.Tensor | Difference | Product) -> str:
    """Of an array; products and differences are formed in float64."""
    if isinstance(matrix, Product | Difference):
        return "float64"
    return str(matrix.dtype).rpartition(".")[2]


def _zero(empty: Observation) -> Observation:
    return replace(empty, fro=0.0, flags=("zero_gradient",))


def _of_product(matrix: Product, empty: Observation, rank: int, backend: Backend) -> Observation:
    svd = low_rank_svd(matrix.P, matrix.Q, backend=backend)
    # A difference of products may leave values that are rounding of its parts.
    error = 8 * EPS * float(np.linalg.norm(matrix.P) * np.linalg.norm(matrix.Q))
    if not svd.S.max(initial=0.0) > error:
        return _zero(empty)
    spectrum = Spectrum(
        svd.S, np.full(svd.S.size, error), "qr_core", "float64", True, svd.fro_norm, None
    )
    vectors = svd.U if empty.side == "left" else svd.V
    kept = min(rank, int(np.count_nonzero(error < svd.S)))
    return replace(
        empty,
        fro=svd.fro_norm,
        sigma=svd.S,
        basis=vectors[:, :kept],
        angle=_gap_angle(error, svd, kept),
        spectrum=spectrum,
        method="qr_core",
    )


def _angle(top: TopK, spectrum: Spectrum) -> float | None:
    """sin θ_max ≤ max(‖R‖, ‖S‖)/(σ_r − σ_{r+1}) (Wedin, BIT 12, 1972)."""
    r = top.S.size
    if r == spectrum.singular_values.size and top.U.shape[0] == top.Vh.shape[1]:
        return 0.0  # the whole space
    unit, following = float(top.S[0]), 0.0
    if r < spectrum.singular_values.size:
        following = float(spectrum.singular_values[r] + spectrum.error[r])
    gap = (float(top.S[-1] - top.error[-1]) - following) / unit
    residual = float(np.sqrt(2.0) * np.linalg.norm(top.residual / unit))
    return min(1.0, residual / gap) if gap > residual else None


def _gap_angle(error: float, svd: LowRankSVD, kept: int) -> float | None:
    following = float(svd.S[kept]) if kept < svd.S.size else 0.0
    gap = float(svd.S[kept - 1]) - following - error if kept else 0.0
    return min(1.0, 2.0 * error / gap) if gap > 2.0 * error else None
