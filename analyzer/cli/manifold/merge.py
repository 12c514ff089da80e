"""`analyzer manifold merge`: several checkpoints in one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from analyzer.cli.manifold.options import (
    bar,
    base_option,
    checkpoint_and_groups,
    groups_option,
    json_option,
    opened_checkpoint,
    output_option,
    quiet_option,
    seed_option,
)
from analyzer.errors import UsageError

if TYPE_CHECKING:
    from analyzer.checkpoints.checkpoint import Checkpoint
    from analyzer.models.manifold.geometry import Progress
    from analyzer.models.manifold.merging import Merged


@click.command()
@click.argument("models", nargs=-1, required=True, type=click.Path(path_type=Path))
@output_option
@base_option
@click.option(
    "--method",
    type=click.Choice(["lerp", "slerp", "karcher", "opcm", "dimat"]),
    default="karcher",
    show_default=True,
)
@click.option("-t", type=click.FloatRange(0, 1), default=0.5, show_default=True, help="Of two.")
@click.option("--alpha", type=click.FloatRange(0, 1), default=0.5, show_default=True, help="OPCM.")
@groups_option
@seed_option
@json_option
@quiet_option
def merge(
    models: tuple[Path, ...],
    output: Path,
    base: Path | None,
    method: str,
    t: float,
    alpha: float,
    spec: Path | None,
    seed: int,
    as_json: bool,
    quiet: bool,
) -> None:
    """Merge MODELS, fine-tunes or adapters of one base, into a new folder."""
    from analyzer.cli.output import emit

    if method in ("lerp", "slerp") and len(models) != 2:
        raise UsageError(f"{method} merges two models, got {len(models)}")
    if method == "opcm" and base is None:
        raise UsageError("opcm merges differences from a base", hint="give --base")
    merged = [opened_checkpoint(path) for path in models]
    origin = None if base is None else opened_checkpoint(base)
    with bar(quiet) as report:

        def progress(done: int, total: int) -> None:
            report(done, total, f"merging by {method}")

        if method == "dimat":
            made = _aligned_mean(merged, models[0], spec, seed, output, progress)
        else:
            made = _merged(method, merged, origin, output, t, alpha, progress)
    row = {"method": made.method, "models": len(models), "norm": made.norm, "scale": made.scale}
    coefficients = made.coefficients
    row["coefficients"] = coefficients and ", ".join(f"{value:.4g}" for value in coefficients)
    emit([row], title=f"Merged → {made.folder}", as_json=as_json, as_csv=False)


def _merged(
    method: str,
    models: list[Checkpoint],
    base: Checkpoint | None,
    output: Path,
    t: float,
    alpha: float,
    progress: Progress,
) -> Merged:
    from analyzer.models.manifold import merging

    if method == "opcm" and base is not None:
        return merging.merge_opcm(models, base, output, alpha=alpha, progress=progress)
    if method == "karcher":
        return merging.merge_karcher(models, output, base=base, progress=progress)
    merge_two = merging.merge_lerp if method == "lerp" else merging.merge_slerp
    return merge_two(models[0], models[1], t, output, base=base, progress=progress)


def _aligned_mean(
    models: list[Checkpoint],
    first: Path,
    spec: Path | None,
    seed: int,
    output: Path,
    progress: Progress,
) -> Merged:
    """DIMAT: the others matched to the first by their weights."""
    from analyzer.models.manifold.align import match_weights
    from analyzer.models.manifold.merging import merge_dimat

    _, groups = checkpoint_and_groups(first, spec)
    orders = [match_weights(models[0], other, groups, seed=seed).orders for other in models[1:]]
    return merge_dimat(models, groups, orders, output, progress=progress)
