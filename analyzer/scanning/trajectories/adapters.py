"""What changed between two checkpoints of one adapter, as factors where it is a low-rank change."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from analyzer.analyses.observations import Product
from analyzer.checkpoints.adapters import LowRankDelta, target_update
from analyzer.checkpoints.adapters.types import TunedWeight
from analyzer.errors import AdapterError
from analyzer.scanning.drafts import Entry
from analyzer.scanning.matrices import cancellation_floor, read_weight
from analyzer.spectral import Backend, BaseSVD, low_rank_svd


@dataclass(frozen=True, slots=True)
class Change:
    """An update, dense (rows, cols) float64 where an adapter makes no low-rank change.

    Singular values below twice `floor` are rounding of the stored factors.
    """

    matrix: Product | torch.Tensor
    floor: float = 0.0


def adapter_change(
    later: Entry, earlier: Entry | None, start: Entry | None, backend: Backend
) -> Change:
    """The adapted matrix at `later` minus that at `earlier`, or minus the base `start` if None.

    Raises AdapterError where the base is needed and there is none.
    """
    new = _update(later, start)
    old = _update(earlier, start) if earlier is not None else None
    if isinstance(new, LowRankDelta) and not isinstance(old, TunedWeight):
        product = Product(new.P, new.Q)
        if old is not None:  # both lack the same part of the base, if any
            return Change(product.minus(Product(old.P, old.Q)))
        if new.minus_base_rank:
            svd = BaseSVD.compute(_weight(start, later), backend)
            moved = product.minus(Product(*svd.truncated(new.minus_base_rank)))
            fro_norm = low_rank_svd(product.P, product.Q, backend=backend).fro_norm
            return Change(moved, cancellation_floor(fro_norm, later))
        return Change(product)
    base = _weight(start, later).double()
    return Change(_tuned(new, base) - (base if old is None else _tuned(old, base)))


def _update(entry: Entry, start: Entry | None) -> LowRankDelta | TunedWeight:
    """Without the base if possible: reading it is most of the work."""
    assert entry.adapter is not None and entry.target is not None and entry.base is not None
    try:
        return target_update(entry.adapter, entry.target, entry.base, None)
    except AdapterError:
        if start is None:
            raise
        return target_update(entry.adapter, entry.target, entry.base, read_weight(start))


def _weight(start: Entry | None, entry: Entry) -> torch.Tensor:
    if start is None:
        raise AdapterError("its change depends on the base", tensor=entry.row.name)
    return read_weight(start)


def _tuned(update: LowRankDelta | TunedWeight, base: torch.Tensor) -> torch.Tensor:
    if isinstance(update, TunedWeight):
        return torch.from_numpy(update.W)
    return base + torch.from_numpy(update.P @ update.Q.T)
