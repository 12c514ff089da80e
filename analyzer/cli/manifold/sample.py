"""`analyzer manifold sample`: a checkpoint of another width."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from analyzer.cli.manifold.options import (
    checkpoint_and_groups,
    evaluation_of,
    function_of,
    groups_option,
    json_option,
    model_argument,
    output_option,
    seed_option,
    widths_of,
)


@click.command()
@model_argument
@output_option
@click.option(
    "--width",
    "widths",
    multiple=True,
    required=True,
    metavar="GROUP=N",
    help="Units of a kind or group: mlp=512, heads=6; repeatable.",
)
@click.option(
    "--operator",
    type=click.Choice(["duplicate", "merge", "path", "area", "linear", "dct", "prune"]),
    help="[duplicate to widen; to narrow, the one of the smallest certificate or loss].",
)
@click.option("--eval", "evaluate", metavar="FILE.py:FUNCTION", help="Maps a state dict to a loss.")
@click.option(
    "--statistics",
    metavar="FILE.py:FUNCTION",
    help="Maps a state dict to running statistics of its batch norms, estimated anew.",
)
@click.option("--allow-approximate", is_flag=True, help="Permit the residual width.")
@click.option("--db", type=click.Path(path_type=Path), help="Store that is to know of it.")
@groups_option
@seed_option
@json_option
def sample(
    model: Path,
    output: Path,
    widths: tuple[str, ...],
    operator: Any,
    evaluate: str | None,
    statistics: str | None,
    allow_approximate: bool,
    db: Path | None,
    spec: Path | None,
    seed: int,
    as_json: bool,
) -> None:
    """Write MODEL at another width to a new folder that loads as the original does."""
    from analyzer.cli.output import emit
    from analyzer.models.manifold.sample import sample_checkpoint
    from analyzer.scanning.manifold.samples import number_of, write_sample

    checkpoint, groups = checkpoint_and_groups(model, spec)
    number = None if db is None else number_of(db, checkpoint)
    made = sample_checkpoint(
        checkpoint, output, widths=widths_of(widths), operator=operator, groups=groups,
        allow_approximate=allow_approximate, eval_fn=evaluation_of(evaluate),
        statistics_fn=function_of(statistics, "--statistics"), seed=seed,
    )  # fmt: skip
    if db is not None and number is not None:
        write_sample(db, number, made)
    rows = [
        {
            "group": one.group, "n": one.n, "m": one.m, "operator": one.operator,
            "certificate": one.certificate, "bound": one.certified, "smoothness": one.smoothness,
        }
        for one in made.groups
    ]  # fmt: skip
    note = (
        f"{abs(made.gamma_params):.1%} {'more' if made.gamma_params < 0 else 'fewer'} parameters. "
        "certificate: change of the layer's output per "
        "unit of its input, a bound where so marked, else for ranking only. "
        + " ".join(f"{text}." for text in made.warnings)
    )
    emit(rows, title=f"{checkpoint.name} → {made.path}", as_json=as_json, as_csv=False, note=note)
