"""`analyzer ls`, `show` and `compare`: the store as tables a person can read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from analyzer.cli.tables import (
    ALONE_NOTE,
    PAIR_NOTE,
    UPDATE_NOTE,
    WEIGHT_NOTE,
    alone_rows,
    checkpoint_rows,
    for_people,
    has_updates,
    layer_rows,
    paired_rows,
    resolve,
    update_summary,
    weight_rows,
)
from analyzer.errors import UsageError

if TYPE_CHECKING:
    from analyzer.store.reading import Store

_db = click.option(
    "--db", type=click.Path(path_type=Path), help="Store [$ANALYZER_DB, ./analyzer.duckdb]."
)
_json = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
_csv = click.option("--csv", "as_csv", is_flag=True, help="CSV on stdout.")


@click.command()
@_db
@_json
@_csv
def ls(db: Path | None, as_json: bool, as_csv: bool) -> None:
    """List the checkpoints of the store with their headline numbers."""
    from analyzer.cli.output import emit
    from analyzer.store.reading import connect

    emit(checkpoint_rows(connect(db)), title="Checkpoints", as_json=as_json, as_csv=as_csv)


@click.command()
@click.argument("name")
@click.option(
    "--analysis",
    type=click.Choice(["tails", "intruders", "emergence", "limits"]),
    help="tails: the weights; intruders: the update; emergence: gradients along the run; limits:"
    " attention heads [intruders where there is a base, else tails].",
)
@_db
@_json
@_csv
def show(name: str, analysis: str | None, db: Path | None, as_json: bool, as_csv: bool) -> None:
    """Show the checkpoint NAME, or the last step of the run NAME, one line per matrix."""
    from analyzer.cli.output import emit
    from analyzer.store.reading import connect

    store = connect(db)
    checkpoint = resolve(store, name)
    if analysis == "emergence":
        show_emergence(store, checkpoint, as_json=as_json, as_csv=as_csv)
        return
    if analysis == "limits":
        show_limits(store, checkpoint, as_json=as_json, as_csv=as_csv)
        return
    tuned = has_updates(store, checkpoint)
    if analysis == "intruders" and not tuned:
        raise UsageError(
            f"{checkpoint['name']} was not compared with a base", hint="scan it with --base"
        )
    if checkpoint["kind"] == "adapter" and checkpoint["base_checkpoint_id"] is None:
        rows, note = alone_rows(store, checkpoint), ALONE_NOTE
    elif analysis == "tails" or not tuned:
        rows, note = weight_rows(store, checkpoint), WEIGHT_NOTE
    else:
        rows = layer_rows(store, checkpoint)
        note = f"{update_summary(store, checkpoint)} {UPDATE_NOTE}"
    title = f"{checkpoint['name']} ({checkpoint['kind']}, {checkpoint['n_params']:,} parameters)"
    emit(rows, title=title, as_json=as_json, as_csv=as_csv, note=note, for_people=for_people(rows))


def show_emergence(
    store: Store, checkpoint: dict[str, Any], *, as_json: bool, as_csv: bool
) -> None:
    """Gradients along the run of a checkpoint: a table of matrices and one of sources."""
    from analyzer.cli import emergence_tables as tables
    from analyzer.cli.output import emit, note_lines

    run, last = tables.run_of(store, checkpoint)
    rows = tables.emergence_rows(store, run, last)
    title = f"Gradients of the run {run}"
    people = tables.matrix_rows(rows)
    note = tables.matrix_note(rows, people)
    emit(rows, title=title, as_json=as_json, as_csv=as_csv, note=note, for_people=people)
    if as_json or as_csv:
        return
    sources = tables.source_rows(store, run, last)
    shown = [{k: v for k, v in row.items() if k != "caution"} for row in sources]
    emit(shown, title="Sources (medians over the matrices)", as_json=False, as_csv=False)
    for source, caution in {row["source"]: row["caution"] for row in sources}.items():
        note_lines(f"{source}: {caution}.")
    note_lines(tables.run_note(store, run, last, rows))


def show_limits(store: Store, checkpoint: dict[str, Any], *, as_json: bool, as_csv: bool) -> None:
    """Attention heads against the threshold √(ln L): a heat map, a summary and what it means."""
    from analyzer.cli import limits_tables as tables
    from analyzer.cli.heat import print_heat
    from analyzer.cli.output import emit, note_lines

    everything = tables.limits_rows(store, checkpoint)
    rows = tables.preferred(everything)
    title = f"Attention heads of {checkpoint['name']}"
    if as_json or as_csv:
        emit(everything, title=title, as_json=as_json, as_csv=as_csv)
        return
    print_heat(tables.heat_rows(rows), title=title, corner="layer \\ head")
    emit([tables.summary_row(rows)], title="Summary", as_json=False, as_csv=False)
    for paragraph in tables.note(rows, everything):
        note_lines(paragraph)


@click.command()
@click.argument("base")
@click.argument("tuned")
@_db
@_json
@_csv
def compare(base: str, tuned: str, db: Path | None, as_json: bool, as_csv: bool) -> None:
    """Compare the checkpoints BASE and TUNED, matrix by matrix."""
    from analyzer.cli.output import emit
    from analyzer.store.reading import connect

    store = connect(db)
    first, second = resolve(store, base), resolve(store, tuned)
    if second["base_checkpoint_id"] == first["checkpoint_id"]:
        rows = layer_rows(store, second)
        note = f"{update_summary(store, second)} {UPDATE_NOTE}"
    else:
        rows, note = paired_rows(store, first, second), PAIR_NOTE
        if not rows:
            raise UsageError(
                f"{first['name']} and {second['name']} share no analysed matrix",
                hint="see `analyzer ls`",
            )
    title = f"{first['name']} → {second['name']}"
    emit(rows, title=title, as_json=as_json, as_csv=as_csv, note=note, for_people=for_people(rows))
