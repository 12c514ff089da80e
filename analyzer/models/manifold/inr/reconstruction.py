"""Fitting an implicit network to the weights of one checkpoint alone; no data are needed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from analyzer.errors import NonFinite, QuantUnknown, UsageError
from analyzer.models.manifold.inr.design import (
    Design,
    Shape,
    checked_shapes,
    design_for,
    taps,
)
from analyzer.models.manifold.inr.generation import PAIRS_AT_ONCE, answers, relative_errors
from analyzer.models.manifold.inr.losses import emphasis
from analyzer.models.manifold.inr.network import WeightNetwork, seeded
from theory.implicit_weights import fan_in


@dataclass(frozen=True, slots=True)
class ImplicitFit:
    """A network fitted to weights.

    `rel_fro`: ‖W - Ŵ‖_F/‖W‖_F a tensor, None for a zero one. `diverged`: tensors where it exceeds
    1, which zeros would fit better. `losses`: R before each step, of the weights of that step.
    """

    network: WeightNetwork
    rel_fro: dict[str, float | None]
    diverged: tuple[str, ...]
    losses: tuple[float, ...]
    inr_params: int
    model_params: int
    seed: int
    seconds: float


@dataclass(frozen=True, slots=True)
class _Goal:
    """Weights of one width, in the order of the design: shapes, (pairs, taps) values, emphasis."""

    shapes: list[Shape]
    values: list[Tensor]
    shares: list[Tensor]


def fit_implicit(
    targets: Mapping[str, Tensor],
    *,
    others: Sequence[Mapping[str, Tensor]] = (),
    design: Design | None = None,
    steps: int = 2000,
    learning_rate: float = 2e-3,
    coordinate_noise: float = 0.0,
    device: torch.device | str = "cpu",
    seed: int = 0,
    progress: Callable[[int, float], None] | None = None,
) -> ImplicitFit:
    """Minimise R, `theory.implicit_weights.reconstruction_loss`, by Adam with a cosine schedule.

    `targets`: learnable tensors in the order of the state dict, channels in the order that makes
    them smooth. `others`: the same tensors at other widths, such as samples of the closed form;
    each step then takes one width at random. A network that has seen one width answers at another
    with weights many times too large, which sets training on a task back or stops it. `design`:
    `design_for` the targets' shapes unless given. Of a tensor with more than 65536 pairs of
    channels each step takes that many at random. 0 steps give the network as it starts. `progress`
    gets the steps done and R. A loss that is no longer finite ends the fit. Raises UsageError,
    ShapeMismatch, QuantUnknown or NonFinite for targets that cannot be fitted.
    """
    started = time.perf_counter()
    goal = checked_targets(targets, device)
    plan = design or design_for({name: tuple(w.shape) for name, w in goal.items()})
    if plan.shapes != tuple((name, tuple(w.shape)) for name, w in goal.items()):
        raise UsageError("the design is for other tensors, shapes or another order of them")
    goals = [_goal(plan, one) for one in (goal, *(checked_targets(o, device) for o in others))]
    network = WeightNetwork(plan, seed).to(device)
    noise = seeded(seed, "coordinate noise", device)
    chosen, drawn = seeded(seed, "pairs of a step", device), seeded(seed, "widths")
    optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=max(1, steps))
    losses: list[float] = []
    for step in range(steps):
        wanted = goals[int(torch.randint(len(goals), (1,), generator=drawn))]
        loss = _loss(network, wanted, coordinate_noise, noise, chosen)
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if progress is not None:
            progress(step + 1, losses[-1])
    errors = relative_errors(network, goal)
    return ImplicitFit(
        network=network,
        rel_fro=errors,
        diverged=tuple(name for name, e in errors.items() if e is not None and e > 1.0),
        losses=tuple(losses),
        inr_params=plan.inr_params,
        model_params=plan.model_params,
        seed=seed,
        seconds=time.perf_counter() - started,
    )


def _goal(design: Design, weights: Mapping[str, Tensor]) -> _Goal:
    shapes = checked_shapes(design, {name: tuple(w.shape) for name, w in weights.items()})
    flat = [weights[name].reshape(-1, taps(full)) for name, full in design.shapes]
    return _Goal(shapes, flat, [emphasis(w) for w in flat])


def _loss(
    network: WeightNetwork,
    goal: _Goal,
    coordinate_noise: float,
    noise: torch.Generator,
    chosen: torch.Generator,
) -> Tensor:
    terms: list[Tensor] = []
    for k, shape in enumerate(goal.shapes):
        pairs = _pairs(shape[0] * fan_in(shape), chosen)
        off = answers(network, k, shape, pairs, coordinate_noise, noise) - goal.values[k][pairs]
        terms.append((off**2 * goal.shares[k][pairs]).mean())
    return torch.stack(terms).mean()


def checked_targets(targets: Mapping[str, Tensor], device: torch.device | str) -> dict[str, Tensor]:
    """float32 copies on `device`. Raises QuantUnknown and NonFinite naming the tensor."""
    result: dict[str, Tensor] = {}
    for name, tensor in targets.items():
        if not tensor.is_floating_point() or tensor.element_size() == 1:
            raise QuantUnknown(
                f"{tensor.dtype} values cannot be fitted", tensor=name, hint="dequantise first"
            )
        value = tensor.detach().to(device, torch.float32)
        bad = (~torch.isfinite(value)).flatten().nonzero().flatten()
        if bad.numel():
            n_nan = int(torch.isnan(value).sum())
            raise NonFinite(n_nan, bad.numel() - n_nan, int(bad[0]), tensor=name)
        result[name] = value
    return result


def _pairs(n: int, generator: torch.Generator) -> Tensor:
    """All n pairs of channels, or as many as are taken at once at random."""
    if n <= PAIRS_AT_ONCE:
        return torch.arange(n, device=generator.device)
    return torch.randint(n, (PAIRS_AT_ONCE,), generator=generator, device=generator.device)
