"""A view as a table on a page: definitions as tooltips, numbers at the digits they carry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import streamlit as st

from analyzer.views.metrics import explained, metric
from analyzer.views.view import View
from apps.picture import about
from apps.text import literal

HIDDEN = ("checkpoint_id", "base_checkpoint_id", "matrix_id", "fit_id")


def table(
    view: View, *, key: str, tables: Sequence[str] = (), picks: bool = False, height: int = 400
) -> dict[str, Any] | None:
    """The rows of a view, with its downloads; with `picks`, the row that was clicked.

    `tables` are where the definitions of the columns are looked up first.
    """
    shown = view.table.select([c for c in view.table.column_names if c not in HIDDEN])
    rows = min(height, 38 + 35 * max(1, shown.num_rows))
    st.markdown(f"**{literal(view.title)}**")
    event: Any = st.dataframe(
        shown,
        hide_index=True,
        height=rows,
        key=f"{key}-table",
        column_config={field.name: _column(field, tables) for field in shown.schema},
        on_select="rerun" if picks else "ignore",
        selection_mode="single-row",
    )
    about(view, None, key=key)
    if not picks or not event["selection"]["rows"]:
        return None
    return view.table.slice(event["selection"]["rows"][0], 1).to_pylist()[0]


def _column(field: pa.Field, tables: Sequence[str]) -> Any:
    found = metric(field.name, tables)
    help = literal(explained(found)) if found and found.description else None
    if pa.types.is_floating(field.type):
        return st.column_config.NumberColumn(help=help, format="%.4g")
    if pa.types.is_boolean(field.type):
        return st.column_config.CheckboxColumn(help=help)
    return st.column_config.Column(help=help)
