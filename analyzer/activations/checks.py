"""What the tensors and masks of saved hidden states must look like."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from analyzer.activations.naming import layer_number
from analyzer.errors import UnsupportedFormat

MASK = "attention_mask"
SAVE_HINT = "save the input of each query projection, as safetensors or .npy"
_DTYPES = frozenset({"float16", "bfloat16", "float32", "float64"})


def is_mask(name: str) -> bool:
    """Whether a name is that of an attention mask."""
    return name == MASK or name.endswith(f".{MASK}")


def checked_shape(
    path: Path, name: str, shape: tuple[int, ...], dtype: str
) -> tuple[int, int, int]:
    """`shape` as (N, L, d). Raises UnsupportedFormat for another shape, a dtype that is no float,
    and the name of a weight."""
    if name.endswith((".weight", ".bias")):
        raise UnsupportedFormat("weights, not activations", path=path, tensor=name, hint=SAVE_HINT)
    if dtype not in _DTYPES:
        raise UnsupportedFormat(
            f"{dtype} where floats are expected", path=path, tensor=name, hint="save it as float32"
        )
    if len(shape) not in (2, 3) or 0 in shape:
        raise UnsupportedFormat(
            f"shape {shape} where (tokens, width) or (samples, tokens, width) is expected",
            path=path,
            tensor=name,
            hint=SAVE_HINT,
        )
    samples = shape[0] if len(shape) == 3 else 1
    return samples, shape[-2], shape[-1]


def masks_of(
    path: Path, shapes: Mapping[str, tuple[int, ...]], masks: Mapping[str, tuple[int, ...]]
) -> dict[str, str]:
    """Tensor → its mask. Raises UnsupportedFormat if a mask does not fit what it belongs to."""
    chosen = {name: f"{name}.{MASK}" if f"{name}.{MASK}" in masks else MASK for name in shapes}
    fitting = {name: mask for name, mask in chosen.items() if mask in masks}
    for name, mask in fitting.items():
        if masks[mask] != shapes[name][:2]:
            raise UnsupportedFormat(
                f"shape {masks[mask]}, but {name} has {shapes[name][:2]} samples and tokens",
                path=path,
                tensor=mask,
                hint=f"save a mask of its own as {name}.{MASK}",
            )
    if unused := [mask for mask in masks if mask not in fitting.values() and mask != MASK]:
        raise UnsupportedFormat(
            "a mask without activations", path=path, tensor=unused[0], hint="remove or rename it"
        )
    return fitting


def refuse_repeated_numbers(path: Path, names: Collection[str]) -> None:
    """Raises UnsupportedFormat if two names mean one layer, as ``3`` and ``layer.3``."""
    seen: dict[object, str] = {}
    for name in names:
        number = layer_number(name)
        if number and (other := seen.setdefault(number, name)) != name:
            raise UnsupportedFormat(
                f"the same layer as {other}", path=path, tensor=name, hint="keep one of the two"
            )
