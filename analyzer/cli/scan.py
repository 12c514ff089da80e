"""`analyzer scan`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from analyzer.cli.progress import list_messages, progress_bar
from analyzer.errors import printable

if TYPE_CHECKING:
    from analyzer.checkpoints.discover import Collection
    from analyzer.scanning import ScanSummary


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--base", type=click.Path(path_type=Path), help="Checkpoint the others were tuned from."
)
@click.option("--db", type=click.Path(path_type=Path), help="Store [PATH/analyzer.duckdb].")
@click.option(
    "--analyses",
    help="Of tails, intruders, emergence, limits, tucker, manifold, by commas [all that apply but"
    " manifold].",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--workers", type=click.IntRange(1), help="Parallel matrices [number of cores].")
@click.option("--include", multiple=True, metavar="GLOB", help="Only checkpoints that match.")
@click.option("--exclude", multiple=True, metavar="GLOB", help="Skip checkpoints that match.")
@click.option(
    "--activations",
    type=click.Path(path_type=Path),
    help="Hidden states to measure attention on: safetensors, .npy, or what `capture` wrote.",
)
@click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    metavar="TEXT",
    help="Text file that the base reads, to measure attention on (needs transformers).",
)
@click.option("-k", type=click.IntRange(1), default=10, show_default=True, help="Leading vectors.")
@click.option(
    "--epsilon",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.5,
    show_default=True,
    help="A vector is an intruder when no base vector has |cosine| ≥ epsilon with it.",
)
@click.option(
    "--rank", type=click.IntRange(1), default=8, show_default=True, help="Of gradient subspaces."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of every random draw.")
@click.option("--full", is_flag=True, help="Goodness of fit and intervals from 2500 samples each.")
@click.option("--force", is_flag=True, help="Compute again what is stored.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def scan(path: Path, as_json: bool, quiet: bool, **options: Any) -> int:
    """Analyse every checkpoint in the folder PATH and store the results.

    Finds the base, full fine-tunes, adapters and training trajectories, prints what it paired,
    and writes to one DuckDB file. What is stored already is not computed again.
    """
    return run_scan(path, as_json=as_json, quiet=quiet, **options)


def run_scan(
    path: Path,
    *,
    base: Path | None = None,
    db: Path | None = None,
    analyses: str | None = None,
    device: str = "auto",
    workers: int | None = None,
    include: tuple[str, ...] = (),
    exclude: tuple[str, ...] = (),
    activations: Path | None = None,
    calibration: Path | None = None,
    k: int = 10,
    epsilon: float = 0.5,
    rank: int = 8,
    seed: int = 0,
    full: bool = False,
    force: bool = False,
    as_json: bool = False,
    quiet: bool = False,
) -> int:
    """Scan with progress on stderr and the findings on stdout; the exit code."""
    from analyzer.scanning import scan as scan_checkpoints
    from analyzer.scanning.options import Options

    with progress_bar(quiet) as report:
        summary = scan_checkpoints(
            path,
            base=base,
            db=db,
            analyses=[a.strip() for a in analyses.split(",")] if analyses is not None else None,
            device=device,
            workers=workers,
            options=Options(k=k, epsilon=epsilon, full=full, seed=seed, rank=rank),
            include=include,
            exclude=exclude,
            activations=activations,
            calibration=calibration,
            force=force,
            discovered=None if quiet else _print_collection,
            progress=report,
        )
    _print_summary(summary, as_json, quiet)
    return 3 if summary.problems else 0


def _print_collection(collection: Collection) -> None:
    """What was found and how it is paired, on stderr, before any work starts."""
    base = collection.base
    adapters = any(c.kind == "adapter" for c in collection.checkpoints)
    alone = (
        "none: updates are analysed alone; give --base to compare"
        if adapters
        else "none: weights are analysed alone"
    )
    _line("base", base.name if base else alone)
    stepped = {c.name for steps in collection.trajectories.values() for c in steps}
    for checkpoint in collection.checkpoints:
        if checkpoint is not base and checkpoint.name not in stepped:
            _line("adapter" if checkpoint.kind == "adapter" else "tuned", checkpoint.name)
    for run, steps in collection.trajectories.items():
        kind = "adapters" if steps[0].kind == "adapter" else "full checkpoints"
        numbers = ", ".join(str(c.step) for c in steps)
        _line("trajectory", f"{run}: {kind} at steps {numbers}")
    if n := len(collection.refusals):
        _line(
            "refused", f"{n} {'file or folder' if n == 1 else 'files or folders'}, named at the end"
        )


def _line(label: str, text: str) -> None:
    click.echo(f"{label:<12} {printable(text)}", err=True)


def _print_summary(summary: ScanSummary, as_json: bool, quiet: bool) -> None:
    from analyzer.cli.output import emit
    from analyzer.cli.tables import checkpoint_rows
    from analyzer.store.reading import connect

    list_messages("warning", summary.warnings)
    list_messages("error", summary.problems)
    if as_json:
        fields = ("scan_id", "n_checkpoints", "n_matrices", "n_computed", "n_stored", "not_run")
        body: dict[str, Any] = {"schema": 1, "db": str(summary.db)}
        body |= {"problems": list(summary.problems), "warnings": list(summary.warnings)}
        body |= {name: getattr(summary, name) for name in fields}
        click.echo(json.dumps(body | {"seconds": round(summary.seconds, 3)}))
        return
    if quiet:
        return
    for analysis, reason in summary.not_run.items():
        click.echo(f"{analysis} not run: {reason}", err=True)
    if not summary.n_computed:
        stored = f"all {summary.n_stored} results are stored" if summary.n_stored else "no results"
        text = f"nothing new: {stored} in {summary.db}"
        click.echo(f"{text} ({summary.seconds:.1f} s)", err=True)
        return
    text = f"{summary.n_computed} results computed, {summary.n_stored} were stored already"
    click.echo(f"{text}, {summary.seconds:.1f} s; store: {summary.db}", err=True)
    emit(checkpoint_rows(connect(summary.db)), title="Checkpoints", as_json=False, as_csv=False)
