"""One parameter's entry in a saved optimizer: Adam's two moments, and GaLore's projector."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard, cast, get_args

from analyzer.checkpoints.inert_pickle import Foreign, Global
from analyzer.checkpoints.matrices import FLOATS
from analyzer.checkpoints.torch_pickle import TensorRef
from analyzer.errors import CorruptFile, UnsupportedFormat
from theory.galore_projection import ProjType, Side, projection_side

# bitsandbytes calls the moments of its 32-bit Adam by these names, and those of its 8-bit one.
_MOMENTS = (("exp_avg", "exp_avg_sq"), ("state1", "state2"))
_PROJECTOR = "ortho_matrix"


@dataclass(frozen=True, slots=True)
class Projection:
    """GaLore's projection of one gradient (Zhao et al., arXiv 2403.03507, section 4).

    `side` is the side of the gradient G (rows, cols) that is projected: ``left`` Pᵀ G (r, cols),
    ``right`` G Q (rows, r), ``full`` Pᵀ G Q (r, r). `rank` is r as stored, at most what the
    weight's shape allows. The other values are the settings, None where the file lacks them.
    """

    side: Side
    rank: int
    update_proj_gap: int | None
    scale: float | None
    proj_type: str | None


@dataclass(frozen=True, slots=True)
class AdamEntry:
    """References to what an optimizer keeps of one parameter; `shape` is the weight's."""

    shape: tuple[int, ...]
    step: Any
    exp_avg: TensorRef
    exp_avg_sq: TensorRef
    projection: Projection | None
    left: TensorRef | None
    right: TensorRef | None


def adam_entry(number: int | str, state: Mapping[Any, Any], path: Path) -> AdamEntry:
    """The entry of parameter `number`. Nothing of it is imported or called.

    Raises UnsupportedFormat for eight-bit states and other optimizers than Adam, CorruptFile if
    its tensors contradict each other.
    """
    first, second = _moments(number, state, path)
    if first.shape != second.shape:
        raise _contradiction(number, f"moments of {first.shape} and {second.shape}", path)
    projector = state.get("projector")
    if projector is None:
        return AdamEntry(first.shape, state.get("step"), first, second, None, None, None)
    attributes = projector.state if isinstance(projector, Foreign) else None
    if not isinstance(attributes, dict) or _PROJECTOR not in attributes:
        raise UnsupportedFormat(
            f"parameter {number} has a projector that is not GaLore's",
            path=path,
            hint="do not open the file with torch.load unless you know its writer",
        )
    shape, projection, left, right = _projected(number, first.shape, attributes, path)
    return AdamEntry(shape, state.get("step"), first, second, projection, left, right)


def _moments(
    number: int | str, state: Mapping[Any, Any], path: Path
) -> tuple[TensorRef, TensorRef]:
    for names in _MOMENTS:
        first, second = (state.get(name) for name in names)
        if first is None or second is None:
            continue
        if _is_float(first) and _is_float(second):
            return first, second
        kind = first.dtype if isinstance(first, TensorRef) else _type_name(first)
        raise UnsupportedFormat(
            f"8-bit state: parameter {number} keeps {names[0]} as {kind}",
            path=path,
            hint="train with 32-bit or bfloat16 optimizer states to analyse them",
        )
    kept = ", ".join(sorted(key for key in state if isinstance(key, str))[:6])
    raise UnsupportedFormat(
        f"not the state of Adam: parameter {number} keeps {kept}",
        path=path,
        hint="moments are read of Adam, AdamW and GaLore's AdamW",
    )


def _projected(
    number: int | str, low: tuple[int, ...], attributes: Mapping[str, Any], path: Path
) -> tuple[tuple[int, int], Projection, TensorRef | None, TensorRef | None]:
    """Shape of the weight whose projected moments have shape `low`, and the projection.

    galore-torch keeps P as (rows, r), but Q as (r, cols); both in a list for ``full``.
    """
    kind, matrix = attributes.get("proj_type"), attributes[_PROJECTOR]
    kind = kind if isinstance(kind, str) else None
    matrices = matrix if isinstance(matrix, list) else [matrix]
    sides: dict[Side, tuple[TensorRef | None, TensorRef | None]] = {}
    if all(map(_is_matrix, matrices)) and len(low) == 2:
        if len(matrices) == 2:
            sides["full"] = (matrices[0], matrices[1])
        elif len(matrices) == 1:
            sides |= {"right": (None, matrices[0]), "left": (matrices[0], None)}
    for side, (left, right) in sides.items():
        shape = _unprojected(low, left, right)
        if shape is not None and _is_side(side, kind, *shape):
            rank = low[1] if side == "right" else low[0]
            gap = attributes.get("update_proj_gap")
            projection = Projection(
                side=side,
                rank=rank,
                update_proj_gap=gap if type(gap) is int else None,
                scale=finite(attributes.get("scale")),
                proj_type=kind,
            )
            return shape, projection, left, right
    raise _contradiction(number, f"moments of {low} that do not fit its projector", path)


def _unprojected(
    low: tuple[int, ...], left: TensorRef | None, right: TensorRef | None
) -> tuple[int, int] | None:
    """The shape before projection, None if the projector cannot have given `low`."""
    rows, cols = low
    if left is not None:
        if left.shape[1] != rows:
            return None
        rows = left.shape[0]
    if right is not None:
        if right.shape[0] != cols:
            return None
        cols = right.shape[1]
    return rows, cols


def _is_float(value: object) -> TypeGuard[TensorRef]:
    return isinstance(value, TensorRef) and value.dtype in FLOATS


def _type_name(value: object) -> str:
    """Short whatever the value: a file may nest lists 2⁶⁰ times."""
    factory = value.factory if isinstance(value, Foreign) else None
    return str(factory) if isinstance(factory, Global) else type(value).__name__


def _is_matrix(value: object) -> bool:
    return _is_float(value) and len(value.shape) == 2


def _is_side(side: Side, kind: str | None, rows: int, cols: int) -> bool:
    """Whether galore-torch projects this side for a setting of proj_type."""
    known = kind in get_args(ProjType)
    return known and side == projection_side(rows, cols, cast(ProjType, kind), rule="code")


def finite(value: object) -> float | None:
    """A finite number as a float, None for everything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # An integer may be too large for a float.
    return float(value) if abs(value) < 1e300 and math.isfinite(value) else None


def _contradiction(number: int | str, what: str, path: Path) -> CorruptFile:
    return CorruptFile(
        f"parameter {number} has {what}", path=path, hint="the file is damaged; save it again"
    )
