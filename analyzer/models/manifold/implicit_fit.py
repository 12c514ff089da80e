"""How well implicit networks stand for the weights of a checkpoint, beside the closed forms.

X. Yang & X. Wang, "Neural Metamorphosis", arXiv 2410.11878: one network a tensor, whose size does
not depend on the tensor's. For a small matrix it stores more numbers than the matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from analyzer.checkpoints.checkpoint import Checkpoint
from analyzer.models.manifold.fit import (
    TensorFit,
    fit_by_cosines,
    grouped_matrices,
    stored_and_ordered,
    with_errors,
)
from analyzer.models.manifold.groups import PermutationGroup
from analyzer.models.manifold.inr import ImplicitFit, design_for, fit_implicit, generate

Array = NDArray[np.float64]


def fit_by_networks(
    checkpoint: Checkpoint,
    groups: Sequence[PermutationGroup],
    orders: Mapping[str, ArrayLike],
    *,
    hidden: int = 64,
    steps: int = 1000,
    device: torch.device | str = "cpu",
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[TensorFit]:
    """Like `fit_manifold`, with a network of width `hidden` for every matrix, and every slice of a
    stack, fitted by `fit_implicit` without data; axes outside all groups are coordinates too.

    Where a network diverged, the fit is the closed form's of as many numbers, which its `basis`
    says. `progress` gets the tensors done and their number. Raises as `fit_manifold`, UsageError
    for `hidden` below 1 too.
    """
    listed = list(grouped_matrices(checkpoint, groups, orders))
    for done, (tensor, sites) in enumerate(listed):
        pair = stored_and_ordered(checkpoint.read, tensor, sites, orders)
        W, moved = pair
        made, count = _generated(moved, hidden, steps, device, seed)
        again = made if moved is W else _generated(W, hidden, steps, device, seed)[0]
        if made is None or again is None:
            yield fit_by_cosines(tensor, sites, pair, min(1.0, count / W.size))
        else:
            yield with_errors(tensor, "inr", pair, made, again, count)
        if progress is not None:
            progress(done + 1, len(listed))


def _generated(
    W: Array, hidden: int, steps: int, device: torch.device | str, seed: int
) -> tuple[Array | None, int]:
    """The weights that fitted networks give, None where one diverged, and their parameters."""
    slices = W if W.ndim == 3 else W[None]
    fits = [_fit(one, hidden, steps, device, seed) for one in slices]
    count = sum(fit.inr_params for fit, _ in fits)
    if any(fit.diverged for fit, _ in fits):
        return None, count
    made: list[Array] = []
    for fit, scale in fits:
        with torch.no_grad():
            made.append(generate(fit.network)["W"].double().cpu().numpy() * scale)
    return np.stack(made).reshape(W.shape), count


def _fit(
    W: Array, hidden: int, steps: int, device: torch.device | str, seed: int
) -> tuple[ImplicitFit, float]:
    """A network for W over its largest entry, so that the steps suit any scale, and that entry."""
    scale = float(np.abs(W).max()) or 1.0
    target = torch.from_numpy(W / scale)
    design = design_for({"W": W.shape}, hidden=hidden)
    return fit_implicit({"W": target}, design=design, steps=steps, device=device, seed=seed), scale
