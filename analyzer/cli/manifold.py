"""`analyzer manifold`: channel orders, continuous weights, alignment, merging, geometry."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from analyzer.errors import UsageError

if TYPE_CHECKING:
    from analyzer.checkpoints.checkpoint import Checkpoint
    from analyzer.models.manifold.groups import PermutationGroup

_model = click.argument("model", type=click.Path(path_type=Path))
_output = click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="New folder."
)
_groups = click.option(
    "--groups", "spec", type=click.Path(path_type=Path), help="YAML or JSON that names the groups."
)
_base = click.option("--base", type=click.Path(path_type=Path), help="What they were tuned from.")
_seed = click.option("--seed", type=int, default=0, show_default=True)
_json = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
_quiet = click.option("-q", "--quiet", is_flag=True, help="No progress.")

FIT_NOTE = (
    "rel_fro: ‖W - Ŵ‖/‖W‖ of the fit along the order found; unpermuted: in the stored order; "
    "SVD: the truncated SVD of as many numbers, which no matrix of its rank beats but which has no "
    "other width. sv_rel: of the singular values."
)
SMOOTH_NOTE = (
    "ratio: length of the order found over the mean of all orders; chance: the same of shuffled "
    "weights; smoothness: 1 - ratio/chance. Below 0.1 prune or merge rather than resample (rule of "
    "thumb from four tiny models)."
)
EMBED_NOTE = (
    "explained: share of the variance; random walk: its share in a random walk of as many steps, "
    "at which there is no low-dimensional drift."
)


@click.group()
def manifold() -> None:
    """Weight manifolds (NeuMeta, arXiv 2410.11878) and the geometry of checkpoints."""


@manifold.command()
@click.argument("path", type=click.Path(path_type=Path))
@_base
@click.option("--db", type=click.Path(path_type=Path), help="Store [PATH/analyzer.duckdb].")
@_seed
@click.option("--force", is_flag=True, help="Compute again what is stored.")
@_json
@_quiet
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


@manifold.command()
@_model
@_groups
@click.option(
    "--basis",
    type=click.Choice(["dct", "area", "linear", "cubic"]),
    default="dct",
    show_default=True,
    help="What the weights are expanded in.",
)
@click.option(
    "--budget",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.25,
    show_default=True,
    help="Most numbers kept per weight.",
)
@_seed
@_json
@_quiet
def fit(
    model: Path, spec: Path | None, basis: Any, budget: float, seed: int, as_json: bool, quiet: bool
) -> None:
    """How well few numbers along the best channel orders describe the weights of MODEL."""
    from dataclasses import asdict

    from analyzer.cli.output import emit
    from analyzer.models.manifold.fit import fit_manifold
    from analyzer.models.manifold.smoothness import group_smoothness

    checkpoint, groups = _opened(model, spec)
    with _bar(quiet) as report:
        measured = []
        for number, group in enumerate(groups):
            report(number, len(groups), f"ordering {group.name}")
            measured.append(group_smoothness(checkpoint.read, group, seed=seed))
        orders = {one.group: one.order for one in measured}
        fits = list(fit_manifold(checkpoint, groups, orders, basis=basis, budget=budget))
    rows = [
        {
            "group": one.group, "kind": one.kind, "n": one.n, "d": one.d, "ratio": one.ratio,
            "chance": one.null_ratio, "smoothness": one.smoothness, "gap": one.gap,
        }
        for one in measured
    ]  # fmt: skip
    if not as_json:
        emit(rows, title="Groups", as_json=False, as_csv=False, note=SMOOTH_NOTE)
    shown = [
        {
            "tensor": one.tensor, "kept": one.stored_per_weight, "rel_fro": one.rel_fro,
            "unpermuted": one.unpermuted_rel_fro, "SVD": one.svd_rel_fro, "sv_rel": one.sv_rel,
        }
        for one in fits
    ]  # fmt: skip
    body = [asdict(one) for one in fits] if as_json else shown
    emit(body, title=f"{basis} fit of {checkpoint.name}", as_json=as_json, as_csv=False,
         note=FIT_NOTE, for_people=shown)  # fmt: skip


@manifold.command()
@_model
@_output
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
@click.option("--allow-approximate", is_flag=True, help="Permit the residual width.")
@click.option("--db", type=click.Path(path_type=Path), help="Store that is to know of it.")
@_groups
@_seed
@_json
def sample(
    model: Path,
    output: Path,
    widths: tuple[str, ...],
    operator: Any,
    evaluate: str | None,
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

    checkpoint, groups = _opened(model, spec)
    number = None if db is None else number_of(db, checkpoint)
    made = sample_checkpoint(
        checkpoint, output, widths=_widths(widths), operator=operator, groups=groups,
        allow_approximate=allow_approximate, eval_fn=_evaluation(evaluate), seed=seed,
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


@manifold.command()
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@_output
@click.option("--starts", type=click.IntRange(1), default=1, show_default=True)
@_groups
@_seed
@_json
@_quiet
def align(
    a: Path, b: Path, output: Path, starts: int, spec: Path | None, seed: int, as_json: bool,
    quiet: bool,
) -> None:  # fmt: skip
    """Reorder the units of B towards A by weight matching; B computes what it did before."""
    from analyzer.cli.output import emit
    from analyzer.models.manifold.align import align as align_to
    from analyzer.models.manifold.align import match_weights

    first, groups = _opened(a, spec)
    second = _open(b)
    with _bar(quiet) as report:
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


@manifold.command()
@click.argument("models", nargs=-1, required=True, type=click.Path(path_type=Path))
@_output
@_base
@click.option(
    "--method",
    type=click.Choice(["lerp", "slerp", "karcher", "opcm", "dimat"]),
    default="karcher",
    show_default=True,
)
@click.option("-t", type=click.FloatRange(0, 1), default=0.5, show_default=True, help="Of two.")
@click.option("--alpha", type=click.FloatRange(0, 1), default=0.5, show_default=True, help="OPCM.")
@_groups
@_seed
@_json
@_quiet
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
    from analyzer.models.manifold import merging
    from analyzer.models.manifold.align import match_weights

    if method in ("lerp", "slerp") and len(models) != 2:
        raise UsageError(f"{method} merges two models, got {len(models)}")
    opened, origin = [_open(path) for path in models], None if base is None else _open(base)
    with _bar(quiet) as report:

        def progress(done: int, total: int) -> None:
            report(done, total, f"merging by {method}")

        if method == "lerp":
            made = merging.merge_lerp(
                opened[0], opened[1], t, output, base=origin, progress=progress
            )
        elif method == "slerp":
            made = merging.merge_slerp(
                opened[0], opened[1], t, output, base=origin, progress=progress
            )
        elif method == "karcher":
            made = merging.merge_karcher(opened, output, base=origin, progress=progress)
        elif method == "opcm":
            if origin is None:
                raise UsageError("opcm merges differences from a base", hint="give --base")
            made = merging.merge_opcm(opened, origin, output, alpha=alpha, progress=progress)
        else:
            _, groups = _opened(models[0], spec)
            orders = [
                match_weights(opened[0], other, groups, seed=seed).orders for other in opened[1:]
            ]
            made = merging.merge_dimat(opened, groups, orders, output, progress=progress)
    row = {"method": made.method, "models": len(models), "norm": made.norm, "scale": made.scale}
    coefficients = made.coefficients
    row["coefficients"] = coefficients and ", ".join(f"{value:.4g}" for value in coefficients)
    emit([row], title=f"Merged → {made.folder}", as_json=as_json, as_csv=False)


@manifold.command()
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option(
    "--eval", "evaluate", required=True, metavar="FILE.py:FUNCTION",
    help="Maps a state dict to a loss, or to {'loss': …, 'acc': …}.",
)  # fmt: skip
@click.option("--points", type=click.IntRange(2), default=25, show_default=True)
@click.option("--kind", type=click.Choice(["lerp", "slerp"]), default="lerp", show_default=True)
@_base
@_json
@_quiet
def path(
    a: Path, b: Path, evaluate: str, points: int, kind: Any, base: Path | None, as_json: bool,
    quiet: bool,
) -> None:  # fmt: skip
    """Losses between A and B, and their barrier by both definitions."""
    from analyzer.cli.output import emit
    from analyzer.models.manifold.paths import loss_path

    function = _evaluation(evaluate)
    assert function is not None
    with _bar(quiet) as report:
        found = loss_path(
            _open(a), _open(b), function, n_points=points, kind=kind,
            base=None if base is None else _open(base),
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


@manifold.command()
@click.argument("path", type=click.Path(path_type=Path))
@_base
@_json
@_quiet
def embed(path: Path, base: Path | None, as_json: bool, quiet: bool) -> None:
    """Principal components, distances and intrinsic dimension of all checkpoints in PATH."""
    from analyzer.checkpoints.discover import discover
    from analyzer.cli.output import emit, note_lines
    from analyzer.models.manifold.geometry import checkpoint_geometry

    collection = discover(path, base)
    with _bar(quiet) as report:
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


def _open(path: Path) -> Checkpoint:
    from analyzer.checkpoints.checkpoint import open_checkpoint

    return open_checkpoint(path)


def _opened(path: Path, spec: Path | None) -> tuple[Checkpoint, tuple[PermutationGroup, ...]]:
    """A checkpoint and its groups; what could not be mapped is said on stderr."""
    from analyzer.models.manifold.groups import groups_from_yaml, permutation_groups

    checkpoint = _open(path)
    mapped = permutation_groups(checkpoint) if spec is None else groups_from_yaml(spec, checkpoint)
    for axis in mapped[1][:3]:
        click.echo(f"left in place: {axis}", err=True)
    if not mapped[0]:
        raise UsageError("no permutation group", path=path, hint="name them with --groups FILE")
    return checkpoint, mapped[0]


def _widths(pairs: tuple[str, ...]) -> dict[str, int]:
    found: dict[str, int] = {}
    for pair in pairs:
        name, _, count = pair.partition("=")
        if not count.isdigit():
            raise UsageError(f"--width {pair}", hint="write GROUP=N, such as mlp=512")
        found[name] = int(count)
    return found


def _evaluation(place: str | None) -> Callable[..., Any] | None:
    """The user's own function. Raises UsageError where there is none."""
    if place is None:
        return None
    import runpy

    file, _, name = place.rpartition(":")
    if not file or not Path(file).is_file():
        raise UsageError(f"--eval {place}", hint="write FILE.py:FUNCTION")
    function: Any = runpy.run_path(file).get(name)
    if not callable(function):
        raise UsageError(f"no function {name}", path=file)

    def evaluate(state: Any) -> Any:
        said: Any = function(state)
        return said if isinstance(said, dict) else {"loss": float(said)}

    return evaluate


@contextmanager
def _bar(quiet: bool) -> Iterator[Callable[[int, int, str], None]]:
    from analyzer.cli.progress import progress_bar
    from analyzer.scanning.pool import Progress

    with progress_bar(quiet) as report:

        def show(done: int, total: int, what: str) -> None:
            if report is not None:
                report(Progress(done / max(total, 1), what))

        yield show
