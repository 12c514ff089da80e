"""Differentiable forms of the losses in `theory.implicit_weights`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

_WEIGHT_FLOOR = 1e-6


def emphasis(target: Tensor) -> Tensor:
    """(|w*| + 1e-6)/max(|w*| + 1e-6): large weights count more."""
    share = target.abs() + _WEIGHT_FLOOR
    return share / share.max()


def reconstruction_loss(weights: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Tensor:
    """R: mean over tensors of mean_e (w_e - w*_e)² |w*_e|/max|w*|."""
    terms = [
        ((weights[name] - target) ** 2 * emphasis(target)).mean()
        for name, target in targets.items()
    ]
    return torch.stack(terms).mean()


def norm_penalty(weights: Iterable[Tensor]) -> Tensor:
    """Σ_k ‖w_k‖₂, norms not squared."""
    return torch.stack([torch.linalg.vector_norm(w) for w in weights]).sum()
