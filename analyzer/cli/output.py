"""Tables for people on the terminal, the same rows as JSON or CSV for programs."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Mapping, Sequence
from datetime import date, time
from decimal import Decimal
from math import isfinite
from shutil import get_terminal_size
from textwrap import wrap
from typing import Any

import click

from analyzer.errors import printable

Rows = Sequence[Mapping[str, Any]]
JSON_SCHEMA = 1
WIDTH = 100  # of notes below a table, and the least that a table is given
HEADINGS = {
    "n_params": "parameters",
    "n_matrices": "matrices",
    "n_failed": "failed",
    "n_intruders": "intruders",
    "n_compared": "of matrices",
    "n_uncertain": "?",
    "n_intruders_right": "right",
    "min_maxcos": "min |cos|",
    "delta_fro_ratio": "‖ΔW‖/‖W‖",
    "delta_fro": "‖ΔW‖",
    "delta_spectral_norm": "‖ΔW‖₂",
    "theta_star": "θ*",
    "critical_multiplier": "×critical",
    "delta_effective_rank": "erank ΔW",
    "median_alpha": "median alpha",
    "alpha_lo": "95% from",
    "alpha_hi": "to",
    "ks_d": "KS D",
    "null_q": "noise",
    "stable_rank": "stable rank",
    "effective_rank": "erank",
    "numerical_rank": "rank",
    "rank_kept": "kept",
    "num_spikes": "spikes",
    "type": "role",
    "batch_id": "batch",
    "n_steps": "steps",
    "step_first": "from",
    "step_last": "to",
    "stable_rank_first": "sr first",
    "stable_rank_max": "max",
    "stable_rank_end": "end",
    "energy_r_end": "E",
    "energy_in": "E own",
    "energy_cv": "E cv",
    "signal_fraction": "signal",
    "cos_adjacent": "cos adjacent",
    "cos_late": "cos late",
    "overlap_late": "overlap",
    "overlap_chance": "chance",
    "advised_rank": "rank",
    "advised_gap": "gap",
    "weight_erank_ratio": "erank W/k",
    "pruned_ratio": "pruned",
    "is_lrc": "LRC",
}


def emit(
    rows: Rows,
    *,
    title: str,
    as_json: bool,
    as_csv: bool,
    note: str = "",
    for_people: Rows | None = None,
) -> None:
    """Print rows on stdout as one JSON object, as CSV, or as a table, of `for_people` if given."""
    if as_json:
        body = {"schema": JSON_SCHEMA, "title": title, "rows": list(rows)}
        click.echo(json_text(body))
    elif as_csv:
        write_csv(rows, sys.stdout)
    else:
        _print_table(rows if for_people is None else for_people, title, note)


def json_text(body: Any) -> str:
    """JSON of whatever DuckDB returns: NaN and infinity as null, dates as ISO, bytes as hex."""
    return json.dumps(_plain(body), allow_nan=False, default=str)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, date | time):
        return value.isoformat()
    return value.hex() if isinstance(value, bytes) else value


def write_csv(rows: Rows, file: Any) -> None:
    """CSV whose text cells cannot be taken for formulas by a spreadsheet."""
    if rows:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)


def _cell(value: Any) -> Any:
    return "'" + value if isinstance(value, str) and value[:1] in ("=", "+", "-", "@") else value


def _print_table(rows: Rows, title: str, note: str) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(printable(title)), title_justify="left", box=box.SIMPLE_HEAD)
    for name in rows[0] if rows else ():
        numeric = all(isinstance(r[name], (int, float)) or r[name] is None for r in rows)
        heading = HEADINGS.get(name, name)
        table.add_column(heading, justify="right" if numeric else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(shown(value)) for value in row.values()))
    # At its own width: a terminal that is too narrow folds lines, but no number is cut.
    wide = Console(highlight=False, width=10_000)
    wide.width = max(WIDTH, wide.measure(table).maximum)
    with wide.capture() as capture:
        wide.print(table)
    for line in capture.get().splitlines():
        click.echo(line.rstrip())
    note_lines(note)


def note_lines(note: str) -> None:
    """A note below a table, folded to the terminal."""
    if note:
        click.echo("\n".join(wrap(note, min(WIDTH, get_terminal_size().columns))))


def shown(value: Any) -> str:
    """A cell: at most four significant digits, a dash for NULL, names made printable."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return printable(str(value))
