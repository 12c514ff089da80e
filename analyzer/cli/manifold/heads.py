"""`analyzer manifold heads`: what heads compute, whatever basis they are stored in."""

from __future__ import annotations

from pathlib import Path

import click

from analyzer.cli.manifold.options import json_option, model_argument, opened_checkpoint

HEADS_NOTE = (
    "Largest singular value and effective rank (Roy & Vetterli 2007) of W_QᵀW_K and W_O W_V: the "
    "matrices themselves change under rotations of a head's channels that no output shows, these "
    "products do not."
)


@click.command()
@model_argument
@json_option
def heads(model: Path, as_json: bool) -> None:
    """Spectra of the products W_QᵀW_K and W_O W_V of every attention head of MODEL."""
    from analyzer.cli.output import emit
    from analyzer.models.manifold.head_products import head_products
    from theory.spectral_summaries import summarise

    checkpoint = opened_checkpoint(model)
    shown, full = [], []
    for one in head_products(checkpoint):
        place = {"layer": one.layer, "head": one.head, "key_head": one.key_head}
        full.append(place | {"qk": one.qk.tolist(), "ov": one.ov.tolist()})
        shown.append(
            place
            | {"QK σ₁": float(one.qk[0]), "QK erank": summarise(one.qk).effective_rank}
            | {"OV σ₁": float(one.ov[0]), "OV erank": summarise(one.ov).effective_rank}
        )
    emit(full, title=f"Heads of {checkpoint.name}", as_json=as_json, as_csv=False,
         note=HEADS_NOTE, for_people=shown)  # fmt: skip
