"""`analyzer manifold align`: one checkpoint's units in the order of another's."""

from __future__ import annotations

from pathlib import Path

import click

from analyzer.cli.manifold.options import (
    bar,
    checkpoint_and_groups,
    groups_option,
    json_option,
    opened_checkpoint,
    output_option,
    quiet_option,
    seed_option,
)


@click.command()
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@output_option
@click.option("--starts", type=click.IntRange(1), default=1, show_default=True)
@groups_option
@seed_option
@json_option
@quiet_option
def align(
    a: Path, b: Path, output: Path, starts: int, spec: Path | None, seed: int, as_json: bool,
    quiet: bool,
) -> None:  # fmt: skip
    """Reorder the units of B towards A by weight matching; B computes what it did before."""
    from analyzer.cli.output import emit
    from analyzer.models.manifold.align import align as align_to
    from analyzer.models.manifold.align import match_weights

    first, groups = checkpoint_and_groups(a, spec)
    second = opened_checkpoint(b)
    with bar(quiet) as report:
        found = match_weights(
            first, second, groups, seed=seed, starts=starts,
            progress=lambda done, total: report(done, total, "matching"),
        )  # fmt: skip
        made = align_to(first, second, output, found.orders, groups)
    rows = [
        {"module": name, "before": before.distance, "after": after.distance,
         "cos before": before.cosine, "cos after": after.cosine}
        for name, (before, after) in {
            "all": (made.before, made.after), **made.modules
        }.items()
    ]  # fmt: skip
    note = "‖A - B‖ and cosine, before and after." + ("" if found.converged else " Not converged.")
    emit(rows, title=f"{second.name} aligned → {made.folder}", as_json=as_json, as_csv=False,
         note=note)  # fmt: skip
