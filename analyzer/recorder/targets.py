"""Which parameters of a model are recorded, under which names, and in which layout."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from analyzer.checkpoints.names import describe
from analyzer.errors import UsageError

Layout = Literal["matrix", "conv", "transposed"]
_WRAPPERS = {"DistributedDataParallel", "DataParallel", "DeepSpeedEngine"}
# Heads of models that classify: maps to labels, which sit outside the blocks.
_HEAD = re.compile(
    r"(?:^|\.)(?:classifier(?:\.\w+)?|classification_head\.\w+|score|qa_outputs|heads?(?:\.head)?)$"
    r"|^fc$"
)


@dataclass(frozen=True, slots=True)
class Target:
    """A parameter whose gradient is recorded as a matrix (rows, cols) = (out, in)."""

    name: str  # as model.named_parameters() and so a checkpoint's tensor names have it
    parameter: nn.Parameter
    rows: int
    cols: int
    layout: Layout
    owner: nn.Module
    attribute: str  # owner.attribute is the parameter

    def matrix(self, gradient: Tensor) -> Tensor:
        """`gradient` as a detached (rows, cols) matrix in float32 or float64, never changed."""
        G = gradient.detach()
        if G.layout is not torch.strided:
            G = G.to_dense()
        if self.layout == "transposed":
            G = G.T
        G = G.reshape(self.rows, self.cols)
        return G if G.dtype in (torch.float32, torch.float64) else G.float()


def find_targets(
    model: nn.Module, pattern: str | None, among: set[int] | None
) -> tuple[Target, ...]:
    """The matrices of `model` that train, tied ones once under their first name.

    Without a `pattern`: weights of two dimensions and convolution kernels, (out, in·kh·kw), of at
    least 2×2, but no embeddings and no output heads. With one: all such weights whose name it
    matches somewhere. `among` holds the ids of the parameters of the optimizer.
    Raises UsageError for a sharded parameter, a bad pattern, or if nothing is left.
    """
    inner = unwrap(model)
    _refuse_sharded(inner)
    try:
        wanted = None if pattern is None else re.compile(pattern)
    except re.error as error:
        raise UsageError(f"targets={pattern!r} is no regular expression: {error}") from None
    embeddings = _embeddings_and_heads(inner)
    found = []
    for name, parameter, owner, attribute in _parameters(inner):
        if not parameter.requires_grad or (among is not None and id(parameter) not in among):
            continue
        if wanted is None and (id(parameter) in embeddings or _is_outside_blocks(name)):
            continue
        if wanted is not None and not wanted.search(name):
            continue
        if (target := _target(name, parameter, owner, attribute)) is not None:
            found.append(target)
    if not found:
        raise UsageError(
            f"no matrix to record{'' if pattern is None else f' matches {pattern!r}'}",
            hint="targets takes a regular expression on names of trainable weights; with several "
            "optimizers, pass the one that trains them",
        )
    return tuple(found)


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside torch.compile and data-parallel wrappers, whose names a checkpoint has."""
    while True:
        if isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        elif type(model).__name__ in _WRAPPERS and isinstance(model.module, nn.Module):
            model = model.module
        else:
            return model


def is_compiled(model: nn.Module) -> bool:
    """Whether torch.compile has taken any part of the model."""
    return any(
        hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
        for module in model.modules()
    )


def _parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter, nn.Module, str]]:
    """(name, parameter, owner, attribute) in the order of named_parameters(), each once."""
    seen: set[int] = set()
    for prefix, owner in model.named_modules():
        for attribute, parameter in owner.named_parameters(recurse=False):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                name = f"{prefix}.{attribute}" if prefix else attribute
                yield name.replace("_orig_mod.", ""), parameter, owner, attribute


def _target(name: str, parameter: nn.Parameter, owner: nn.Module, attribute: str) -> Target | None:
    layout: Layout = "matrix"
    rows, cols = parameter.shape[0] if parameter.ndim else 1, math.prod(parameter.shape[1:])
    if isinstance(owner, _ConvNd) and parameter.ndim >= 3:
        layout = "conv"
    elif parameter.ndim != 2:
        return None
    elif type(owner).__name__ == "Conv1D" and attribute == "weight":  # transformers: (in, out)
        layout, rows, cols = "transposed", cols, rows
    if min(rows, cols) < 2:
        return None
    return Target(name, parameter, rows, cols, layout, owner, attribute)


def _embeddings_and_heads(model: nn.Module) -> set[int]:
    """ids of weights that are embeddings, tied to one, or what the model calls its output."""
    found = {
        id(module.weight)
        for module in model.modules()
        if isinstance(module, nn.Embedding | nn.EmbeddingBag)
    }
    get_output = getattr(model, "get_output_embeddings", None)
    try:
        output = get_output() if callable(get_output) else None
    except (AttributeError, NotImplementedError):  # a base class that leaves it to its children
        output = None
    weight = getattr(output, "weight", None)
    return found if weight is None else found | {id(weight)}


def _is_outside_blocks(name: str) -> bool:
    place = describe(name)
    if place.role in ("embed", "unembed"):
        return True
    return place.layer is None and _HEAD.search(name.rpartition(".")[0]) is not None


def _refuse_sharded(model: nn.Module) -> None:
    """A shard is no matrix, and gathering one is a collective operation on all ranks."""
    for prefix, module in model.named_modules():
        if type(module).__name__ == "FullyShardedDataParallel":
            raise _sharded(prefix or "the model", "FSDP")
    for name, parameter in model.named_parameters():
        if hasattr(parameter, "ds_id"):
            raise _sharded(name, "DeepSpeed ZeRO-3")
        if hasattr(parameter, "_is_flat_param") or type(parameter).__name__ == "FlatParameter":
            raise _sharded(name, "FSDP")
        if hasattr(parameter, "device_mesh") and hasattr(parameter, "placements"):
            raise _sharded(name, "DTensor")


def _sharded(name: str, by: str) -> UsageError:
    return UsageError(
        f"is sharded ({by}), so that its gradient is not whole on any rank",
        tensor=name,
        hint="record with data parallelism that keeps whole parameters, or on one device",
    )
