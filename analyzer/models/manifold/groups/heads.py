"""Attention spaces as groups of heads: key heads with their query heads, and those within one.

Query head h reads key head h // (H/H_kv) (J. Ainslie et al., "GQA", arXiv 2305.13245): key heads
may change places if they take their query heads along, and query heads of one key head among
themselves. Channels within a head stay, for rotary embeddings and norms tell them apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from analyzer.models.manifold.groups.axes import Axis
from analyzer.models.manifold.groups.placing import Misfit, Placement
from analyzer.models.manifold.groups.types import blocks, fused

SPACES = ("q_", "kv_", "qkv_")


def is_attention(axis: Axis) -> bool:
    """Whether the axis holds queries, keys or values."""
    return axis.space.startswith(SPACES)


def group_of(axis: Axis) -> str:
    """The name of the group that the heads along an attention axis belong to."""
    return f"attn_{axis.space.split('_', 1)[1]}"


def place_heads(axis: Axis, length: int, config: Mapping[str, Any]) -> Iterator[Placement]:
    """Where heads lie along an axis of queries, keys and values. Raises Misfit where config.json
    does not say how many heads there are or they do not divide the axis."""
    heads, kv_heads = _counts(config)
    what = axis.space.split("_", 1)[0]
    holding = {"q": heads, "kv": kv_heads, "qkv": heads + 2 * kv_heads}[what]
    width, rest = divmod(length, holding)
    if rest or not width:
        raise Misfit(f"{length} entries cannot be divided among {holding} heads")
    share = heads // kv_heads
    layout = {
        "q": blocks(share * width),
        "kv": blocks(width),
        "qkv": fused(kv_heads, share * width, width, width),
    }[what]
    group = group_of(axis)
    yield Placement(group, "heads", kv_heads, layout, width)
    if share > 1 and what != "kv":
        for unit in range(kv_heads):
            inner = blocks(width, start=unit * share * width)
            yield Placement(
                f"{group}_q_{unit}", "query_heads", share, inner, width, None, group, unit
            )


def _counts(config: Mapping[str, Any]) -> tuple[int, int]:
    """Numbers of query heads and of key heads."""
    heads = config.get("num_attention_heads", config.get("n_head"))
    kv_heads = config.get("num_key_value_heads")
    kv_heads = heads if kv_heads is None else kv_heads
    if not isinstance(heads, int) or not isinstance(kv_heads, int) or min(heads, kv_heads) < 1:
        raise Misfit("config.json does not say num_attention_heads")
    if heads % kv_heads:
        raise Misfit(f"{heads} heads cannot share {kv_heads} key heads")
    return heads, kv_heads
