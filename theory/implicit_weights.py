"""Weights as the output of a small network of their coordinates: NeuMeta's inputs and losses.

X. Yang & X. Wang, "Neural Metamorphosis", arXiv 2410.11878, ECCV 2024, section 3, with the order
and scaling of its released code. Entry (a, b) of tensor k has six coordinates
(k, a, b, L, A, B): L tensors, A output and B input channels; a vector has (k, c, 0, L, C, 1).
All kernel taps of a pair (a, b) are one output. Coordinate noise belongs in the encoding alone:
which network answers and the fan-in it divides by are read from the exact coordinates, because a
noisy tensor index sends half of the coordinates to the network of the tensor before.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

COORDINATES = 6
# Added to |w*| so that weights which are exactly zero are still drawn to zero.
_WEIGHT_FLOOR = 1e-6


def raw_coordinates(k: int, shape: Sequence[int], n_tensors: int) -> Array:
    """(k, a, b, L, A, B) of every pair of channels: (A, B, 6), or (C, 1, 6) for a vector.

    shape: the tensor's, kernel axes after the first two ignored. Raises ValueError for an empty
    shape or k outside 0..L-1.
    """
    if not 0 <= k < n_tensors or not shape or min(shape) < 1:
        raise ValueError(f"tensor {k} of {n_tensors} with shape {tuple(shape)} has no coordinates")
    A, B = shape[0], fan_in(shape)
    grid = np.empty((A, B, COORDINATES))
    grid[..., 0], grid[..., 3:] = k, (n_tensors, A, B)
    grid[..., 1], grid[..., 2] = np.arange(A)[:, None], np.arange(B)
    return grid


def fan_in(shape: Sequence[int]) -> int:
    """B, what the network's output is divided by: input channels, 1 for a vector."""
    return shape[1] if len(shape) > 1 else 1


def perturbed(raw: ArrayLike, amplitude: float, rng: np.random.Generator) -> Array:
    """raw + U(-amplitude/2, amplitude/2) on all six coordinates; for the encoding only.

    Raises ValueError unless 0 ≤ amplitude < 2: sizes of 1 must stay positive.
    """
    if not 0.0 <= amplitude < 2.0:
        raise ValueError(f"coordinate noise must lie in [0, 2), got {amplitude}")
    exact = np.asarray(raw, dtype=np.float64)
    return exact + rng.uniform(-amplitude / 2.0, amplitude / 2.0, exact.shape)


def normalised(raw: ArrayLike, full_width: float) -> Array:
    """v = (k/L, a/A, b/B, L/N, A/N, B/N), N the full width; indices count from the left edge."""
    coordinates = np.asarray(raw, dtype=np.float64)
    index, size = coordinates[..., :3], coordinates[..., 3:]
    return np.concatenate([index / size, size / full_width], axis=-1)


def positional_encoding(v: ArrayLike, n_freqs: int, first: int = 0) -> Array:
    """γ(v) = (v, then sin(2^i π v_j), cos(2^i π v_j) for i = first.., j = 0..): (…, c + 2c·F).

    Phases are reduced in float64, where doubling and the remainder modulo 2 are exact: in float32
    an order of i = 24 leaves nothing but rounding.
    """
    v = np.asarray(v, dtype=np.float64)
    octave = np.ldexp(1.0, np.arange(first, first + n_freqs))
    phase = np.pi * np.remainder(octave[:, None] * v[..., None, :], 2.0)
    waves = np.stack([np.sin(phase), np.cos(phase)], axis=-1)
    return np.concatenate([v, waves.reshape(*v.shape[:-1], -1)], axis=-1)


def enough_frequencies(widest: int) -> int:
    """⌈log2 A⌉: the last wave, 2^(F-1) π a/A, is in the octave below A channels' Nyquist limit."""
    return max(1, math.ceil(math.log2(widest)))


def kernel_slice(output_dim: int, taps: int) -> slice:
    """The central run of the output that a kernel with fewer taps takes, flattened.

    Raises ValueError for more taps than outputs.
    """
    if not 1 <= taps <= output_dim:
        raise ValueError(f"{taps} kernel taps do not fit {output_dim} outputs")
    start = output_dim // 2 - taps // 2
    return slice(start, start + taps)


def reconstruction_loss(weights: Sequence[ArrayLike], targets: Sequence[ArrayLike]) -> float:
    """Mean over tensors of mean_e (w_e - w*_e)² |w*_e|/max|w*|: large weights matter more.

    Raises ValueError where shapes differ or there is no tensor.
    """
    terms = []
    for w, target in zip(weights, targets, strict=True):
        w, target = np.asarray(w, dtype=np.float64), np.asarray(target, dtype=np.float64)
        if w.shape != target.shape:
            raise ValueError(f"a tensor of {w.shape} against a target of {target.shape}")
        share = np.abs(target) + _WEIGHT_FLOOR
        terms.append(float(np.mean((w - target) ** 2 * share) / share.max()))
    if not terms:
        raise ValueError("no tensor to compare")
    return float(np.mean(terms))


def norm_penalty(weights: Sequence[ArrayLike]) -> float:
    """Σ_k ‖w_k‖₂, norms not squared."""
    return float(sum(np.linalg.norm(np.asarray(w, dtype=np.float64)) for w in weights))


def parameter_count(
    n_freqs: int, hidden: int, n_layers: int, output_dim: int, coordinates: int = COORDINATES
) -> int:
    """Parameters of the residual network of one tensor, n_layers - 1 residual scales included.

    h = relu(W_0 γ + b_0); n_layers - 1 times h ← s_l relu(W_l h + b_l) + h; a linear output.
    """
    encoded = coordinates * (1 + 2 * n_freqs)
    residual = n_layers - 1
    return (
        (encoded + 1) * hidden + residual * (hidden * (hidden + 1) + 1) + (hidden + 1) * output_dim
    )
