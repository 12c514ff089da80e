"""`analyzer manifold fit`: how well few numbers describe the weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from analyzer.cli.manifold.options import (
    bar,
    checkpoint_and_groups,
    groups_option,
    json_option,
    model_argument,
    quiet_option,
    seed_option,
)

if TYPE_CHECKING:
    from analyzer.models.manifold.fit import TensorFit
    from analyzer.models.manifold.smoothness import GroupSmoothness

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


@click.command()
@model_argument
@groups_option
@click.option(
    "--basis",
    type=click.Choice(["dct", "area", "linear", "cubic", "inr"]),
    default="dct",
    show_default=True,
    help="What the weights are expanded in; inr: an implicit network a tensor.",
)
@click.option(
    "--budget",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.25,
    show_default=True,
    help="Most numbers kept per weight; not of inr.",
)
@click.option("--hidden", type=click.IntRange(1), default=64, show_default=True, help="Of inr.")
@click.option("--steps", type=click.IntRange(1), default=1000, show_default=True, help="Of inr.")
@seed_option
@json_option
@quiet_option
def fit(
    model: Path,
    spec: Path | None,
    basis: Any,
    budget: float,
    hidden: int,
    steps: int,
    seed: int,
    as_json: bool,
    quiet: bool,
) -> None:
    """How well few numbers along the best channel orders describe the weights of MODEL."""
    from dataclasses import asdict

    from analyzer.cli.output import emit
    from analyzer.models.manifold.fit import fit_manifold
    from analyzer.models.manifold.implicit_fit import fit_by_networks
    from analyzer.models.manifold.smoothness import group_smoothness

    checkpoint, groups = checkpoint_and_groups(model, spec)
    with bar(quiet) as report:
        measured = []
        for number, group in enumerate(groups):
            report(number, len(groups), f"ordering {group.name}")
            measured.append(group_smoothness(checkpoint.read, group, seed=seed))
        orders = {one.group: one.order for one in measured}
        if basis == "inr":
            found = fit_by_networks(
                checkpoint, groups, orders, hidden=hidden, steps=steps, seed=seed,
                progress=lambda done, total: report(done, total, "fitting"),
            )  # fmt: skip
        else:
            found = fit_manifold(checkpoint, groups, orders, basis=basis, budget=budget)
        fits = list(found)
    if not as_json:
        emit([_group_row(one) for one in measured], title="Groups", as_json=False, as_csv=False,
             note=SMOOTH_NOTE)  # fmt: skip
    shown = [_tensor_row(one) for one in fits]
    body = [asdict(one) for one in fits] if as_json else shown
    emit(body, title=f"{basis} fit of {checkpoint.name}", as_json=as_json, as_csv=False,
         note=FIT_NOTE + _diverged(basis, fits), for_people=shown)  # fmt: skip


def _diverged(basis: str, fits: list[TensorFit]) -> str:
    names = [one.tensor for one in fits if one.basis != basis]
    if not names:
        return ""
    return f" {len(names)} diverged and are shown as dct, the first {names[0]}."


def _group_row(one: GroupSmoothness) -> dict[str, Any]:
    return {
        "group": one.group, "kind": one.kind, "n": one.n, "d": one.d, "ratio": one.ratio,
        "chance": one.null_ratio, "smoothness": one.smoothness, "gap": one.gap,
    }  # fmt: skip


def _tensor_row(one: TensorFit) -> dict[str, Any]:
    return {
        "tensor": one.tensor, "kept": one.stored_per_weight, "rel_fro": one.rel_fro,
        "unpermuted": one.unpermuted_rel_fro, "SVD": one.svd_rel_fro, "sv_rel": one.sv_rel,
    }  # fmt: skip
