"""Weights of any width from an implicit network, and their mean over noisy coordinates.

Noise goes into the encoding alone. Which block answers, the fan-in that its output is divided by
and the sizes of the tensors come from the exact coordinates.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from analyzer.errors import UsageError
from analyzer.models.manifold.inr.design import Shape, Shapes, checked_shapes
from analyzer.models.manifold.inr.encoding import coordinates, normalised, positional_encoding
from analyzer.models.manifold.inr.network import WeightNetwork, seeded
from theory.implicit_weights import fan_in

PAIRS_AT_ONCE = 1 << 16


def generate(
    network: WeightNetwork,
    shapes: Shapes | None = None,
    *,
    noise: float = 0.0,
    generator: torch.Generator | None = None,
    published_routing: bool = False,
) -> dict[str, Tensor]:
    """All tensors of the design, with the given shapes or at full width; differentiable.

    `noise`: coordinates move by U(-noise/2, noise/2), drawn from `generator`, which lies on the
    network's device. `published_routing`: the noisy index picks the block, int(k + noise), and the
    noisy fan-in divides, as in the authors' code, to compare with. Raises UsageError for other
    names or a noise outside [0, 2), ShapeMismatch where more than the width changes.
    """
    if not 0.0 <= noise < 2.0:
        raise UsageError(f"coordinate noise must lie in [0, 2), got {noise}")
    weights: dict[str, Tensor] = {}
    for k, shape in enumerate(checked_shapes(network.design, shapes)):
        n_pairs = shape[0] * fan_in(shape)
        parts = [
            answers(network, k, shape, pairs, noise, generator, published_routing)
            for pairs in torch.arange(n_pairs, device=network.device).split(PAIRS_AT_ONCE)
        ]
        taps = parts[0] if len(parts) == 1 else torch.cat(parts)
        weights[network.design.shapes[k][0]] = taps.reshape(shape)
    return weights


def answers(
    network: WeightNetwork,
    k: int,
    shape: Shape,
    pairs: Tensor,
    noise: float = 0.0,
    generator: torch.Generator | None = None,
    published_routing: bool = False,
) -> Tensor:
    """(n, kernel taps) weights of the pairs of channels a·B + b of tensor k."""
    design = network.design
    asked = coordinates(k, shape, len(design.shapes), pairs)
    if noise > 0.0:
        drawn = torch.rand(asked.shape, generator=generator, dtype=asked.dtype, device=asked.device)
        asked = asked + noise * (drawn - 0.5)
    v = normalised(asked, design.full_width)
    encoded = positional_encoding(v, design.n_freqs, design.first_freq, network.dtype)
    if published_routing:
        out = _by_noisy_index(network, encoded, asked[:, 0].long())
        out = out / asked[:, 5:].to(out.dtype)
    else:
        out = network.blocks[k](encoded) / fan_in(shape)
    return out[:, design.columns(shape)]


@torch.no_grad()
def sample(
    network: WeightNetwork,
    shapes: Shapes | None = None,
    *,
    k: int = 50,
    noise: float = 1.0,
    seed: int = 0,
    published_routing: bool = False,
) -> dict[str, Tensor]:
    """Mean weights over k generations, the first without noise and the others with.

    Raises UsageError for k below 1 and as `generate`.
    """
    if k < 1:
        raise UsageError(f"the number of generations must be at least 1, got {k}")
    stream = seeded(seed, "manifold sampling", network.device)
    total: dict[str, Tensor] = {}
    for draw in range(k):
        weights = generate(
            network,
            shapes,
            noise=noise if draw else 0.0,
            generator=stream,
            published_routing=published_routing,
        )
        for name, value in weights.items():
            total[name] = value.double() if draw == 0 else total[name].add_(value)
    return {name: (value / k).to(network.dtype) for name, value in total.items()}


def relative_errors(network: WeightNetwork, targets: dict[str, Tensor]) -> dict[str, float | None]:
    """‖W - Ŵ‖_F/‖W‖_F of each tensor without noise; None for a zero tensor."""
    with torch.no_grad():
        weights = generate(network)
    errors: dict[str, float | None] = {}
    for name, target in targets.items():
        exact = target.double()
        norm = float(exact.norm())
        off = float((weights[name].double() - exact).norm())
        errors[name] = (off / norm if math.isfinite(off) else math.inf) if norm > 0.0 else None
    return errors


def _by_noisy_index(network: WeightNetwork, encoded: Tensor, owner: Tensor) -> Tensor:
    """Row i answered by block owner[i]."""
    out = encoded.new_empty((len(encoded), network.design.output_dim))
    for index in owner.unique().tolist():
        rows = owner == index
        out[rows] = network.blocks[index](encoded[rows])
    return out
