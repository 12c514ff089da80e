"""Adam's moments of a training checkpoint, read from ``optimizer.pt`` beside its weights.

The file is a pickle; it is read by the inert interpreter, so that nothing it names is imported or
called (GaLore's projectors are objects of a class that `torch.load` would import). Moments are
mapped from the file when asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from analyzer.checkpoints.adam_state import AdamEntry, Projection, finite
from analyzer.checkpoints.checkpoint import Checkpoint
from analyzer.checkpoints.optimizer_file import (
    Number,
    broken,
    entries_of,
    given_names,
    read_optimizer,
)
from analyzer.checkpoints.parameter_order import Group, Slot, by_name, by_order
from analyzer.checkpoints.side_files import side_file
from analyzer.checkpoints.stored import StoredTensor, as_tensor, stored_scalar
from analyzer.checkpoints.torch_pickle import TensorRef, TorchFile, warnings
from analyzer.errors import CheckpointError

if TYPE_CHECKING:
    import torch

OPTIMIZER_FILES = ("optimizer.pt", "optimizer.bin")


@dataclass(frozen=True, slots=True)
class ParameterState:
    """What Adam keeps of one parameter, and its settings where the file holds them.

    `name` and `shape` are those of the checkpoint's tensor as stored (GPT-2's ``Conv1D`` is input
    × output). `step` counts the updates so far; `lr` is the rate of the next one.
    """

    name: str
    shape: tuple[int, ...]
    step: int | None
    beta1: float | None
    beta2: float | None
    eps: float | None
    lr: float | None
    weight_decay: float | None
    projected: Projection | None
    stored: Mapping[str, StoredTensor] = field(repr=False, compare=False)

    @property
    def rows(self) -> int:
        """Rows of the parameter as a matrix; 1 for a scalar."""
        return self.shape[0] if self.shape else 1

    @property
    def cols(self) -> int:
        """Columns of the parameter as a matrix: in·kh·kw of a convolution, 1 of a vector."""
        return prod(self.shape[1:])

    def exp_avg(self) -> torch.Tensor:
        """M_t = β₁ M_{t−1} + (1 − β₁) G_t, not corrected for its start at zero.

        In the parameter's shape; projected by GaLore (r, cols), (rows, r) or (r, r). With its
        stored dtype, as a private view of the mapped file. Raises CorruptFile if the file shrank.
        """
        return as_tensor(self.stored["exp_avg"])

    def exp_avg_sq(self) -> torch.Tensor:
        """V_t = β₂ V_{t−1} + (1 − β₂) G_t², entry by entry, as `exp_avg`."""
        return as_tensor(self.stored["exp_avg_sq"])

    def projector(self, side: Literal["left", "right"] | None = None) -> torch.Tensor:
        """GaLore's P (rows, r) of the left side or Qᵀ (r, cols) of the right one.

        `side` has to be named where both are projected. Raises ValueError if there is none.
        """
        wanted = side or (self.projected.side if self.projected else "any")
        if wanted not in self.stored:
            raise ValueError(f"{self.name} has no projector of side {wanted!r}")
        return as_tensor(self.stored[wanted])


@dataclass(frozen=True, slots=True)
class OptimizerState:
    """The optimizer's state at a checkpoint: one entry for each parameter that was updated."""

    path: Path
    kind: Literal["adam", "galore_adam"]
    parameters: tuple[ParameterState, ...]
    warnings: tuple[str, ...]


def open_optimizer(checkpoint: Checkpoint) -> OptimizerState | None:
    """The optimizer state beside a checkpoint's weights, None if there is none.

    Reads the pickle and the step counters, no moments. An adapter's whose parameters cannot be
    told apart has no parameters, and a warning that says why. Raises CheckpointError if the file
    is damaged, is not Adam's, keeps 8-bit states or, of a full model, if its parameters cannot be
    told apart.
    """
    path = side_file(checkpoint, OPTIMIZER_FILES)
    if path is None:
        return None
    file = read_optimizer(path)
    groups, entries = entries_of(file, path)
    lines = warnings({name: None for name in file.pickled.unknown if not _is_projector(name)})
    kind = "galore_adam" if any(e.projection for e in entries.values()) else "adam"
    try:
        names, unmatched = _names(groups, entries, checkpoint.stored, path)
    except CheckpointError as error:
        if checkpoint.kind != "adapter":
            raise
        return OptimizerState(path, kind, (), (*lines, error.message))
    if unmatched:
        shown = ", ".join(unmatched[:3]) + (" …" if len(unmatched) > 3 else "")
        lines += (f"{len(unmatched)} parameters of the optimizer have no tensor: {shown}",)
    parameters = []
    for group in groups:
        numbers = [n for n in group["params"] if n in entries and names.get(n)]
        settings = _settings(group, file)
        for number in numbers:
            parameters.append(_parameter(names[number], entries[number], settings, file, path))
    return OptimizerState(path, kind, tuple(parameters), lines)


def _is_projector(name: str) -> bool:
    return name.rpartition(".")[2] == "GaLoreProjector"


def _names(
    groups: Sequence[Mapping[str, Any]],
    entries: Mapping[Number, AdamEntry],
    tensors: Sequence[StoredTensor],
    path: Path,
) -> tuple[dict[Number, str], list[str]]:
    """Tensor of every parameter that has state, and names that have no tensor."""
    if not entries:
        return {}, []
    given = {n: name for group in groups for n, name in given_names(group, path)}
    if not all(n in given for n in entries):
        return _names_by_order(groups, entries, tensors, path), []
    wanted = {n: given[n] for n in entries}
    shapes = [entry.shape for entry in entries.values()]
    found = dict(zip(wanted, by_name(list(wanted.values()), shapes, tensors, path), strict=True))
    names = {n: name for n, name in found.items() if name is not None}
    if len(names) < len(found):
        # Files may name a tensor otherwise than the module that was trained (transformers 5).
        with suppress(CheckpointError):
            ordered = _names_by_order(groups, entries, tensors, path)
            if ordered.items() >= names.items():
                return ordered, []
    return names, [wanted[n] for n in found if n not in names]


def _names_by_order(
    groups: Sequence[Mapping[str, Any]],
    entries: Mapping[Number, AdamEntry],
    tensors: Sequence[StoredTensor],
    path: Path,
) -> dict[Number, str]:
    members = [n for group in groups for n in group["params"]]
    places = {number: place for place, number in enumerate(members)}
    ordered = [
        Group(
            tuple(Slot(places[n], entries[n].shape if n in entries else None) for n in g["params"]),
            projected=any(n in entries and entries[n].projection for n in g["params"]),
        )
        for g in groups
    ]
    return {members[p]: name for p, name in by_order(ordered, tensors, path).items()}


def _settings(group: Mapping[str, Any], file: TorchFile) -> dict[str, float | None]:
    betas = group.get("betas")
    beta1, beta2 = betas if isinstance(betas, tuple | list) and len(betas) == 2 else (None, None)
    values = {"beta1": beta1, "beta2": beta2} | {
        key: group.get(key) for key in ("eps", "lr", "weight_decay")
    }
    return {key: _scalar(value, file) for key, value in values.items()}


def _scalar(value: object, file: TorchFile) -> float | None:
    """A number, or the number in a tensor of one element."""
    if isinstance(value, TensorRef) and all(n == 1 for n in value.shape):
        value = stored_scalar(file.locate({"scalar": value})[0])
    return finite(value)


def _parameter(
    name: str,
    entry: AdamEntry,
    settings: dict[str, float | None],
    file: TorchFile,
    path: Path,
) -> ParameterState:
    step = _scalar(entry.step, file)
    if step is not None and (step < 0 or step != int(step)):
        raise broken(path, f"a step of {step} for {name}")
    kept = {
        "exp_avg": entry.exp_avg,
        "exp_avg_sq": entry.exp_avg_sq,
        "left": entry.left,
        "right": entry.right,
    }
    references = {key: tensor for key, tensor in kept.items() if tensor is not None}
    located = zip(references, file.locate(references), strict=True)
    return ParameterState(
        name=name,
        shape=entry.shape,
        step=None if step is None else int(step),
        projected=entry.projection,
        # Errors of a later read name the parameter, not the key under which its state is kept.
        stored={key: replace(tensor, name=f"{name} {key}") for key, tensor in located},
        **settings,
    )
