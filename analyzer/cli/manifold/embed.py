"""`analyzer manifold embed`: the geometry of a collection."""

from __future__ import annotations

from pathlib import Path

import click

from analyzer.cli.manifold.options import bar, base_option, json_option, quiet_option

EMBED_NOTE = (
    "explained: share of the variance; random walk: its share in a random walk of as many steps, "
    "at which there is no low-dimensional drift."
)


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@base_option
@json_option
@quiet_option
def embed(path: Path, base: Path | None, as_json: bool, quiet: bool) -> None:
    """Principal components, distances and intrinsic dimension of all checkpoints in PATH."""
    from analyzer.checkpoints.discover import discover
    from analyzer.cli.output import emit, note_lines
    from analyzer.models.manifold.geometry import checkpoint_geometry

    collection = discover(path, base)
    with bar(quiet) as report:
        found = checkpoint_geometry(
            collection.checkpoints, base=collection.base,
            progress=lambda done, total: report(done, total, "comparing checkpoints"),
        )  # fmt: skip
    count = min(3, found.embedding.explained.size)
    rows = [
        {"checkpoint": name}
        | {f"PC {k + 1}": float(found.embedding.scores[place, k]) for k in range(count)}
        | {"from base": None if found.from_base is None else float(found.from_base[place])}
        for place, name in enumerate(found.names)
    ]
    emit(rows, title="Principal components", as_json=as_json, as_csv=False)
    if as_json:
        return
    shares = [
        {"component": k + 1, "explained": float(found.embedding.explained[k]),
         "random walk": float(found.random_walk[k])}
        for k in range(count)
    ]  # fmt: skip
    emit(shares, title="Variance", as_json=False, as_csv=False, note=EMBED_NOTE)
    two = found.dimension.two_nn
    if two.refused:
        note_lines(f"Intrinsic dimension: not estimated, {two.refused}.")
    else:
        text = f"Intrinsic dimension (TwoNN): {two.ml:.3g}, {two.low:.3g} to {two.high:.3g}."
        note_lines(" ".join([text, *(f"{warning}." for warning in two.warnings)]))
    for run in found.runs:
        shape = run.trajectory
        if shape.tortuosity is not None:
            note_lines(
                f"{run.run}: path {shape.path_length:.4g}, displacement {shape.displacement:.4g}, "
                f"tortuosity {shape.tortuosity:.3g}."
            )
    if found.left_out:
        note_lines(f"Not compared: {len(found.left_out)} tensors, the first {found.left_out[0]}.")
