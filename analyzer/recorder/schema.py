"""What one recorded step says: plain data, and their JSON form.

A file ``FOLDER/analyzer-records/step-00000010.safetensors`` holds one step. Scalars stand in one
JSON object under the metadata key ``records``, arrays are tensors:

    {batch}/{name}/sigma   (l,)    float64  leading singular values of the gradient
    {batch}/{name}/basis   (d, l)  float32  singular vectors on `side`: d = rows, or cols for right
    {batch}/{name}/sketch  (w,)    float32  CountSketch of the matrix, for cosines
    noise/{name}/cv        (l,)    float64  tr(P_rᵀ G_B G_Cᵀ P_r), r = 1 … l
    noise/{name}/out       (l,)    float64  ‖P_rᵀ G_B‖_F², r = 1 … l

P_r are the first r columns of the basis of batch ``probe``, which is the fixed batch A; B and C are
independent batches. ``train`` is the minibatch. Gradients have the units of loss over weight.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

FORMAT, VERSION = "analyzer-records", 1
METADATA_KEY = "records"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Staleness:
    """How an earlier basis fits a later gradient of the minibatch.

    The gradient is that of the record, or of the single step between two records that follows the
    earlier one (lag 1).
    """

    lag_steps: int  # steps from the basis to the gradient
    captured: float  # ‖PᵀG‖_F²/‖G‖_F², P the earlier basis
    overlap: float | None  # ‖PᵀQ‖_F²/l, Q the gradient's own leading basis


@dataclass(frozen=True, slots=True)
class Entry:
    """The gradient of one matrix on one batch.

    Numbers are None where there is no finite gradient. Flags: ``non_finite`` (with counts),
    ``zero_gradient``, ``no_gradient`` (the step did not reach this weight), ``restarted``
    (the subspace jumped, and the search began again).
    """

    name: str
    batch: str  # train or probe
    rows: int
    cols: int
    side: str  # left or right
    fro: float | None
    epsilon: float | None  # ‖G‖_F² outside the basis: σ_i² ≤ s_i² ≤ σ_i² + epsilon
    n_tokens: int | None
    dtype: str
    method: str | None
    flags: tuple[str, ...] = ()
    n_nan: int = 0
    n_inf: int = 0
    staleness: tuple[Staleness, ...] = ()


@dataclass(frozen=True, slots=True)
class NoiseEntry:
    """Two independent batches B and C against the basis of the probe batch."""

    name: str
    n_tokens: int | None  # of one batch
    dot_bc: float  # ⟨G_B, G_C⟩, unbiased for ‖E G‖_F²
    norm_b: float
    norm_c: float


@dataclass(frozen=True, slots=True)
class Header:
    """The scalars of a step: the gradient that leads from `step` to `step` + 1."""

    step: int
    learning_rates: tuple[float, ...]  # one a parameter group
    clip_state: str  # optimizer_input (as the optimizer sees it), before_clipping, after_clipping
    accum: int
    loss_scale: float  # divided out of the gradients
    seed: int
    rank: int
    sketch_width: int
    entries: tuple[Entry, ...]
    noise: tuple[NoiseEntry, ...]


@dataclass(frozen=True, slots=True)
class Arrays:
    """The arrays of an entry."""

    sigma: NDArray[np.float64]  # (l,)
    basis: NDArray[np.float32]  # (d, l)
    sketch: NDArray[np.float32]  # (w,)


@dataclass(frozen=True, slots=True)
class NoiseArrays:
    """The arrays of a noise entry, both for r = 1 … l."""

    cv: NDArray[np.float64]  # (l,) tr(P_rᵀ G_B G_Cᵀ P_r)
    out: NDArray[np.float64]  # (l,) ‖P_rᵀ G_B‖_F²


@dataclass(frozen=True, slots=True)
class Record:
    """One step with all its arrays."""

    header: Header
    arrays: Mapping[tuple[str, str], Arrays]  # (batch, name) → arrays, where a gradient was found
    noise: Mapping[str, NoiseArrays]  # name → arrays


def to_json(header: Header) -> str:
    """The JSON text of a header. Raises ValueError for NaN and infinity."""
    value = {"format": FORMAT, "version": VERSION} | _fields(header)
    return json.dumps(value, allow_nan=False, separators=(",", ":"), default=_fields)


def _fields(part: Any) -> dict[str, Any]:
    """One level of a dataclass: several times as fast as dataclasses.asdict."""
    return {name: getattr(part, name) for name in part.__slots__}


def from_json(value: Mapping[str, Any]) -> Header:
    """The header of a JSON object. Raises ValueError, whose text says what is wrong."""
    entries = tuple(
        _build(Entry, item, staleness=_each(Staleness, item.get("staleness")))
        for item in _objects(value.get("entries"), "entries")
    )
    header = _build(Header, value, entries=entries, noise=_each(NoiseEntry, value.get("noise")))
    keys = [(entry.batch, entry.name) for entry in entries]
    if len(set(keys)) < len(keys):
        raise ValueError("two entries of one matrix and batch")
    return header


def _each(kind: type[T], value: Any) -> tuple[T, ...]:
    return tuple(_build(kind, item) for item in _objects(value, kind.__name__))


def _objects(value: Any, what: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise ValueError(f"{what} is no list of objects")
    return value


# Annotations are text here, and the text is all that has to be checked against.
_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,), "int": (int,), "float": (float, int),
    "str | None": (str, type(None)), "int | None": (int, type(None)),
    "float | None": (float, int, type(None)),
}  # fmt: skip
_ITEMS: dict[str, tuple[type, ...]] = {
    "tuple[float, ...]": (float, int),
    "tuple[str, ...]": (str,),
}


def _build(kind: type[T], item: Mapping[str, Any], **parts: Any) -> T:
    """A dataclass from JSON: every field present, of its type, and finite."""
    values = dict(parts)
    for field in fields(kind):  # pyright: ignore[reportArgumentType]
        if field.name in parts:
            continue
        value, declared = item.get(field.name), str(field.type)
        if declared in _ITEMS:
            if not isinstance(value, list):
                raise ValueError(f"{field.name} is no list")
            values[field.name] = tuple(_checked(v, _ITEMS[declared], field.name) for v in value)
        else:
            if field.name not in item:
                raise ValueError(f"{field.name} is absent")
            values[field.name] = _checked(value, _TYPES[declared], field.name)
    return kind(**values)


def _checked(value: Any, types: tuple[type, ...], name: str) -> Any:
    if isinstance(value, bool) or not isinstance(value, types):
        raise ValueError(f"{name} is {value!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} is {value}")
    return float(value) if types[0] is float and value is not None else value
