"""The norm layers that an attention module's input, queries and keys pass, as they are stored."""

from __future__ import annotations

from collections.abc import Mapping

from analyzer.checkpoints.attention.family import Front, HeadNormRule, NormRule
from analyzer.checkpoints.attention.fused_layouts import LayoutRefused
from analyzer.checkpoints.attention.types import HeadNorm, Norm
from analyzer.checkpoints.tensors import TensorInfo

# The second of each is the spelling of checkpoints converted from TensorFlow.
_GAINS, _BIASES = ("weight", "gamma"), ("bias", "beta")

Stored = Mapping[str, TensorInfo]  # by the name without wrappers


def norm_in_front(
    stored: Stored, front: Front, rule: NormRule, places: Mapping[str, object]
) -> tuple[Norm | None, str | None]:
    """The norm that a template names, or None and why there is none."""
    if front.path is None:
        return None, front.detail
    path = front.path.format(**places)
    norm = stored_norm(stored, path, rule)
    return norm, None if norm else f"{path} is not in the checkpoint"


def stored_norm(stored: Stored, path: str, rule: NormRule) -> Norm | None:
    """The norm layer at a path; None if it should hold a gain and does not."""
    gain = _first(stored, path, _GAINS)
    if gain is None and rule.affine:
        return None
    bias = _first(stored, path, _BIASES) if rule.kind == "layernorm" else None
    return Norm(rule.kind, gain, bias, rule.eps, rule.offset)


def head_norms(
    stored: Stored, module: str, rule: HeadNormRule, head_width: int, sizes: tuple[int, int]
) -> tuple[HeadNorm, HeadNorm]:
    """Norms of queries and keys, `sizes` rows of their projections. Raises LayoutRefused if one is
    missing or its gain is not one vector of the right length."""
    found = []
    for leaf, size in zip((rule.query, rule.key), sizes, strict=True):
        path = f"{module}.{leaf}"
        norm = stored_norm(stored, path, rule.norm)
        if norm is None:
            raise LayoutRefused(f"{path}.weight is not in the checkpoint")
        wanted = (head_width if rule.per_head else size,)
        for leaf_name in _GAINS + _BIASES:
            tensor = stored.get(f"{path}.{leaf_name}")
            if tensor is not None and tensor.shape != wanted:
                raise LayoutRefused(f"{path} has shape {tensor.shape}, not {wanted}")
        found.append(HeadNorm(norm, rule.per_head))
    return found[0], found[1]


def _first(stored: Stored, path: str, leaves: tuple[str, ...]) -> str | None:
    names = (f"{path}.{leaf}" for leaf in leaves)
    return next((stored[name].name for name in names if name in stored), None)
