"""The tables of `show NAME --analysis limits`: heads of every layer against the threshold."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any

from analyzer.cli.heat import Cell
from analyzer.errors import UsageError
from analyzer.views.limits import head_rows
from analyzer.views.limits_words import MEANING, known, paragraphs, preferred, source_words

if TYPE_CHECKING:
    from analyzer.store.reading import Store

__all__ = ["heat_rows", "limits_rows", "note", "preferred", "summary_row"]

Row = dict[str, Any]


def limits_rows(store: Store, checkpoint: Row) -> list[Row]:
    """Every row of a checkpoint, source by source.

    Raises UsageError where none was computed.
    """
    rows: list[Row] = []
    query = "SELECT 1 FROM duckdb_tables() WHERE table_name = 'lora_limits'"
    if store.sql(query).num_rows:
        rows = head_rows(store, checkpoint["checkpoint_id"])
    if not rows:
        raise UsageError(
            f"no attention layer of {checkpoint['name']} was compared with the thresholds",
            path=store.db,
            hint="scan it with --analyses limits; its config.json must name the number of heads",
        )
    return rows


def heat_rows(rows: list[Row]) -> dict[str, list[Cell]]:
    """Layer → one cell a head: ratio_logit, beside it ratio_as."""
    several = len({row["module"].rsplit(".", 1)[-1] for row in rows}) > 1
    stacks = len({row["stack"] for row in rows}) > 1 or several
    cells: dict[str, list[Cell]] = {}
    for row in rows:
        name = row["module"] if stacks else str(row["layer"])
        text = f"{_short(row['ratio_logit'])}/{_short(row['ratio_as'])}"
        cells.setdefault(name, []).append(Cell(text, row["band_logit"] or row["band_as"]))
    return cells


def summary_row(rows: list[Row]) -> Row:
    """The table of a paper: medians and maxima over the heads, verdicts, headroom."""
    first = rows[0]
    found: Row = {
        "model": first["adapter"] or first["model"],
        "L": first["L"],
        "d_h/ln L": first["width_over_log"],
    }
    for name in ("gamma_q", "gamma_k", "gamma_dq"):
        values = [row[name] for row in rows if row[name] is not None]
        found[f"{name} median"] = median(values) if values else None
        found[f"{name} max"] = max(values, default=None)
    for name in ("ratio_as", "ratio_logit", "rank_exponent"):
        found[name] = _median(rows, name)
    found["min headroom"] = min(known(rows, "headroom"), default=None)
    return found


def note(rows: list[Row], everything: list[Row]) -> list[str]:
    """Source, verdicts, cost and meaning, a paragraph each."""
    first = rows[0]
    cells = (
        "Cells: ratio_logit/ratio_as = √max|S| and √(β·d_h)·max entry of q and k, over √(ln L) = "
        f"{first['threshold']:.3g} at L = {first['L']}; · below 0.8, ○ near, ● above 1.25. "
        f"{source_words(first)}."
    )
    return [cells, *paragraphs(rows, everything), MEANING]


def _median(rows: list[Row], name: str) -> float | None:
    values = known(rows, name)
    return median(values) if values else None


def _short(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:#.3g}".rstrip(".")
