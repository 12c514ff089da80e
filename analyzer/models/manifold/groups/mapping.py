"""The permutation groups of a checkpoint, from the names of its tensors and its config.json."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

from analyzer.checkpoints.checkpoint import Checkpoint
from analyzer.checkpoints.names import strip_wrappers
from analyzer.errors import CheckpointError, UsageError
from analyzer.models.manifold.groups.assemble import Description, assemble
from analyzer.models.manifold.groups.axes import Rule, axes_of
from analyzer.models.manifold.groups.resnet import is_resnet, resnet_axes, resnet_links
from analyzer.models.manifold.groups.transformers import TRANSFORMERS, links
from analyzer.models.manifold.groups.types import PermutationGroup, UnmappedAxis

Mapped = tuple[tuple[PermutationGroup, ...], tuple[UnmappedAxis, ...]]

_HEAD = re.compile(
    r"(?:lm_head|score|classifier|qa_outputs|cls\.seq_relationship"
    r"|cls\.predictions\.transform\.dense)\.weight"
)
# A model with a head keeps its body under one of these; the body alone is saved without.
_BODY = ("model.", "transformer.", "bert.", "vit.")


def permutation_groups(checkpoint: Checkpoint) -> Mapped:
    """The groups of channels, heads and experts, inner ones first, and the axes left unmapped.

    Knows LLaMA, Mistral, Qwen2, Qwen3, Phi-3, Mixtral, GPT-2, BERT, ViT by ``model_type`` and
    ResNet also by torchvision's names; nothing is taken from shapes alone. Reads no data but that
    of two embeddings which config.json declares tied and which are stored apart. Raises UsageError
    for another architecture and for an adapter, ShapeMismatch where two axes of a group differ.
    """
    if checkpoint.kind == "adapter":
        raise UsageError("an adapter has no channels of its own: merge it", path=checkpoint.path)
    stored, shapes, tied = _listed(checkpoint)
    model = TRANSFORMERS.get(str(checkpoint.config.get("model_type")))
    if model and model.is_tied(checkpoint.config):
        first, second = model.embeddings
        if {first, second} <= set(stored) and second not in tied:
            hashes = {checkpoint.content_sha256(stored[name]) for name in (first, second)}
            tied |= {second: first} if len(hashes) == 1 else {}
    groups, unmapped = groups_of(shapes, checkpoint.config, tied=tied, path=str(checkpoint.path))
    return _as_stored(groups, unmapped, stored)


def mapped_by(table: Iterable[Rule], checkpoint: Checkpoint, config: Mapping[str, Any]) -> Mapped:
    """As `permutation_groups`, by a table of rules instead of an architecture."""
    stored, shapes, tied = _listed(checkpoint)
    axes = {name: axes_of(name, table) for name in shapes}
    groups, unmapped = assemble(Description(shapes, axes, config, tied=tied))
    return _as_stored(groups, unmapped, stored)


def groups_of(
    shapes: Mapping[str, tuple[int, ...]],
    config: Mapping[str, Any],
    *,
    tied: Mapping[str, str] | None = None,
    path: str | None = None,
) -> Mapped:
    """As `permutation_groups`, from the shapes of tensors by name without wrappers.

    `tied` gives, for a second name of a parameter, the first; `path` is for the error.
    """
    model_type = config.get("model_type")
    model = TRANSFORMERS.get(str(model_type))
    names = set(shapes)
    if model is not None:
        has_head = any(map(_HEAD.fullmatch, names)) or (
            model.is_tied(config) and any(name.startswith(_BODY) for name in names)
        )
        known = Description(
            shapes,
            {name: axes_of(name, model.table) for name in shapes},
            config,
            links(config, names),
            tied or {},
            frozenset() if has_head else frozenset({"res"}),
        )
    elif model_type == "resnet" or (model_type is None and is_resnet(names)):
        known = Description(
            shapes,
            {name: resnet_axes(name) for name in shapes},
            links=resnet_links(names),
            tied=tied or {},
            outputs=frozenset() if _ends_in_classes(names) else frozenset({"last"}),
        )
    else:
        what = f"model_type {model_type!r}" if model_type else "a model without model_type"
        raise UsageError(
            f"the channel axes of {what} are not known",
            path=path,
            hint="describe its groups in a YAML file",
        )
    return assemble(known)


def _ends_in_classes(names: Collection[str]) -> bool:
    return bool({"fc.weight", "classifier.1.weight"} & set(names))


def _listed(
    checkpoint: Checkpoint,
) -> tuple[dict[str, str], dict[str, tuple[int, ...]], dict[str, str]]:
    """By names without wrappers: names as stored, shapes, and first names of shared storages."""
    stored: dict[str, str] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    storages: dict[str, str] = {}
    tied: dict[str, str] = {}
    for tensor in checkpoint.tensors():
        name = strip_wrappers(tensor.name)
        if stored.setdefault(name, tensor.name) != tensor.name:
            raise CheckpointError(
                f"{stored[name]} has the same name without wrappers",
                path=checkpoint.path,
                tensor=tensor.name,
            )
        shapes[name] = tensor.shape
        first = storages.setdefault(tensor.storage_id, name)
        if first != name:
            tied[name] = first
    return stored, shapes, tied


def _as_stored(
    groups: Iterable[PermutationGroup],
    unmapped: Iterable[UnmappedAxis],
    stored: Mapping[str, str],
) -> Mapped:
    """The same with names as they are stored, wrappers included."""
    return (
        tuple(
            replace(
                group,
                sites=tuple(
                    replace(
                        site,
                        tensor=stored[site.tensor],
                        tied_to=stored[site.tied_to] if site.tied_to else None,
                    )
                    for site in group.sites
                ),
                stacks=tuple(tuple(stored[name] for name in stack) for stack in group.stacks),
            )
            for group in groups
        ),
        tuple(replace(axis, tensor=stored[axis.tensor]) for axis in unmapped),
    )
