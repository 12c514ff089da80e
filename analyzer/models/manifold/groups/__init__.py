"""Symmetry groups: which axes of which tensors one permutation may reorder together."""

from analyzer.models.manifold.groups.apply import apply_order, apply_orders, reorder
from analyzer.models.manifold.groups.mapping import groups_of, permutation_groups
from analyzer.models.manifold.groups.spec import groups_from_yaml
from analyzer.models.manifold.groups.types import (
    PLAIN,
    Layout,
    PermutationGroup,
    Site,
    UnmappedAxis,
    blocks,
    fused,
)

__all__ = [
    "PLAIN",
    "Layout",
    "PermutationGroup",
    "Site",
    "UnmappedAxis",
    "apply_order",
    "apply_orders",
    "blocks",
    "fused",
    "groups_from_yaml",
    "groups_of",
    "permutation_groups",
    "reorder",
]
