"""`analyzer sql` and `analyzer export`."""

from __future__ import annotations

import os
from pathlib import Path

import click


@click.command()
@click.argument("query")
@click.option(
    "--db", type=click.Path(path_type=Path), help="Store [$ANALYZER_DB, ./analyzer.duckdb]."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.option("--csv", "as_csv", is_flag=True, help="CSV on stdout.")
def sql(query: str, db: Path | None, as_json: bool, as_csv: bool) -> None:
    """Run one read-only QUERY on the store."""
    from analyzer.cli.output import emit
    from analyzer.store.reading import connect

    rows = connect(db).sql(query).to_pylist()
    emit(rows, title=f"{len(rows)} rows", as_json=as_json, as_csv=as_csv)


@click.command()
@click.argument("table")
@click.option(
    "-o",
    "output",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help="File to write; its ending chooses the format.",
)
@click.option(
    "--db", type=click.Path(path_type=Path), help="Store [$ANALYZER_DB, ./analyzer.duckdb]."
)
def export(table: str, output: Path, db: Path | None) -> None:
    """Write one TABLE of the store to FILE: .csv, .parquet or .json by its ending."""
    from analyzer.errors import UsageError
    from analyzer.store.reading import connect

    data = connect(db).table(table)
    partial = output.with_name(output.name + ".partial")
    try:
        if output.suffix == ".parquet":
            import pyarrow.parquet as parquet

            parquet.write_table(data, partial)
        elif output.suffix == ".csv":
            from analyzer.cli.output import write_csv

            with partial.open("w", newline="") as file:
                write_csv(data.to_pylist(), file)
        elif output.suffix == ".json":
            from analyzer.cli.output import json_text

            partial.write_text(json_text({"schema": 1, "table": table, "rows": data.to_pylist()}))
        else:
            raise UsageError("unknown ending", path=output, hint="use .csv, .parquet or .json")
        os.replace(partial, output)
    except OSError as error:
        raise UsageError(f"cannot be written: {error.strerror}", path=output) from None
    click.echo(f"{data.num_rows} rows of {table} → {output}", err=True)
