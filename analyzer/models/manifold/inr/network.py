"""The implicit network: an independent residual network of encoded coordinates for each tensor."""

from __future__ import annotations

import math
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from analyzer.models.manifold.inr.design import Design

RESIDUAL_SCALE = 0.1  # initial; learned


class ResidualMLP(nn.Module):
    """h = relu(W₀γ + b₀); h ← s_l relu(W_l h + b_l) + h for n_layers - 1 layers; linear output.

    (…, inputs) -> (…, outputs). Initial weights and biases are uniform within ±1/√inputs of their
    layer (Kaiming with a = √5).
    """

    def __init__(
        self, inputs: int, hidden: int, n_layers: int, outputs: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.first = _linear(inputs, hidden, generator)
        self.residual = nn.ModuleList(
            _linear(hidden, hidden, generator) for _ in range(n_layers - 1)
        )
        self.scales = nn.Parameter(torch.full((n_layers - 1,), RESIDUAL_SCALE))
        self.last = _linear(hidden, outputs, generator)

    def forward(self, encoded: Tensor) -> Tensor:
        h = torch.relu(self.first(encoded))
        for scale, layer in zip(self.scales, self.residual, strict=True):
            h = scale * torch.relu(layer(h)) + h
        return self.last(h)


class WeightNetwork(nn.Module):
    """`blocks[k]` answers for tensor k of `design.shapes`; nothing is shared between tensors."""

    def __init__(self, design: Design, seed: int = 0) -> None:
        super().__init__()
        self.design = design
        start = seeded(seed, "initial weights")
        self.blocks = nn.ModuleList(
            ResidualMLP(
                design.encoded_dim, design.hidden, design.n_layers, design.output_dim, start
            )
            for _ in design.shapes
        )

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype


def seeded(seed: int, stream: str, device: torch.device | str = "cpu") -> torch.Generator:
    """A random stream of its own for each purpose, so that one does not shift another."""
    state = np.random.SeedSequence([seed, *stream.encode()]).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(state[0]) >> 1)


def _linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    # skip_init leaves the caller's global random state alone
    layer = cast(nn.Linear, nn.utils.skip_init(nn.Linear, inputs, outputs))
    nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5.0), generator=generator)
    bound = 1.0 / math.sqrt(inputs)
    nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
    return layer
