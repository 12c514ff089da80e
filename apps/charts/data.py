"""Rows of a chart on their way to the browser."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa


def inline(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """`rows` as a table, which Altair takes ten times as fast as a list that it checks by row."""
    return pa.Table.from_pylist(list(rows))
