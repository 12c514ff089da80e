"""Adapters (LoRA and its relatives) read without the libraries that wrote them."""

from analyzer.checkpoints.adapters.opening import open_adapter
from analyzer.checkpoints.adapters.pairing import match_targets
from analyzer.checkpoints.adapters.standalone import standalone_matrix
from analyzer.checkpoints.adapters.types import (
    Adapter,
    AdapterTarget,
    LowRankDelta,
    TunedWeight,
)
from analyzer.checkpoints.adapters.updating import dense_weight, scaling_at, target_update

__all__ = [
    "Adapter",
    "AdapterTarget",
    "LowRankDelta",
    "TunedWeight",
    "dense_weight",
    "match_targets",
    "open_adapter",
    "scaling_at",
    "standalone_matrix",
    "target_update",
]
