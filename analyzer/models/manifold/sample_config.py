"""config.json of a checkpoint with other widths, and what the model's own code will accept.

transformers reads one width for all layers, and some families derive the size of a head from the
width of the stream.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analyzer.errors import UsageError
from analyzer.models.manifold.groups import PermutationGroup


@dataclass(frozen=True, slots=True)
class _Fields:
    """Names of the fields in one family; `head_dim`: whether heads have a size of their own."""

    hidden: str = "hidden_size"
    mlp: str = "intermediate_size"
    layers: str = "num_hidden_layers"
    heads: str = "num_attention_heads"
    kv_heads: str | None = None
    head_dim: bool = False
    # LlamaConfig.validate_architecture wants this even where head_dim is given
    heads_divide_hidden: bool = True


_GROUPED = _Fields(kv_heads="num_key_value_heads", head_dim=True, heads_divide_hidden=False)
_FAMILIES: Mapping[str, _Fields] = {
    "llama": _Fields(kv_heads="num_key_value_heads", head_dim=True),
    **dict.fromkeys(("mistral", "qwen2", "qwen3", "mixtral"), _GROUPED),
    "phi3": _Fields(kv_heads="num_key_value_heads", head_dim=True),
    "gpt2": _Fields("n_embd", "n_inner", "n_layer", "n_head"),
    **dict.fromkeys(("bert", "vit"), _Fields()),
}


def resized_config(
    config: Mapping[str, Any], groups: Sequence[PermutationGroup], sizes: Mapping[str, int]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """A copy with the fields of the new widths, and warnings; `sizes` by group, changed ones only.

    Raises UsageError for widths that the architecture's configuration cannot express.
    """
    result = dict(config)
    if not config or not sizes:
        return result, ()
    kind = config.get("model_type")
    if kind == "resnet":
        raise UsageError("config.json of resnet has no fields for the widths within its blocks")
    fields = _FAMILIES.get(str(kind))
    if fields is None:
        return result, (f"config.json of {kind!r} is copied as it is: its widths are not known",)
    kinds = {group.kind for group in groups if group.name in sizes}
    if "mlp" in kinds:
        result[fields.mlp] = _common(config, fields, groups, sizes, "mlp", fields.mlp)
    if kinds & {"heads", "query_heads"}:
        _set_heads(result, config, fields, groups, sizes)
    if kinds & {"residual", "channels"}:
        result[fields.hidden] = _hidden(config, fields, groups, sizes)
        if fields.head_dim and result.get("head_dim") is None:
            result["head_dim"] = config[fields.hidden] // config[fields.heads]
    _validate(result, config, fields)
    return result, ()


def _common(
    config: Mapping[str, Any],
    fields: _Fields,
    groups: Sequence[PermutationGroup],
    sizes: Mapping[str, int],
    kind: str,
    name: str,
) -> int:
    """The one width that every layer's groups of a kind have."""
    own = [group for group in groups if group.kind == kind]
    widths = {sizes.get(group.name, group.size) for group in own}
    if len(widths) > 1:
        raise UsageError(
            f"config.json has one {name} for all layers, not {sorted(widths)}",
            hint=f"give the width of all groups of kind {kind!r}",
        )
    counts = Counter(group.layer for group in own)
    if set(counts) != set(range(config[fields.layers])) or len(set(counts.values())) > 1:
        raise UsageError(
            f"{name} holds for {config[fields.layers]} layers, but only some have a group of kind"
            f" {kind!r}",
            hint="see the unmapped axes of the checkpoint",
        )
    return widths.pop()


def _set_heads(
    result: dict[str, Any],
    config: Mapping[str, Any],
    fields: _Fields,
    groups: Sequence[PermutationGroup],
    sizes: Mapping[str, int],
) -> None:
    kv_heads = _common(config, fields, groups, sizes, "heads", fields.kv_heads or fields.heads)
    inner = [group for group in groups if group.kind == "query_heads"]
    share = _common(config, fields, groups, sizes, "query_heads", fields.heads) if inner else 1
    result[fields.heads] = kv_heads * share
    if fields.kv_heads:
        result[fields.kv_heads] = kv_heads
    if fields.head_dim:
        result["head_dim"] = _head_dim(config, fields)


def _head_dim(config: Mapping[str, Any], fields: _Fields) -> int:
    return config.get("head_dim") or config[fields.hidden] // config[fields.heads]


def _hidden(
    config: Mapping[str, Any],
    fields: _Fields,
    groups: Sequence[PermutationGroup],
    sizes: Mapping[str, int],
) -> int:
    """Poolers and output transforms are as wide as the stream."""
    own = {g.name: sizes.get(g.name, g.size) for g in groups if g.kind in ("residual", "channels")}
    if len(set(own.values())) > 1:
        listed = ", ".join(f"{name} {width}" for name, width in own.items())
        raise UsageError(f"config.json has one {fields.hidden} for {listed}: change them alike")
    if "residual" not in {group.kind for group in groups}:
        raise UsageError(f"{fields.hidden} is also the width of the stream, which has no group")
    return next(iter(own.values()))


def _validate(result: Mapping[str, Any], config: Mapping[str, Any], fields: _Fields) -> None:
    hidden, heads = result[fields.hidden], result[fields.heads]
    kind = result["model_type"]
    if fields.heads_divide_hidden and hidden % heads:
        raise UsageError(
            f"{kind} refuses {fields.hidden} {hidden} that {fields.heads} {heads} does not divide"
        )
    if not fields.head_dim and hidden // heads != config[fields.hidden] // config[fields.heads]:
        raise UsageError(
            f"{kind} has heads of {fields.hidden}/{fields.heads} = {hidden}/{heads} channels, the"
            f" weights have {config[fields.hidden] // config[fields.heads]}",
            hint="change the number of heads and the residual width alike",
        )
