"""Cells of a layer × role map from the rows of a query, and their order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

OUTSIDE = "none"  # the place of matrices outside all layers
ROLES = (
    "embed", "attn_qkv", "attn_q", "attn_k", "attn_v", "attn_o", "mlp_gate_up", "mlp_gate",
    "mlp_up", "mlp_down", "router", "expert_gate_up", "expert_gate", "expert_up", "expert_down",
    "norm", "unembed", "other",
)  # fmt: skip
# Of a query that groups matrices `m` by stack, layer and role; lists, that `cells` makes into text.
NAMES = "list(DISTINCT m.name ORDER BY m.name)[1:4] AS matrices"

_FIXED = [
    ("place", pa.string()), ("stack", pa.string()), ("layer", pa.int64()), ("role", pa.string()),
    ("n", pa.int64()), ("value", pa.float64()), ("low", pa.float64()), ("high", pa.float64()),
    ("matrices", pa.string()),
]  # fmt: skip


def cells(found: pa.Table) -> pa.Table:
    """`found` with `place` (the layer's label), rows by role in the forward pass's order and layer.

    It has columns stack, layer, role, n, value, low, high, matrices (a list, up to four names,
    of which three are kept) and may have others, which stay behind these.
    """
    rows: list[dict[str, Any]] = found.to_pylist()
    several = len({row["stack"] for row in rows if row["stack"] is not None}) > 1
    for row in rows:
        label = OUTSIDE if row["layer"] is None else str(row["layer"])
        row["place"] = f"{row['stack']} {label}" if several and row["stack"] else label
        names = row["matrices"]
        row["matrices"] = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
    rows.sort(key=lambda row: (role_order(row["role"]), place_order(row)))
    known = {name for name, _ in _FIXED}
    others = [field for field in found.schema if field.name not in known]
    fixed = [pa.field(name, kind) for name, kind in _FIXED]
    return pa.Table.from_pylist(rows, schema=pa.schema(fixed + others))


def role_order(role: str) -> tuple[int, str]:
    """Sort key: embeddings, attention, MLP, experts, unembedding, the rest."""
    return (ROLES.index(role) if role in ROLES else len(ROLES), role)


def place_order(row: Mapping[str, Any]) -> tuple[str, int]:
    """Sort key of a row's `stack` and `layer`: what is outside the layers first."""
    return (row["stack"] or "", -1 if row["layer"] is None else row["layer"])
