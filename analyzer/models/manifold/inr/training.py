"""Training an implicit network on a task, so that the weights it generates work at many widths.

X. Yang & X. Wang, "Neural Metamorphosis", arXiv 2410.11878: loss, schedule, clipping and averaging
of the released code. Started from a network that reconstructs one checkpoint, with the task's
loss ramped in.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from analyzer.errors import UsageError
from analyzer.models.manifold.inr.design import Design, Shape, checked_shapes
from analyzer.models.manifold.inr.evaluation import Batches, cross_entropy
from analyzer.models.manifold.inr.generation import generate
from analyzer.models.manifold.inr.losses import norm_penalty, reconstruction_loss
from analyzer.models.manifold.inr.network import WeightNetwork, seeded
from analyzer.models.manifold.inr.reconstruction import checked_targets

Status = Literal["ok", "at_chance", "diverged"]

MILESTONES = (0.5, 0.75)  # of all steps; epochs 100 and 150 of 200
_NEAR_CHANCE = 0.01  # of ln(number of classes)


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """Loss = ce·CE + recon·R + reg·Σ‖w‖; defaults are the published ones for CIFAR-10.

    `weight_decay` 0 makes AdamW plain Adam, the published choice for MNIST. `ce_ramp`: share of the
    steps over which CE's weight rises from 0. `recon_decay`: share over which R's falls linearly to
    0, a quarter in the MNIST script. `coordinate_noise`: where every layer morphs and channels are
    few, 1 costs much accuracy (tests/benchmarks/manifold_inr_digits.py).
    `abort_at_chance`: stop when a tenth of the steps ends with CE within 1 % of ln(number of
    classes).
    """

    steps: int
    ce_weight: float = 1.0
    recon_weight: float = 1.0
    reg_weight: float = 1e-4
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    clip: float = 10.0
    ema_decay: float = 0.995
    coordinate_noise: float = 1.0
    ce_ramp: float = 0.05
    recon_decay: float | None = None
    published_routing: bool = False
    abort_at_chance: bool = True


@dataclass(frozen=True, slots=True)
class TrainingStep:
    """What one step cost: `recon` is None at other than full width."""

    step: int
    width: int
    loss: float
    ce: float
    recon: float | None


@dataclass(frozen=True, slots=True)
class ImplicitTraining:
    """`network` holds the exponential average of the weights along the training.

    `status`: ``at_chance`` where CE ended within 1 % of guessing, ``diverged`` where the loss was
    no longer finite; `trace` tells how far it came.
    """

    network: WeightNetwork
    status: Status
    trace: tuple[TrainingStep, ...]
    inr_params: int
    model_params: int
    seed: int
    seconds: float


def train_implicit(
    start: WeightNetwork,
    targets: Mapping[str, Tensor],
    model_at: Callable[[int], nn.Module],
    widths: Sequence[int],
    batches: Batches,
    settings: TrainingSettings,
    *,
    seed: int = 0,
    progress: Callable[[TrainingStep], None] | None = None,
) -> ImplicitTraining:
    """Train a copy of `start` on batches (x, labels), a width drawn at random for each.

    `start` should have seen all `widths` (`fit_implicit` with `others`): where weights are many
    times too large, the first steps lead to a network at chance, which may stay there.
    `model_at(width)` makes a model for the task whose parameters include all names of the design;
    it is put in eval mode, and what is not generated stays as it is. R counts at the width where
    the shapes are those of `targets`. `batches` is gone through again when exhausted. Raises
    UsageError for settings, names or widths that do not fit, ShapeMismatch for a model that differs
    in more than width.
    """
    started = time.perf_counter()
    _check(settings)
    design, device = start.design, start.device
    goal = checked_targets(targets, device)
    models = {width: model_at(width).to(device).eval() for width in widths}
    shapes = {width: model_shapes(models[width], design) for width in models}
    full = {width for width, found in shapes.items() if found == dict(design.shapes)}
    if not models or set(goal) != {name for name, _ in design.shapes}:
        raise UsageError("training needs at least one width, and a target for each tensor")
    if settings.recon_weight > 0.0 and not full:
        raise UsageError(f"none of the widths {tuple(models)} has the shapes of the weights")
    network, average = copy.deepcopy(start), copy.deepcopy(start).requires_grad_(False)
    optimizer, schedule = _optimizer(network, settings)
    parameters: list[Tensor] = list(network.parameters())
    averages: list[Tensor] = list(average.parameters())
    drawn, noise = seeded(seed, "widths"), seeded(seed, "coordinate noise", device)
    endless, order = _cycle(batches), list(models)
    tenth = max(1, settings.steps // 10)
    trace: list[TrainingStep] = []
    status: Status = "ok"
    for step in range(settings.steps):
        width = order[int(torch.randint(len(order), (1,), generator=drawn))]
        x, y = (part.to(device) for part in next(endless))
        weights = generate(
            network,
            shapes[width],
            noise=settings.coordinate_noise,
            generator=noise,
            published_routing=settings.published_routing,
        )
        ce, logits = cross_entropy(models[width], weights, x, y)
        recon = reconstruction_loss(weights, goal) if width in full else None
        loss = _total(settings, step, ce, recon, norm_penalty(weights.values()))
        done = TrainingStep(
            step, width, loss.item(), ce.item(), None if recon is None else recon.item()
        )
        trace.append(done)
        if progress is not None:
            progress(done)
        if not math.isfinite(done.loss):
            status = "diverged"
            break
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_value_(parameters, settings.clip)
        optimizer.step()
        schedule.step()
        update_average(averages, parameters, settings.ema_decay)
        if (step + 1) % tenth == 0:
            recent = [past.ce for past in trace[-max(1, tenth // 2) :]]
            status = "at_chance" if at_chance(recent, logits.shape[-1]) else "ok"
            if status == "at_chance" and settings.abort_at_chance:
                break
    return ImplicitTraining(
        network=average.requires_grad_(True),
        status=status,
        trace=tuple(trace),
        inr_params=design.inr_params,
        model_params=design.model_params,
        seed=seed,
        seconds=time.perf_counter() - started,
    )


@torch.no_grad()
def update_average(average: list[Tensor], values: list[Tensor], decay: float) -> None:
    """θ̄ ← decay·θ̄ + (1 - decay)·θ for every parameter, in place."""
    # all tensors in one call: one call a tensor takes as long as generating the weights
    get_ema_multi_avg_fn(decay)(average, values, 1)


def at_chance(losses: Sequence[float], n_classes: int) -> bool:
    """Whether the mean cross-entropy is within 1 % of ln(n_classes), that of a uniform guess."""
    guess = math.log(n_classes)
    return abs(sum(losses) / len(losses) - guess) <= _NEAR_CHANCE * guess


def model_shapes(model: nn.Module, design: Design) -> dict[str, Shape]:
    """Shapes of the design's tensors in a model. Raises UsageError and ShapeMismatch."""
    found = dict(model.named_parameters())
    for name, _ in design.shapes:
        if name not in found:
            raise UsageError("the model has no such parameter", tensor=name)
    shapes = {name: tuple(found[name].shape) for name, _ in design.shapes}
    checked_shapes(design, shapes)
    return shapes


def _optimizer(
    network: nn.Module, settings: TrainingSettings
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    optimizer = torch.optim.AdamW(
        network.parameters(),
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        fused=True,
    )
    milestones = [max(1, round(share * settings.steps)) for share in MILESTONES]
    return optimizer, torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma=0.1)


def _total(
    settings: TrainingSettings, step: int, ce: Tensor, recon: Tensor | None, norms: Tensor
) -> Tensor:
    """ce·CE + reg·Σ‖w‖ + recon·R with the weights that CE and R have at this step."""
    ramp = settings.ce_ramp * settings.steps
    rising = min(1.0, (step + 1) / ramp) if ramp > 0.0 else 1.0
    total = settings.ce_weight * rising * ce + settings.reg_weight * norms
    if recon is None:
        return total
    fading = 1.0
    if settings.recon_decay is not None:
        fading = max(0.0, 1.0 - step / (settings.recon_decay * settings.steps))
    return total + settings.recon_weight * fading * recon


def _cycle(batches: Batches) -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        empty = True
        for batch in batches:
            empty = False
            yield batch
        if empty:
            raise UsageError("there is no batch to train on", hint="pass a loader, not an iterator")


def _check(settings: TrainingSettings) -> None:
    if settings.steps < 1 or not 0.0 <= settings.ema_decay < 1.0 or settings.clip <= 0.0:
        raise UsageError("training needs steps >= 1, 0 <= ema_decay < 1 and clip > 0")
    shares = (settings.ce_ramp, 1.0 if settings.recon_decay is None else settings.recon_decay)
    if not 0.0 <= shares[0] <= 1.0 or not 0.0 < shares[1] <= 1.0:
        raise UsageError(f"ce_ramp and recon_decay are shares of the steps, got {shares}")
    weights = (settings.ce_weight, settings.recon_weight, settings.reg_weight)
    if any(weight < 0.0 for weight in weights):
        raise UsageError("loss weights must not be negative")
