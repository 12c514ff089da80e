"""Cells of a layer × role map from a query of one's own, in the columns of analyzer.views.heat."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from analyzer.views.heat import OUTSIDE, role_order

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
    rows.sort(key=lambda r: (role_order(r["role"]), r["stack"] or "", _number(r["layer"])))
    known = {name for name, _ in _FIXED}
    others = [field for field in found.schema if field.name not in known]
    fixed = [pa.field(name, kind) for name, kind in _FIXED]
    return pa.Table.from_pylist(rows, schema=pa.schema(fixed + others))


def _number(layer: int | None) -> int:
    return -1 if layer is None else layer
