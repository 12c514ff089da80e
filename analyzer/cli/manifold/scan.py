"""`analyzer manifold scan`: the data-free analysis of a collection."""

from __future__ import annotations

from pathlib import Path

import click

from analyzer.cli.manifold.options import base_option, json_option, quiet_option, seed_option


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@base_option
@click.option("--db", type=click.Path(path_type=Path), help="Store [PATH/analyzer.duckdb].")
@seed_option
@click.option("--force", is_flag=True, help="Compute again what is stored.")
@json_option
@quiet_option
def scan(
    path: Path, base: Path | None, db: Path | None, seed: int, force: bool, as_json: bool,
    quiet: bool,
) -> int:  # fmt: skip
    """Order channels, fit weights and compare checkpoints in PATH; the same as
    `scan --analyses manifold`."""
    from analyzer.cli.scan import run_scan

    return run_scan(
        path, base=base, db=db, analyses="manifold", seed=seed, force=force, as_json=as_json,
        quiet=quiet,
    )  # fmt: skip
