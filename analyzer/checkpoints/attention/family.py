"""How a family of models names its attention modules and what it does to queries and keys.

A family is a value of `Family`, made from the model's configuration; the modules ``*_families``
hold one short function a family. Everything a `Family` does not say is plain
scaled dot-product attention: β = 1/√d_h, no rotation, no cap, no window.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from analyzer.checkpoints.attention.fused_layouts import FusedLayout, LayoutRefused
from analyzer.checkpoints.attention.rotary_config import RotaryRule
from analyzer.checkpoints.attention.types import LogitBias, NormKind

Config = Mapping[str, Any]

FULL, SLIDING = "full_attention", "sliding_attention"
LENGTHS = (
    "max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class NormRule:
    """The norm layers of a family; `affine` is whether they hold a gain at all."""

    kind: NormKind
    eps: float
    offset: float = 0.0
    affine: bool = True


@dataclass(frozen=True, slots=True)
class HeadNormRule:
    """Norms of queries and keys: modules within the attention module."""

    query: str
    key: str
    per_head: bool
    norm: NormRule


@dataclass(frozen=True, slots=True)
class Front:
    """The norm layer in front of a projection: a template of its path, or why there is none.

    Templates know {root} (what stands before the container of layers), {layer} and {previous}.
    """

    path: str | None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Block:
    """One kind of attention module in a family."""

    path: re.Pattern[str]  # the module's whole path, with groups root and layer
    front: Front
    first: Front | None = None  # in front of layer 0, where that differs
    causal: bool = True
    cross: bool = False
    keys_front: Front | None = None  # of cross-attention: the norm in front of the keys
    heads: tuple[str, ...] | None = None  # fields with the number of heads, where they differ
    lengths: tuple[str, ...] | None = None  # fields with the longest sequence, where they differ


def block(
    container: str,
    attention: str,
    front: str | None,
    *,
    first: Front | None = None,
    causal: bool = True,
    cross: bool = False,
    keys_front: Front | None = None,
    heads: tuple[str, ...] | None = None,
    detail: str | None = None,
) -> Block:
    """A block whose attention is ``ROOT container.N.attention``; `front` is a path within layer N,
    or a template if it contains a brace."""
    if front is not None and "{" not in front:
        front = f"{{root}}{container}.{{layer}}.{front}"
    path = rf"(?P<root>(?:.+\.)?){re.escape(container)}\.(?P<layer>\d+)\.{re.escape(attention)}"
    return Block(re.compile(path), Front(front, detail), first, causal, cross, keys_front, heads)


def inverse_root(head_width: int, layer: int) -> float:
    """β = 1/√d_h, in every layer."""
    return 1.0 / math.sqrt(head_width)


def always_full(layer: int) -> str:
    """No layer has a window."""
    return FULL


def never(layer: int) -> bool:
    """In no layer."""
    return False


@dataclass(frozen=True, slots=True)
class Family:
    blocks: tuple[Block, ...]
    norm: NormRule
    fused: FusedLayout | None = None  # None: a matrix each for queries, keys and values
    heads: tuple[str, ...] = ("num_attention_heads", "n_head", "n_heads", "num_heads")
    kv_heads: int | None = None  # None: num_key_value_heads, else as many as heads
    head_width: str = "head_dim"  # field; without it the rows are divided among the heads
    scale: Callable[[int, int], float] = inverse_root  # head width, layer → β
    rotary: RotaryRule | None = None
    unrotated: Callable[[int], bool] = never  # layers without rotary embedding
    head_norm: HeadNormRule | None = None
    softcap: float | None = None
    logit_bias: LogitBias | None = None
    relative: str | None = None  # template of the tensor of a relative bias: {root}, {part}
    max_distance: int = 128
    bias_scaled: bool = False  # β multiplies the bias too
    layer_type: Callable[[int], str] = always_full
    window: int | None = None  # keys a query sees in layers of the type `SLIDING`
    context: int | None = None  # None: the first of `LENGTHS` that the configuration has
    refusal: str | None = None  # why no layer of this model can be described


def integer(config: Config, *fields: str) -> int | None:
    """The first of these fields that is a positive integer."""
    for field in fields:
        value = config.get(field)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None


def number(config: Config, field: str, default: float) -> float:
    """A field, or what the family's configuration class has for it. Raises LayoutRefused for a
    negative or infinite one."""
    value = optional(config, field, default)
    if value is not None and not 0.0 <= value < math.inf:
        raise LayoutRefused(f"config.json says {field} = {value}")
    return default if value is None else value


def positive(config: Config, field: str, default: float) -> float:
    """As `number`, but not 0 either."""
    value = number(config, field, default)
    if value == 0.0:
        raise LayoutRefused(f"config.json says {field} = 0")
    return value


def optional(config: Config, field: str, default: float | None = None) -> float | None:
    """A field that may say there is no such number; `default` if it is missing."""
    value = config.get(field, default)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    return None


def layer_types(config: Config, otherwise: Callable[[int], bool]) -> Callable[[int], str]:
    """Each layer's type from ``layer_types``, else from whether `otherwise` calls it sliding."""
    listed = config.get("layer_types")

    def type_of(layer: int) -> str:
        if isinstance(listed, list) and layer < len(listed):
            return str(listed[layer])
        return SLIDING if otherwise(layer) else FULL

    return type_of


def layernorm(config: Config, field: str = "layer_norm_epsilon", eps: float = 1e-5) -> NormRule:
    """The rule of a family of LayerNorms."""
    return NormRule("layernorm", number(config, field, eps))


def rmsnorm(config: Config, eps: float = 1e-6, offset: float = 0.0) -> NormRule:
    """The rule of a family of RMSNorms; gains are `offset` + weight."""
    return NormRule("rmsnorm", number(config, "rms_norm_eps", eps), offset)


def head_norm(norm: NormRule, *, per_head: bool = True) -> HeadNormRule:
    """Queries and keys normalised by modules ``q_norm`` and ``k_norm``."""
    return HeadNormRule("q_norm", "k_norm", per_head, norm)


def clipped(config: Config) -> str | None:
    """Why queries and keys are no linear function of the input, if they are clipped."""
    return "queries and keys are clipped (clip_qkv)" if config.get("clip_qkv") else None
