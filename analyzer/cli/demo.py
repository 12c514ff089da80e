"""`analyzer demo`."""

from __future__ import annotations

import sys
from pathlib import Path

import click


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), default=Path("demo-checkpoints"))
@click.option(
    "--steps",
    type=click.IntRange(2),
    default=300,
    show_default=True,
    help="Training steps of the base; the tuned models take a quarter of them each.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the training runs.")
def demo(folder: Path, steps: int, seed: int) -> int:
    """Train a small real collection offline, scan it and print what was found.

    Trains a byte-level transformer on the Python standard library's own sources, then fine-tunes
    it fully and with LoRA of rank 1, 8 and 64 on other modules, and records gradients of the base
    and the full fine-tune. A few minutes on two cores.
    """
    from analyzer.cli.browse import show_emergence, show_limits
    from analyzer.cli.output import emit
    from analyzer.cli.report import write_report
    from analyzer.cli.scan import run_scan
    from analyzer.cli.tables import UPDATE_NOTE, for_people, layer_rows, resolve, update_summary
    from analyzer.demo import ACTIVATIONS, make_demo
    from analyzer.store.reading import connect

    def report(phase: str, step: int, total: int) -> None:
        if sys.stderr.isatty():
            click.echo(f"\r\x1b[Ktraining {phase}: step {step} of {total}", err=True, nl=False)
        elif step == total:
            click.echo(f"trained {phase}: {total} steps", err=True)

    make_demo(folder, steps=steps, seed=seed, progress=report)
    if sys.stderr.isatty():
        click.echo("\r\x1b[K", err=True, nl=False)
    code = run_scan(folder, activations=folder / ACTIVATIONS)
    store = connect(folder / "analyzer.duckdb")
    tuned = resolve(store, "lora-r1")
    rows = layer_rows(store, tuned)
    title = f"Intruder dimensions of {tuned['name']}"
    emit(for_people(rows), title=title, as_json=False, as_csv=False, note=UPDATE_NOTE)
    click.echo(f"\nThe last step of each run (losses in {folder / 'README.md'}):")
    for run in ("full", "lora-r1", "lora-r8", "lora-r64"):
        click.echo(f"{run:<9} {update_summary(store, resolve(store, run))}")
    click.echo()
    show_emergence(store, resolve(store, "base"), as_json=False, as_csv=False)
    click.echo()
    show_limits(store, resolve(store, "lora-r8"), as_json=False, as_csv=False)
    click.echo()
    write_report(store, folder / "report.pdf")
    for more in ("show lora-r8", "dashboard"):
        click.echo(f"more: analyzer {more} --db {store.db}", err=True)
    return code
