"""One training loop for the base, the full fine-tune and the adapters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from analyzer.demo.corpus import Corpus, random_windows
from analyzer.demo.model import Llama

Watch = Callable[[Llama, torch.optim.AdamW], AbstractContextManager[object]]
BATCH = 8
WARM_UP = 0.06  # of the steps, then linear to zero: Shuttleworth et al., arXiv 2410.21228
BETAS = (0.9, 0.95)
CLIP_NORM = 1.0
HELD_OUT_BATCHES = 2


def train(
    model: Llama,
    data: Tensor,
    *,
    steps: int,
    learning_rate: float,
    weight_decay: float,
    seed: int,
    watch: Watch | None = None,
) -> Iterator[tuple[dict[str, Any], torch.optim.AdamW]]:
    """AdamW on what requires a gradient; after every step a `log_history` entry and the optimizer.

    `data` holds bytes, 1-d uint8. Loss in nats per byte. `watch` is entered for the whole training.
    """
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(
        parameters.items(), lr=learning_rate, betas=BETAS, weight_decay=weight_decay, fused=True
    )
    with watch(model, optimizer) if watch else nullcontext():
        for entry in _steps(model, optimizer, data, steps, learning_rate, seed):
            yield entry, optimizer


def _steps(
    model: Llama,
    optimizer: torch.optim.AdamW,
    data: Tensor,
    steps: int,
    learning_rate: float,
    seed: int,
) -> Iterator[dict[str, Any]]:
    context = model.shape.context
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    windows = random_windows(data, steps, BATCH, context, seed)
    for step, window in enumerate(windows, start=1):
        rate = learning_rate * relative_rate(step, steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = loss_of(model, window)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
        optimizer.step()
        optimizer.zero_grad()
        yield {
            "step": step,
            "epoch": step * BATCH * context / len(data),
            "learning_rate": rate,
            "loss": loss.item(),
            "grad_norm": norm.item(),
        }


def relative_rate(step: int, steps: int) -> float:
    """Learning rate of 1-based `step` over its peak."""
    rising = step / max(1.0, WARM_UP * steps)
    falling = (steps - step + 1) / max(1.0, (1 - WARM_UP) * steps)
    return min(1.0, rising, falling)


def loss_of(model: Llama, window: Tensor) -> Tensor:
    """Mean cross-entropy of the next byte over (batch, length + 1) int64 tokens."""
    logits = model(window[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1), window[:, 1:].flatten())


@torch.no_grad()
def held_out_losses(model: Llama, corpus: Corpus) -> dict[str, float]:
    """Loss on the held-out files of both slices, the same windows for every model."""
    losses: dict[str, float] = {}
    for name, split in (("pretraining", corpus.pretraining), ("tuning", corpus.tuning)):
        context = model.shape.context
        windows = random_windows(split.held_out, HELD_OUT_BATCHES, BATCH, context, seed=0)
        values = [loss_of(model, window).item() for window in windows]
        losses[f"eval_{name}_loss"] = sum(values) / len(values)
    return losses
