"""`analyzer manifold path`: losses between two checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from analyzer.cli.manifold.options import (
    bar,
    base_option,
    evaluation_of,
    json_option,
    opened_checkpoint,
    quiet_option,
)


@click.command()
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option(
    "--eval", "evaluate", required=True, metavar="FILE.py:FUNCTION",
    help="Maps a state dict to a loss, or to {'loss': …, 'acc': …}.",
)  # fmt: skip
@click.option("--points", type=click.IntRange(2), default=25, show_default=True)
@click.option("--kind", type=click.Choice(["lerp", "slerp"]), default="lerp", show_default=True)
@base_option
@json_option
@quiet_option
def path(
    a: Path, b: Path, evaluate: str, points: int, kind: Any, base: Path | None, as_json: bool,
    quiet: bool,
) -> None:  # fmt: skip
    """Losses between A and B, and their barrier by both definitions."""
    from analyzer.cli.output import emit
    from analyzer.models.manifold.paths import loss_path

    function = evaluation_of(evaluate)
    assert function is not None
    with bar(quiet) as report:
        found = loss_path(
            opened_checkpoint(a), opened_checkpoint(b), function, n_points=points, kind=kind,
            base=None if base is None else opened_checkpoint(base),
            progress=lambda done, total: report(done, total, "evaluating"),
        )  # fmt: skip
    rows = [
        {"t": float(t), "loss": float(loss)}
        | ({} if found.accuracies is None else {"acc": float(found.accuracies[number])})
        for number, (t, loss) in enumerate(zip(found.t, found.losses, strict=True))
    ]
    barrier = found.barriers
    note = (
        f"Barrier: {barrier.linear:.4g} above the line between the ends (Entezari et al., arXiv "
        f"2110.06296), {barrier.mean:.4g} above their mean (Frankle et al., arXiv 1912.05671). "
        + " ".join(f"{text}." for text in found.warnings)
    )
    emit(rows, title=f"{a.name} → {b.name}", as_json=as_json, as_csv=False, note=note)
