"""Attention layers from names, shapes and config.json: whose rows are whose, for every head.

Nothing is guessed. Where the number of heads, the order of fused rows, the norm in front or the
rotation of queries and keys is not known for certain, the layer is refused with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from analyzer.checkpoints.attention.families import family_of
from analyzer.checkpoints.attention.family import (
    FULL,
    LENGTHS,
    SLIDING,
    Block,
    Config,
    Family,
    integer,
)
from analyzer.checkpoints.attention.fused_layouts import LayoutRefused, Slices, head_width, split
from analyzer.checkpoints.attention.modules import (
    FUSED,
    KEY,
    QUERY,
    VALUE,
    AttentionModule,
    attention_modules,
    module_path,
)
from analyzer.checkpoints.attention.norms import Stored, head_norms, norm_in_front
from analyzer.checkpoints.attention.rotary_config import rotary
from analyzer.checkpoints.attention.types import (
    AttentionLayer,
    HeadNorm,
    Projection,
    RefusedLayer,
    RelativeBias,
)
from analyzer.checkpoints.checkpoint import Checkpoint
from analyzer.checkpoints.names import strip_wrappers
from analyzer.checkpoints.tensors import MatrixInfo, TensorInfo

_LANGUAGE = re.compile(r"(?:.*\.)?(?:language_model|text_model)\..*|(?:model\.)?")


def attention_layers(checkpoint: Checkpoint) -> tuple[AttentionLayer | RefusedLayer, ...]:
    """Every attention layer, ordered by stack and layer; () for an adapter. Touches no data."""
    if checkpoint.kind == "adapter":
        return ()
    stored: dict[str, TensorInfo] = {}
    for tensor in checkpoint.tensors():
        stored.setdefault(strip_wrappers(tensor.name), tensor)
    found: list[AttentionLayer | RefusedLayer] = []
    for module in attention_modules(checkpoint):
        try:
            found.append(_layer(module, stored, checkpoint.config))
        except LayoutRefused as refusal:
            name = module.first.name if module.first else ""
            found.append(RefusedLayer(module.path, module.stack, module.layer, name, str(refusal)))
    return tuple(sorted(found, key=_place))


def _place(layer: AttentionLayer | RefusedLayer) -> tuple[str, int]:
    return layer.stack or "", -1 if layer.layer is None else layer.layer


def _layer(module: AttentionModule, stored: Stored, whole: Config) -> AttentionLayer:
    if module.recurrent:
        raise LayoutRefused("a recurrent or linear-attention layer has no softmax of q·k")
    if module.is_latent:
        raise LayoutRefused("latent attention (MLA) expands queries and keys from a compression")
    config = _part(whole, module)
    family = family_of(config, module.in_torch)
    if family.refusal:
        raise LayoutRefused(family.refusal)
    block, places = _block(family, module, config)
    n_heads, n_kv_heads = _heads(family, block, config)
    query, key, value, width = _projections(module, stored, family, n_heads, n_kv_heads, config)
    layer = int(places["layer"])
    kind = family.layer_type(layer)
    if kind not in (FULL, SLIDING):
        raise LayoutRefused(f"a layer of type {kind!r} is not known")
    front = block.first if layer == 0 and block.first else block.front
    norm, detail = norm_in_front(stored, front, family.norm, places)
    keys_front = block.keys_front and norm_in_front(stored, block.keys_front, family.norm, places)
    turned = family.rotary if not block.cross and not family.unrotated(layer) else None
    normed = _head_norms(module, stored, family, width, (n_heads * width, n_kv_heads * width))
    beta = family.scale(width, layer)
    return AttentionLayer(
        name=module.path,
        stack=module.stack,
        layer=layer,
        query=query,
        key=key,
        value=value,
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_width=width,
        beta=beta,
        causal=block.causal,
        norm=norm,
        norm_detail=detail,
        cross=block.cross,
        key_norm_layer=keys_front[0] if keys_front else None,
        rotary=rotary(config, turned, width, kind) if turned else None,
        query_norm=normed[0] if normed else None,
        key_norm=normed[1] if normed else None,
        softcap=family.softcap,
        logit_bias=None if block.cross else family.logit_bias,
        relative=_relative(stored, family, block, module, places),
        bias_scale=beta if family.bias_scaled else 1.0,
        window=family.window if kind == SLIDING else None,
        context=integer(config, *block.lengths) if block.lengths else _context(family, config),
    )


def _relative(
    stored: Stored,
    family: Family,
    block: Block,
    module: AttentionModule,
    places: Mapping[str, object],
) -> RelativeBias | None:
    if family.relative is None or block.cross:
        return None
    name = family.relative.format(root=places["root"], part=module.stack)
    found = stored.get(name)
    return found and RelativeBias(found.name, family.max_distance, two_sided=not block.causal)


def _part(whole: Config, module: AttentionModule) -> Config:
    """The part of a configuration of several models that describes this module's."""
    by_stack = {"vision": "vision_config", "audio": "audio_config"}
    field = by_stack.get(module.stack or "", "text_config")
    part = whole.get(field)
    if not isinstance(part, Mapping):
        return whole
    root = module.path.split("layers.")[0]
    if field == "text_config" and not _LANGUAGE.fullmatch(root):
        raise LayoutRefused(f"config.json does not say which of its models {root!r} belongs to")
    return part


def _block(family: Family, module: AttentionModule, config: Config) -> tuple[Block, dict[str, Any]]:
    """The kind of module, and what its path says about its place."""
    for block in family.blocks:
        match = block.path.fullmatch(module.path)
        if match:
            layer = int(match["layer"])
            return block, {"root": match["root"], "layer": layer, "previous": layer - 1}
    raise LayoutRefused(
        f"no attention module of {config.get('model_type')!r} is known by this name"
    )


def _heads(family: Family, block: Block, config: Config) -> tuple[int, int]:
    fields = block.heads or family.heads
    heads = integer(config, *fields)
    if heads is None:
        raise LayoutRefused(f"config.json does not say {fields[0]}")
    kv_heads = family.kv_heads or integer(config, "num_key_value_heads") or heads
    if heads % kv_heads:
        raise LayoutRefused(f"{heads} heads cannot share {kv_heads} key heads")
    return heads, kv_heads


def _projections(
    module: AttentionModule,
    stored: Stored,
    family: Family,
    heads: int,
    kv_heads: int,
    config: Config,
) -> tuple[Projection, Projection, Projection | None, int]:
    """Queries, keys, values and the head width."""
    said = integer(config, family.head_width)
    fused = _only(module, FUSED)
    if (fused is None) != (family.fused is None):
        how = "one matrix" if fused else "separate matrices"
        raise LayoutRefused(f"queries and keys in {how} are not {config.get('model_type')!r}'s")
    if fused is not None and family.fused is not None:
        parts = family.fused(fused.rows, heads, kv_heads)
        width = parts[0][0].stop - parts[0][0].start
        query, key, value = (_projection(fused, stored, rows) for rows in parts)
    else:
        q, k, v = (_only(module, role) for role in (QUERY, KEY, VALUE))
        if q is None or k is None:
            raise LayoutRefused(f"there is no matrix of {'queries' if q is None else 'keys'}")
        width = head_width(q.rows, heads)
        for matrix in (k, v):
            if matrix is not None and matrix.rows != kv_heads * width:
                raise LayoutRefused(
                    f"{matrix.name} has {matrix.rows} rows, not the {kv_heads * width} of "
                    f"{kv_heads} key heads of width {width}; see num_key_value_heads"
                )
        query = _projection(q, stored, split(heads, width))
        key = _projection(k, stored, split(kv_heads, width))
        value = _projection(v, stored, split(kv_heads, width)) if v else None
    if said not in (None, width):
        raise LayoutRefused(f"config.json says {family.head_width} = {said}, the rows say {width}")
    return query, key, value, width


def _only(module: AttentionModule, role: str) -> MatrixInfo | None:
    """The one matrix of a role; raises LayoutRefused if there are several or it is packed."""
    several = module.matrices.get(role, [])
    if len(several) > 1:
        raise LayoutRefused(f"several matrices are {role}: {several[0].name}, {several[1].name}")
    if several and several[0].status != "ok":
        raise LayoutRefused(f"{several[0].name}: {several[0].detail or several[0].status}")
    return several[0] if several else None


def _projection(matrix: MatrixInfo, stored: Stored, rows: Slices) -> Projection:
    module = module_path(matrix)
    name = (
        f"{module.removesuffix('weight')}bias" if module.endswith("_weight") else f"{module}.bias"
    )
    bias = stored.get(name)
    if bias is not None and bias.shape != (matrix.rows,):
        raise LayoutRefused(f"{bias.name} has shape {bias.shape}, not ({matrix.rows},)")
    return Projection(matrix.name, module, bias.name if bias else None, rows)


def _head_norms(
    module: AttentionModule, stored: Stored, family: Family, width: int, sizes: tuple[int, int]
) -> tuple[HeadNorm, HeadNorm] | None:
    if family.head_norm is not None:
        return head_norms(stored, module.path, family.head_norm, width, sizes)
    if module.head_norms:
        raise LayoutRefused(f"{module.head_norms[0]} normalises in a way that is not known")
    return None


def _context(family: Family, config: Config) -> int | None:
    return family.context or integer(config, *LENGTHS)
