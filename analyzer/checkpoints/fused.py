"""Query, key and value stored as one matrix: which rows are whose, where the layout is known."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from analyzer.checkpoints.tensors import MatrixInfo

# One after the other, each of the model's width: GPT-2, nn.MultiheadAttention, timm and ModernBERT,
# MPT, Baichuan. `query_key_value` alternates from head to head, in ways that differ by model.
_THIRDS = re.compile(r"(?:^|\.)(?:c_attn|in_proj(?:_weight)?|qkv|[Ww]qkv|W_pack)(?:\.weight)?$")
_GROUPED = re.compile(r"(?:^|\.)qkv_proj(?:\.weight)?$")  # Phi-3: fewer keys than queries


def fused_rows(matrix: MatrixInfo, config: Mapping[str, Any]) -> dict[str, slice]:
    """Rows of ``q``, ``k`` and ``v`` within a fused matrix; {} if it is none or its layout is not
    known. `config` is that of the model."""
    if matrix.role != "attn_qkv":
        return {}
    if _THIRDS.search(matrix.name) and matrix.rows == 3 * matrix.cols:
        return _split(matrix.cols, matrix.cols)
    heads, groups = config.get("num_attention_heads"), config.get("num_key_value_heads")
    if _GROUPED.search(matrix.name) and isinstance(heads, int) and isinstance(groups, int):
        width, rest = divmod(matrix.rows, heads + 2 * groups)
        if rest == 0 and config.get("model_type") in ("phi3", "phimoe"):
            return _split(heads * width, groups * width)
    return {}


def _split(queries: int, keys: int) -> dict[str, slice]:
    return {
        "q": slice(0, queries),
        "k": slice(queries, queries + keys),
        "v": slice(queries + keys, queries + 2 * keys),
    }
