"""Gradients on fixed batches that the training does not see, and the noise they show.

With independent batches B and C, E⟨G_B, G_C⟩ = ‖E G‖_F² without the bias that the noise of a single
batch adds, and tr(PᵀG_B G_CᵀP) is the same inside a subspace P that was chosen on a third batch A
(cross-validation).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from analyzer.errors import UsageError
from analyzer.recorder.schema import NoiseArrays, NoiseEntry
from analyzer.recorder.targets import Target
from analyzer.spectral.product_range import full_precision
from analyzer.spectral.warm_start import Side

Probe = Callable[[int], Tensor]
BLOCK = 2**20  # entries taken to float64 at once


def probe_gradients(
    model: nn.Module, targets: Sequence[Target], probe: Probe, batch: int, seed: int
) -> list[Tensor | None]:
    """Gradient of `probe(batch)` for every target; None where the loss does not depend on it.

    Neither `.grad`, nor the random generators, nor the buffers of `model` are changed; a probe
    that draws (dropout) draws the same every time. Raises UsageError unless a loss comes back.
    """
    with _unchanged_buffers(model), _own_randomness(targets[0].parameter.device, seed):
        with torch.enable_grad():
            loss = probe(batch)
        if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
            raise UsageError(
                f"probe({batch}) must return a loss of one element that depends on the weights",
                hint="return model(batch) reduced to its loss, without .item() or no_grad",
            )
        gradients = torch.autograd.grad(loss, [t.parameter for t in targets], allow_unused=True)
    return list(gradients)


def noise(
    target: Target,
    side: Side,
    basis: Tensor,
    gradient_b: Tensor | None,
    gradient_c: Tensor | None,
    n_tokens: int | None,
) -> tuple[NoiseEntry, NoiseArrays] | None:
    """Signal of two batches against the basis P (d, l) of a third; None unless both are finite."""
    if gradient_b is None or gradient_c is None:
        return None
    B, C = target.matrix(gradient_b), target.matrix(gradient_c)
    norm_b, norm_c = (float(torch.linalg.vector_norm(G, dtype=torch.float64)) for G in (B, C))
    if not math.isfinite(norm_b + norm_c):
        return None
    entry = NoiseEntry(target.name, n_tokens, _inner_product(B, C), norm_b, norm_c)
    with full_precision(B.device.type):
        inside_b, inside_c = (_project(G, side, basis).double() for G in (B, C))  # (l, n) each
    return entry, NoiseArrays(
        cv=(inside_b * inside_c).sum(1).cumsum(0).cpu().numpy(),
        out=inside_b.square().sum(1).cumsum(0).cpu().numpy(),
    )


def _project(G: Tensor, side: Side, P: Tensor) -> Tensor:
    """PᵀG (l, n), or (GP)ᵀ (l, m) on the right."""
    return P.to(G).T @ G if side == "left" else (G @ P.to(G)).T


def _inner_product(A: Tensor, B: Tensor) -> float:
    """⟨A, B⟩ in float64, a block of rows at a time."""
    rows = max(1, BLOCK // max(A.shape[1], 1))
    blocks = zip(A.split(rows), B.split(rows), strict=True)
    return float(sum(torch.sum(a.double() * b.double()) for a, b in blocks))


@contextmanager
def _own_randomness(device: torch.device, seed: int) -> Iterator[None]:
    """Generators of the CPU and of all devices of this kind set to `seed`, and back afterwards."""
    if device.type == "cpu":
        with torch.random.fork_rng(devices=()):
            torch.default_generator.manual_seed(seed)
            yield
        return
    accelerator = torch.get_device_module(device)
    devices = range(accelerator.device_count())
    with torch.random.fork_rng(devices, device_type=device.type):
        torch.default_generator.manual_seed(seed)
        accelerator.manual_seed_all(seed)
        yield


@contextmanager
def _unchanged_buffers(model: nn.Module) -> Iterator[None]:
    """Running averages and the like back to what they were, also where they were replaced."""
    before = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    try:
        yield
    finally:
        for module, name, buffer, value in before:
            if getattr(module, name) is not buffer:
                setattr(module, name, buffer)
            if not torch.equal(buffer, value):
                with torch.no_grad():
                    buffer.copy_(value)
