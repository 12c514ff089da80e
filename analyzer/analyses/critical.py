"""The critical multiplier: the smallest s, on a grid of steps, with an intruder in W0 + s·ΔW.

The count of intruders is not monotone in s (Shuttleworth et al., arXiv 2410.21228, count them at
s = 1 only): it can vanish again, and no finite set of s excludes a narrow window below the one
that is found. So s rises in steps of 2^¼ (√2 for dense updates, whose spectra cost ten times as
much) from a quarter of the predicted threshold, or from 1 if that is less, and the first step
that has one is narrowed by a bracketing root search on min_j cos_j(s) - ε, cos_j the largest
cosine with a base vector or a cluster of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.optimize import brentq

from analyzer.analyses.intruders import TunedVectors, judge, tuned_vectors
from analyzer.analyses.parameters import Side
from analyzer.spectral import CPU, Backend, BaseSVD, LowRankUpdate
from analyzer.spectral.difference import Difference
from analyzer.spectral.prepare import as_tensor

BELOW, ABOVE = 1 / 4, 8.0  # of θ*/σ₁(ΔW): where the search starts and gives up
LOWEST = 40  # steps below the start, where nothing is left of the update
LOW_RANK = 2.0**0.25, 1e-6  # step and relative width of the root
DENSE = 2.0**0.5, 1e-3


@dataclass(frozen=True, slots=True)
class Critical:
    """`multiplier` is None if no step up to `limit` has an intruder."""

    multiplier: float | None
    limit: float


@dataclass(frozen=True, slots=True)
class DenseUpdate:
    """A base and a tuned matrix (m, n), dtypes as stored, whose difference is not low-rank."""

    base: np.ndarray | torch.Tensor
    tuned: np.ndarray | torch.Tensor

    @property
    def delta(self) -> Difference:
        """ΔW, formed in float64 where it is read."""
        return Difference(as_tensor(self.tuned), as_tensor(self.base))

    def scaled(self, factor: float) -> Difference:
        """W0 + factor·ΔW, formed in float64 where it is read."""
        return replace(self.delta, factor=factor, on_base=True)


def critical_multipliers(
    base: BaseSVD,
    update: LowRankUpdate | DenseUpdate,
    sides: Mapping[Side, float],
    *,
    k: int,
    epsilon: float,
    backend: Backend = CPU,
) -> dict[Side, Critical]:
    """The critical multiplier of each side; `sides` gives its scale θ*/σ₁(ΔW).

    Both sides share the spectra that were computed, since a multiplier's top-k serves either.
    """
    margins: dict[float, dict[Side, float]] = {}

    def margin(s: float, side: Side) -> float:
        """min_j maxcos_j - ε over the k leading defined vectors: negative with an intruder."""
        if s not in margins:
            top = tuned_vectors(base, update.scaled(s), k, tol=1e-8, backend=backend)
            both: tuple[Side, Side] = ("left", "right")
            margins[s] = {one: _margin(base, top, epsilon, one) for one in both}
        return margins[s][side]

    step, rtol = LOW_RANK if isinstance(update, LowRankUpdate) else DENSE
    return {side: _first_root(margin, side, scale, step, rtol) for side, scale in sides.items()}


def _margin(base: BaseSVD, top: TunedVectors, epsilon: float, side: Side) -> float:
    found = judge(base, top, epsilon, side)
    if not found.k or found.singular_values[0] == 0.0:
        return 1.0
    defined = found.is_intruder | (found.maxcos >= epsilon)
    return float(np.min(found.cluster_cos[defined], initial=2.0)) - epsilon


def _first_root(
    margin: Callable[[float, Side], float], side: Side, scale: float, step: float, rtol: float
) -> Critical:
    """Steps upwards from a quarter of `scale`, or downwards if there is an intruder already."""
    # Powers of the step around 1, so that both sides try the same multipliers.
    first = min(int(np.floor(np.log(BELOW * scale) / np.log(step))), 0)
    last = max(int(np.ceil(np.log(ABOVE * scale) / np.log(step))), 0)
    limit = step**last
    at = first
    while margin(step**at, side) >= 0:
        at += 1
        if at > last:
            return Critical(None, limit)
    while margin(step ** (at - 1), side) < 0:
        at -= 1
        if at < first - LOWEST:
            return Critical(step**at, limit)
    s = step**at
    # SciPy ties what it is given into a cycle; emptied, it cannot keep the matrices alive.
    asked = [margin]
    root: Any = brentq(lambda x: asked[0](x, side), s / step, s, xtol=rtol * s)
    asked.clear()
    return Critical(float(root), limit)
