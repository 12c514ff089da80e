"""Which tensor of a checkpoint each parameter of its optimizer is, told by order and shape.

Optimizers number their parameters and keep no names, unless they were made from
``model.named_parameters()``. The numbers follow the order of the modules, within each group of
parameters. Every order that may have been is tried; one answer must be left.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from analyzer.checkpoints.matching import match_names
from analyzer.checkpoints.matrices import FLOATS
from analyzer.checkpoints.module_order import module_orders
from analyzer.checkpoints.names import describe
from analyzer.checkpoints.parameters import is_parameter, untied
from analyzer.checkpoints.stored import StoredTensor
from analyzer.errors import CheckpointError

Shape = tuple[int, ...]
_HINT = "save with named parameters: torch.optim.AdamW(model.named_parameters())"
_ORDERED_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".npz")
# What the Hugging Face trainer keeps from weight decay, beside every nn.LayerNorm.
_NO_DECAY = re.compile(r"bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)")
# PEFT names an adapter's parameters after the adapter, its files do not.
_ADAPTER_NAME = re.compile(
    r"(\.lora_(?:[AB]|embedding_[AB]|magnitude_vector))\.[^.]+(?=\.weight$|$)"
)


@dataclass(frozen=True, slots=True)
class Slot:
    """A parameter under its number in the optimizer; `shape` is None where it has no state."""

    number: int
    shape: Shape | None


@dataclass(frozen=True, slots=True)
class Group:
    """The parameters that share their settings; GaLore's are `projected`."""

    slots: tuple[Slot, ...]
    projected: bool


def by_name(
    names: Sequence[str],
    shapes: Sequence[Shape | None],
    tensors: Sequence[StoredTensor],
    path: Path,
) -> list[str | None]:
    """Tensor of each named parameter, None where the checkpoint has none.

    Names match up to wrappers and a model prefix. Raises CheckpointError if a shape differs.
    """
    stored = {tensor.name: tensor.shape for tensor in tensors}
    plain = [_ADAPTER_NAME.sub(r"\1", name) for name in names]
    matched = match_names(stored, plain)
    found = [matched.get(name) for name in plain]
    for name, shape in zip(found, shapes, strict=True):
        if name is not None and shape is not None and shape != stored[name]:
            raise CheckpointError(
                f"its state has shape {shape}, the tensor {stored[name]}",
                path=path,
                tensor=name,
                hint="keep the optimizer of the same step beside the weights",
            )
    return found


def by_order(
    groups: Sequence[Group], tensors: Sequence[StoredTensor], path: Path
) -> dict[int, str]:
    """Number of each parameter that has state → tensor name.

    Orders tried: the file's, where its format keeps it, and the modules' in known networks; each
    undivided, and divided into two groups as trainers do. An order that uses every tensor wins
    over one that leaves some out as frozen. Raises CheckpointError if two orders fit that differ
    for some parameter, or if none fits; `path` is the optimizer's file.
    """
    orders = _orders(tensors)
    full: dict[tuple[str, ...], None] = {}
    partial: dict[tuple[str, ...], None] = {}
    slots = [slot for group in groups for slot in group.slots]
    stateful = [slot.number for slot in slots if slot.shape is not None]
    for order in orders:
        for parts in _divisions(groups, order):
            first = _assign(parts)
            if first is None:
                continue
            last = _assign([(slots[::-1], part[::-1]) for slots, part in parts]) or first
            whole = all(len(slots) == len(part) for slots, part in parts)
            for names in (first, last):
                reading = tuple(names[number] for number in stateful)
                (full if whole else partial)[reading] = None
    readings = list(full or partial)
    if len(readings) == 1:
        return dict(zip(stateful, readings[0], strict=True))
    if readings:
        raise _ambiguous(stateful, readings, path)
    raise _none_fits(groups, orders, path)


def _orders(tensors: Sequence[StoredTensor]) -> list[list[StoredTensor]]:
    """The parameters among `tensors`, tied ones once, in every order they may have had."""
    parameters = {t.name: t for t in tensors if t.dtype in FLOATS and is_parameter(t)}
    orders = module_orders(list(parameters))
    if all(t.path.suffix in _ORDERED_SUFFIXES for t in parameters.values()):
        by_shard = sorted(parameters.values(), key=lambda t: t.path.name)
        orders.append([t.name for t in by_shard])
    return [untied([parameters[name] for name in order]) for order in orders]


Division = list[tuple[Sequence[Slot], Sequence[StoredTensor]]]


def _divisions(groups: Sequence[Group], order: list[StoredTensor]) -> Iterator[Division]:
    """Ways in which the tensors may have been dealt to the groups."""
    yield [(list(chain.from_iterable(group.slots for group in groups)), order)]
    if len(groups) != 2:
        return
    projected = any(group.projected for group in groups)
    for rule in _GALORE_RULES if projected else _DECAY_RULES:
        chosen = [tensor for tensor in order if rule(tensor)]
        rest = [tensor for tensor in order if not rule(tensor)]
        yield [(groups[0].slots, rest), (groups[1].slots, chosen)]
        yield [(groups[0].slots, chosen), (groups[1].slots, rest)]


def _trainer_no_decay(tensor: StoredTensor) -> bool:
    norm = len(tensor.shape) == 1 and describe(tensor.name).role == "norm"
    return norm or _NO_DECAY.search(tensor.name.lower()) is not None


def _has_role(*prefixes: str) -> Callable[[StoredTensor], bool]:
    def rule(tensor: StoredTensor) -> bool:
        return len(tensor.shape) == 2 and describe(tensor.name).role.startswith(prefixes)

    return rule


_Rules = tuple[Callable[[StoredTensor], bool], ...]
_DECAY_RULES: _Rules = (
    _trainer_no_decay,
    lambda tensor: "bias" in tensor.name,  # before RMS norms were kept from decay
    lambda tensor: len(tensor.shape) < 2,  # nanoGPT
)
_GALORE_RULES: _Rules = (
    _has_role("attn", "mlp", "expert"),
    _has_role("attn", "mlp", "expert", "unembed"),
    _has_role("attn"),
    _has_role("mlp", "expert"),
)


def _assign(division: Division) -> dict[int, str] | None:
    """Each parameter with the first tensor of its shape after the one before; None if one has
    none. What is passed over was frozen."""
    names: dict[int, str] = {}
    for slots, tensors in division:
        rest = iter(tensors)
        for slot in slots:
            found = next((t for t in rest if slot.shape in (None, t.shape)), None)
            if found is None:
                return None
            names[slot.number] = found.name
    return names


def _ambiguous(
    numbers: Sequence[int], readings: list[tuple[str, ...]], path: Path
) -> CheckpointError:
    number, names = next(
        (number, sorted(set(names)))
        for number, *names in zip(numbers, *readings, strict=True)
        if len(set(names)) > 1
    )
    return CheckpointError(
        f"ambiguous parameter order: parameter {number} may be {' or '.join(names[:3])}",
        path=path,
        hint=_HINT,
    )


def _none_fits(
    groups: Sequence[Group], orders: list[list[StoredTensor]], path: Path
) -> CheckpointError:
    if not orders:
        return CheckpointError(
            "ambiguous parameter order: the optimizer has no names and the network is not known",
            path=path,
            hint=_HINT,
        )
    divisions = list(_divisions(groups, orders[0]))
    sized = (d for d in divisions if all(len(slots) == len(part) for slots, part in d))
    why = _mismatch(next(sized, divisions[0]))
    return CheckpointError(
        f"ambiguous parameter order: no known one fits: {why}", path=path, hint=_HINT
    )


def _mismatch(division: Division) -> str:
    """The first parameter whose shape is not that of the tensor in its place."""
    for slots, tensors in division:
        for slot, tensor in zip(slots, tensors, strict=False):
            if slot.shape not in (None, tensor.shape):
                shapes = f"shape {slot.shape}, {tensor.name} {tensor.shape}"
                return f"parameter {slot.number} has {shapes}"
    counts = [(len(slots), len(tensors)) for slots, tensors in division]
    slots, tensors = (sum(column) for column in zip(*counts, strict=True))
    return f"the optimizer has {slots} parameters, the checkpoint {tensors}"
