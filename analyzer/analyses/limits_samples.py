"""One head on one sample: queries and keys as they meet, after the rotary embedding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analyzer.analyses.limits_arrays import Array
from analyzer.checkpoints.attention.types import AttentionLayer
from theory.lora_limits.chain import EntryNorms
from theory.lora_limits.logits import RowLogits
from theory.lora_limits.rotary import rotated


@dataclass(frozen=True, slots=True)
class HeadSample:
    """Queries and keys of one head on one sample, after RoPE, and what their pairs give."""

    q: Array
    k: Array
    entries: EntryNorms
    rows: RowLogits | None


def at_positions(layer: AttentionLayer, values: Array) -> Array:
    rotary = layer.rotary
    if rotary is None or rotary.frequencies is None:
        return values
    frequencies = np.asarray(rotary.frequencies)
    return rotated(values, np.arange(len(values)), frequencies, rotary.layout, factor=rotary.factor)


def head_columns(head: int, width: int) -> slice:
    return slice(head * width, (head + 1) * width)
