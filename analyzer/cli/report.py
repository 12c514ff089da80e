"""`analyzer report`: the store as a typeset PDF, and as LaTeX to paste."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from analyzer.store.reading import Store

TITLE = "Spectral analysis of checkpoints"


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
@click.option("--title", default=TITLE, show_default=True, help="Title of the report.")
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
    from analyzer.errors import UsageError
    from analyzer.store.reading import connect

    if compare and trajectory:
        raise UsageError("--compare and --trajectory exclude each other")
    wanted = [name.strip() for name in include.split(",") if name.strip()] if include else []
    write_report(
        connect(db), output, latex=latex, title=title, include=wanted, pair=compare, run=trajectory
    )


def write_report(
    store: Store,
    output: Path,
    *,
    latex: Path | None = None,
    title: str = TITLE,
    include: Sequence[str] = (),
    pair: tuple[str, str] | None = None,
    run: str | None = None,
) -> None:
    """Write the report of the whole store, of one pair or of one run, and say where it is."""
    from importlib import import_module

    # The report is a layer above the command line, which knows it by name only.
    scopes, building = import_module("reports.scope"), import_module("reports.build")
    if pair:
        scope = scopes.pair(store, *pair)
    else:
        scope = scopes.trajectory(store, run) if run else scopes.whole(store)
    with _progress() as progress:
        building.build(
            store, scope, output, latex=latex, title=title, include=include, progress=progress
        )
    for written in (output, latex):
        if written is not None:
            click.echo(str(written))


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """A bar over the figures on a terminal, nothing elsewhere."""
    import sys

    with click.progressbar(
        length=1, label="drawing", file=sys.stderr, hidden=not sys.stderr.isatty()
    ) as bar:

        def report(drawn: int, total: int) -> None:
            bar.length = total
            bar.update(drawn - bar.pos)

        yield report
