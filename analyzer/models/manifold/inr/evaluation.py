"""A network's loss and accuracy with generated weights in place of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from analyzer.errors import UsageError

Batches = Iterable[tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Mean cross-entropy in nats and share of right answers over `n` labels."""

    loss: float
    accuracy: float
    n: int


def cross_entropy(
    model: nn.Module, weights: Mapping[str, Tensor], x: Tensor, y: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean loss and logits (labels, classes) of `model` with `weights`; the model stays as it is.

    Tensors of the model that are not in `weights` keep their values.
    """
    logits = functional_call(model, dict(weights), (x,)).flatten(0, -2)
    return nn.functional.cross_entropy(logits, y.flatten()), logits


@torch.no_grad()
def evaluate(model: nn.Module, weights: Mapping[str, Tensor], batches: Batches) -> Evaluation:
    """Over all batches (x, labels), in the model's present mode. Raises UsageError without any."""
    total, right, n = 0.0, 0, 0
    device = next(iter(weights.values())).device
    for x, y in batches:
        labels = y.to(device)
        loss, logits = cross_entropy(model, weights, x.to(device), labels)
        total += float(loss) * labels.numel()
        right += int((logits.argmax(-1) == labels.flatten()).sum())
        n += labels.numel()
    if n == 0:
        raise UsageError("there is no batch to evaluate on")
    return Evaluation(total / n, right / n, n)
