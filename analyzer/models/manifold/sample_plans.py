"""Resized groups under each operator that is tried, and the tensors that they make."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from analyzer.checkpoints.checkpoint import Checkpoint
from analyzer.errors import NonFinite
from analyzer.models.manifold.axis_parts import Resized, resize, resized_shape
from analyzer.models.manifold.features import Read
from analyzer.models.manifold.groups import PermutationGroup, Site
from analyzer.models.manifold.operators import (
    ALONG_ORDER,
    NARROWING,
    Operator,
    Recipe,
    change_bound,
    is_one_hidden_layer,
    recipe,
    unit_weights,
)
from analyzer.models.manifold.smoothness import GroupSmoothness, group_smoothness
from theory.resampling.width_change import WidthChange

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class GroupSample:
    """One resized group, `n` units to `m`; `gamma_width` = 1 - m/n.

    `certificate`: bound on ‖f - f'‖ of the layer per unit of its input and of the activation's
    Lipschitz constant where `certified`, else a number that only ranks operators.
    """

    group: str
    kind: str
    n: int
    m: int
    operator: Operator
    gamma_width: float
    certificate: float
    certified: bool
    smoothness: float | None


@dataclass(frozen=True, slots=True)
class Plan:
    """All resized groups under one operator; where groups grow, that is copying."""

    operator: Operator
    recipes: Mapping[str, Recipe]
    samples: tuple[GroupSample, ...]


def new_shapes(
    checkpoint: Checkpoint, changed: Iterable[PermutationGroup], sizes: Mapping[str, int]
) -> dict[str, tuple[int, ...]]:
    sites: defaultdict[str, list[Resized]] = defaultdict(list)
    for group in changed:
        for site in group.sites:
            sites[site.tensor].append(Resized(site, group.size, sizes[group.name]))
    return {
        t.name: resized_shape(t.shape, sites[t.name]) if t.name in sites else t.shape
        for t in checkpoint.stored
    }


def make_plans(
    checkpoint: Checkpoint,
    changed: Sequence[PermutationGroup],
    sizes: Mapping[str, int],
    operator: Operator | None,
    measured: dict[str, GroupSmoothness],
    seed: int,
) -> list[Plan]:
    """One plan an operator. A group's weights are read once for all of them."""
    narrows = any(sizes[group.name] < group.size for group in changed)
    wanted: tuple[Operator, ...] = NARROWING if narrows else ("duplicate",)
    wanted = (operator,) if operator else wanted
    dims = {tensor.name: len(tensor.shape) for tensor in checkpoint.tensors()}
    recipes: dict[Operator, dict[str, Recipe]] = {name: {} for name in wanted}
    samples: dict[Operator, list[GroupSample]] = {name: [] for name in wanted}
    for group in changed:
        units, m = unit_weights(checkpoint.read, group), sizes[group.name]
        for name in wanted:
            used: Operator = name if operator or m < group.size else "duplicate"
            if used in ALONG_ORDER and group.name not in measured:
                measured[group.name] = group_smoothness(checkpoint.read, group, seed=seed)
            found = measured.get(group.name)
            made = recipe(used, units, m, found.order if found else None, seed=seed)
            recipes[name][group.name] = made
            samples[name].append(
                GroupSample(
                    group=group.name,
                    kind=group.kind,
                    n=group.size,
                    m=m,
                    operator=used,
                    gamma_width=1.0 - m / group.size,
                    certificate=change_bound(units, made),
                    certified=is_one_hidden_layer(group, dims),
                    smoothness=found.smoothness if found else None,
                )
            )
    return [Plan(name, recipes[name], tuple(samples[name])) for name in wanted]


def new_tensor(
    read: Read, name: str, changed: Iterable[PermutationGroup], plan: Plan
) -> torch.Tensor:
    """One tensor with its new widths and its own dtype."""
    import torch

    changes: list[tuple[Site, WidthChange]] = []
    for group in changed:
        sites = [site for site in group.sites if site.tensor == name]
        if sites:
            change = plan.recipes[group.name].change()
            changes += [(site, change) for site in sites]
    tensor = read(name)
    if not changes:
        return tensor
    result = torch.from_numpy(np.ascontiguousarray(resize(tensor.double().numpy(), changes)))
    result = result.to(tensor.dtype)
    if not bool(torch.isfinite(result).all()):
        bad = torch.nonzero(~torch.isfinite(result.flatten()))
        raise NonFinite(0, len(bad), int(bad[0]), tensor=name)
    return result
