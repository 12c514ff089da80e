"""Coordinates and their encoding in torch; `theory.implicit_weights` has the definitions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from theory.implicit_weights import fan_in


def coordinates(k: int, shape: Sequence[int], n_tensors: int, pairs: Tensor) -> Tensor:
    """(k, a, b, L, A, B) in float64, (n, 6), of the pairs of channels a·B + b in `pairs` (n,)."""
    A, B = shape[0], fan_in(shape)
    raw = torch.empty((pairs.numel(), 6), dtype=torch.float64, device=pairs.device)
    raw[:, 0] = k
    raw[:, 1] = torch.div(pairs, B, rounding_mode="floor")
    raw[:, 2] = torch.remainder(pairs, B)
    raw[:, 3:] = torch.tensor([n_tensors, A, B], dtype=torch.float64, device=pairs.device)
    return raw


def normalised(raw: Tensor, full_width: float) -> Tensor:
    """(k/L, a/A, b/B, L/N, A/N, B/N)."""
    return torch.cat([raw[..., :3] / raw[..., 3:], raw[..., 3:] / full_width], dim=-1)


def positional_encoding(v: Tensor, n_freqs: int, first: int, dtype: torch.dtype) -> Tensor:
    """γ(v) = (v, sin(2^i π v_j), cos(2^i π v_j), …), (…, c) in float64 -> (…, c + 2c·F) in `dtype`.

    Only the phase within one turn is rounded to `dtype`: the product 2^i v and its remainder are
    exact in float64, and would be noise in float32 from i ≈ 20 on.
    """
    octaves = torch.ldexp(
        torch.ones(n_freqs, dtype=torch.float64, device=v.device),
        torch.arange(first, first + n_freqs, device=v.device),
    )
    turns = torch.remainder(octaves[:, None] * v[..., None, :], 2.0)
    phase = (math.pi * turns).to(dtype)
    waves = torch.stack([torch.sin(phase), torch.cos(phase)], dim=-1)
    return torch.cat([v.to(dtype), waves.flatten(-3)], dim=-1)
