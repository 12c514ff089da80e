"""Numbers of units that groups are to have, from what the caller names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from analyzer.errors import UsageError
from analyzer.models.manifold.groups import PermutationGroup
from analyzer.models.manifold.groups.transformers import TRANSFORMERS


def new_sizes(
    groups: Sequence[PermutationGroup],
    widths: Mapping[str, int],
    config: Mapping[str, Any],
    *,
    allow_approximate: bool,
) -> dict[str, int]:
    """Units by name of the groups whose number of them changes.

    A name counts before a kind. Raises UsageError for an unknown one, a width that is no whole
    number of units or below 1, a number of experts, or a residual width unless `allow_approximate`.
    """
    kinds = {group.kind for group in groups}
    names = {group.name for group in groups}
    for key, width in widths.items():
        if key not in kinds | names:
            raise UsageError(
                f"no group has the name or kind {key!r}",
                hint=f"kinds here: {', '.join(sorted(kinds))}",
            )
        if not isinstance(width, int) or isinstance(width, bool) or width < 1:
            raise UsageError(f"the width of {key} must be a whole number from 1, got {width!r}")
    sizes: dict[str, int] = {}
    for group in groups:
        width = widths.get(group.name, widths.get(group.kind))
        if width is None:
            continue
        if group.kind == "heads":
            width = _key_heads(group, groups, width)
        if width != group.size:
            _refuse(group, config, allow_approximate=allow_approximate)
            sizes[group.name] = width
    for group in groups:
        if group.kind == "query_heads" and {group.name, group.parent} <= set(sizes):
            raise UsageError(
                f"{group.name} lies within {group.parent}: change the one or the other in one step"
            )
    return sizes


def _key_heads(group: PermutationGroup, groups: Sequence[PermutationGroup], heads: int) -> int:
    shares = [g.size for g in groups if g.kind == "query_heads" and g.parent == group.name]
    share = shares[0] if shares else 1
    if heads % share:
        raise UsageError(
            f"{heads} heads are no whole number of key heads of {group.name}, each of which serves"
            f" {share}",
            hint=f"give a multiple of {share}",
        )
    return heads // share


def _refuse(group: PermutationGroup, config: Mapping[str, Any], *, allow_approximate: bool) -> None:
    if group.kind == "experts":
        raise UsageError(
            f"{group.name}: a number of experts is no width, for the router picks the best few"
        )
    if group.kind != "residual":
        return
    if not allow_approximate:
        raise UsageError(
            f"{group.name}: norms over the residual stream make another width inexact",
            hint="allow_approximate permits it",
        )
    model = TRANSFORMERS.get(str(config.get("model_type")))
    tied = (model is not None and model.is_tied(config)) or any(s.tied_to for s in group.sites)
    if tied:
        raise UsageError(
            f"{group.name}: tied embeddings both write and read the stream, at different scales",
            hint="untie them first",
        )
