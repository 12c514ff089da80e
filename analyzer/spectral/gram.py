"""All singular values through the float64 Gram matrix of the short side.

G = XᵀX (p×p) is accumulated over row blocks, λ = eigvalsh(G), σ = √λ. Cheaper than any direct
SVD, and more accurate than a float32 one everywhere: with |λ̂ − λ| ≤ ε_G = 8√p·ε·λ₁,

    |σ̂ − σ| ≤ ε_G / (σ̂ + √(λ̂ − ε_G))   if λ̂ > ε_G,   else √(λ̂ + ε_G).

Only singular values below about 1e-8 σ₁ are beyond it; for float64 input with such values the
direct SVD is used, whose absolute error is 8√p·ε·σ₁. A block of rows is in float64 at a time, so
that G, twice a square float32 matrix, is the most that is held.
"""

from __future__ import annotations

import time

import numpy as np
import torch

from analyzer.spectral.backend import CPU, Array, Backend, on_host_if_full
from analyzer.spectral.prepare import CACHED_BLOCK, Matrix, Prepared, prepare
from analyzer.spectral.results import EPS, FloatArray, Spectrum

DEVICE_ROWS, SMALLEST_BLOCK = 1024, 64
# As many rows as BLAS takes through its cache at once: fewer would read G more often.
HOST_ROWS = 256


def svdvals(
    W: Matrix, *, rtol_small: float = 1e-3, method: str = "auto", backend: Backend = CPU
) -> Spectrum:
    """All singular values of a matrix (m, n), descending, each with an absolute error bound.

    `method`: ``gram``, ``direct``, or ``auto``: the Gram matrix, then the direct SVD if a value
    of a float64 matrix is not resolved to `rtol_small` (narrower storage has no such values to
    lose: its own rounding is larger). Raises NonFinite.
    """
    started = time.perf_counter()
    X = prepare(W)
    values, error, used = on_host_if_full(
        lambda chosen: _all_values(X, rtol_small, method, chosen), backend
    )
    return Spectrum(
        singular_values=values * X.scale,
        error=error * X.scale,
        method=used,
        precision="float64",
        certified=True,
        fro_norm=float(np.sqrt(values @ values)) * X.scale,
        seconds=time.perf_counter() - started,
    )


def _all_values(
    X: Prepared, rtol_small: float, method: str, backend: Backend
) -> tuple[FloatArray, FloatArray, str]:
    """Values, their errors and the method that gave them, of X itself."""
    if X.p == 0 or X.largest == 0.0:
        return np.zeros(X.p), np.zeros(X.p), "zero"
    if method != "direct":
        values, error = gram_singular_values(gram(X, backend), backend)
        exact_storage = X.source.element_size() == 8
        if method == "gram" or not exact_storage or np.all(error <= rtol_small * values):
            return values, error, "gram"
    return *_direct(X, backend), "direct_svd"


def gram(X: Prepared, backend: Backend) -> Array:
    """G = XᵀX (p, p) of the tall orientation, only one block resident at a time.

    A device that runs out of memory gets smaller blocks; a G that does not fit there at all is
    formed, and stays, in host memory.
    """
    on_host = max(HOST_ROWS, CACHED_BLOCK // max(X.p, 1))
    rows = on_host if backend.torch_device == "cpu" else DEVICE_ROWS
    while True:
        try:
            return _accumulated(X, backend, rows)
        except torch.OutOfMemoryError:
            if rows <= SMALLEST_BLOCK:
                return _accumulated(X, CPU, on_host)
            rows = max(rows // 4, SMALLEST_BLOCK)


def _accumulated(X: Prepared, backend: Backend, rows: int) -> Array:
    G = backend.zeros(X.p, X.p)
    for block in X.tall_blocks(rows, backend.torch_device):
        G = backend.add_gram(G, block)
    return G


def gram_error(largest_eigenvalue: float, p: int) -> float:
    """ε_G: 10–100 times every error observed up to p = 4096."""
    return 8.0 * np.sqrt(p) * EPS * largest_eigenvalue


def gram_singular_values(G: Array, backend: Backend) -> tuple[FloatArray, FloatArray]:
    """σ (p,) descending and their error bounds from a Gram matrix, which is overwritten."""
    eigenvalues = backend.eigvalsh(G)[::-1]
    return root_with_error(np.ascontiguousarray(eigenvalues))


def root_with_error(eigenvalues: FloatArray) -> tuple[FloatArray, FloatArray]:
    """σ = √λ with the error that an eigenvalue error of ε_G leaves; λ descending."""
    eps_g = gram_error(float(eigenvalues[0]), eigenvalues.size)
    values = np.sqrt(np.maximum(eigenvalues, 0.0))
    above = np.sqrt(np.maximum(eigenvalues - eps_g, 0.0))
    resolved = eigenvalues > eps_g
    error = np.where(
        resolved,
        eps_g / np.where(resolved, values + above, 1.0),
        np.sqrt(np.maximum(eigenvalues, 0.0) + eps_g),
    )
    return values, error


def _direct(X: Prepared, backend: Backend) -> tuple[FloatArray, FloatArray]:
    values = backend.svdvals(backend.asarray(X.dense()))
    return values, np.full(values.size, 8.0 * np.sqrt(values.size) * EPS * values[0])


def batched_svdvals(stack: FloatArray) -> FloatArray:
    """Singular values (b, p) of a stack (b, m, n) of small matrices, e.g. attention heads."""
    tall = stack if stack.shape[1] >= stack.shape[2] else np.swapaxes(stack, 1, 2)
    largest = np.max(np.abs(tall), axis=(1, 2), keepdims=True)
    scale = np.ldexp(1.0, np.frexp(np.where(largest > 0, largest, 1.0))[1])
    X = tall / scale
    eigenvalues = np.linalg.eigvalsh(np.swapaxes(X, 1, 2) @ X)[:, ::-1]
    return np.sqrt(np.maximum(eigenvalues, 0.0)) * scale[:, 0]
