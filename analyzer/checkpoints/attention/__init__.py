"""Attention layers of a checkpoint: which rows of which matrix are queries and keys of a head."""

from analyzer.checkpoints.attention.layers import attention_layers
from analyzer.checkpoints.attention.types import (
    AttentionLayer,
    HeadNorm,
    Norm,
    Projection,
    RefusedLayer,
    RelativeBias,
    Rotary,
)

__all__ = [
    "AttentionLayer",
    "HeadNorm",
    "Norm",
    "Projection",
    "RefusedLayer",
    "RelativeBias",
    "Rotary",
    "attention_layers",
]
