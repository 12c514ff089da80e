"""A small network, its batches, and a training loop that can be run with and without a recorder."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

VOCAB, WIDTH, HIDDEN, LENGTH = 40, 24, 56, 12
# Larger than what is decomposed exactly, so that the iteration itself is exercised.
WIDE, TALL = (48, 72), (96, 48)


class Net(nn.Module):
    """Embedding, two wide layers with dropout, head; 2 targets by default."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCAB, WIDE[1])
        self.layers = nn.ModuleList(
            [nn.Linear(WIDE[1], WIDE[0]), nn.Linear(TALL[1], TALL[0]), nn.LayerNorm(TALL[0])]
        )
        self.dropout = nn.Dropout(dropout)
        self.lm_head = nn.Linear(TALL[0], VOCAB, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = torch.tanh(self.layers[0](self.embed(tokens)))
        x = self.layers[2](torch.relu(self.layers[1](self.dropout(x))))
        return self.lm_head(x)


def loss_of(model: nn.Module, tokens: Tensor) -> Tensor:
    return F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


def batch(seed: int, size: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, VOCAB, (size, LENGTH + 1), generator=generator)


@pytest.fixture
def make_net() -> Callable[..., Net]:
    def make(dropout: float = 0.0, seed: int = 0) -> Net:
        torch.manual_seed(seed)
        return Net(dropout)

    return make


@pytest.fixture
def net_loss() -> Callable[[nn.Module, Tensor], Tensor]:
    return loss_of


@pytest.fixture
def net_batch() -> Callable[..., Tensor]:
    return batch
