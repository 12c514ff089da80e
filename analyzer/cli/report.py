"""`analyzer report`: the store as a typeset PDF, and as LaTeX to paste."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click


@click.command()
@click.option(
    "--db", type=click.Path(path_type=Path), help="Store [$ANALYZER_DB, ./analyzer.duckdb]."
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=Path("report.pdf"),
    show_default=True, help="The PDF to write.",
)  # fmt: skip
@click.option(
    "--latex", type=click.Path(path_type=Path), metavar="DIR",
    help="Also write tables, figures, macros, references, data and a main.tex into DIR.",
)  # fmt: skip
@click.option("--title", default="Spectral analysis of checkpoints", show_default=True)
@click.option(
    "--include", metavar="A,B", help="Only these sections (names of analyses) [all there are]."
)
@click.option("--compare", nargs=2, metavar="BASE TUNED", help="Only this pair.")
@click.option("--trajectory", metavar="RUN", help="Only the steps of this run.")
def report(
    db: Path | None,
    output: Path,
    latex: Path | None,
    title: str,
    include: str | None,
    compare: tuple[str, str] | None,
    trajectory: str | None,
) -> None:
    """Write a paper report of the store: PDF/A, and with --latex everything to paste."""
    from importlib import import_module

    from analyzer.errors import UsageError
    from analyzer.store.reading import connect

    # The report is a layer above the command line, which knows it by name only.
    scopes, building = import_module("reports.scope"), import_module("reports.build")
    if compare and trajectory:
        raise UsageError("--compare and --trajectory exclude each other")
    store = connect(db)
    if compare:
        scope = scopes.pair(store, *compare)
    else:
        scope = scopes.trajectory(store, trajectory) if trajectory else scopes.whole(store)
    wanted = [name.strip() for name in include.split(",") if name.strip()] if include else []
    with _progress() as progress:
        building.build(
            store, scope, output, latex=latex, title=title, include=wanted, progress=progress
        )
    click.echo(str(output))
    if latex is not None:
        click.echo(str(latex))


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """A bar over the figures on a terminal, nothing elsewhere."""
    import sys

    with click.progressbar(length=1, label="drawing", file=sys.stderr) as bar:

        def report(drawn: int, total: int) -> None:
            bar.length = total
            bar.update(drawn - bar.pos)

        yield report
