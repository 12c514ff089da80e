"""Gradients that a training script saved beside a checkpoint's weights."""

from __future__ import annotations

import re

from analyzer.checkpoints.checkpoint import Checkpoint
from analyzer.checkpoints.files import list_file
from analyzer.checkpoints.matching import match_names
from analyzer.checkpoints.matrices import FLOATS
from analyzer.checkpoints.side_files import side_file
from analyzer.checkpoints.stored import StoredTensor
from analyzer.errors import CheckpointError

# In the order in which one wins over the next.
GRADIENT_FILES = tuple(
    f"{stem}.{suffix}"
    for suffix in ("safetensors", "pt", "bin")
    for stem in ("gradients", "grads", "gradient", "grad")
)
_AFFIX = re.compile(r"^(?:grads?|gradients?)\.|\.grad$")


def saved_gradients(checkpoint: Checkpoint) -> dict[str, StoredTensor]:
    """Tensor name → its gradient, for the gradients beside a checkpoint; {} if there are none.

    Names are those of the parameters, up to wrappers, a prefix ``grad.``, a suffix ``.grad`` and a
    missing ``.weight``; gradients of other names are left out. Read them with
    `analyzer.checkpoints.stored.as_tensor`. Raises CheckpointError if the file cannot be read, if
    no name fits, or if a gradient has another shape than its tensor, holds no floats, or shares
    its tensor with another.
    """
    path = side_file(checkpoint, GRADIENT_FILES)
    if path is None:
        return {}
    gradients = list_file(path).tensors
    shapes = {tensor.name: tensor.shape for tensor in checkpoint.stored}
    plain = {tensor.name: _AFFIX.sub("", tensor.name) for tensor in gradients}
    matched = match_names(shapes, plain.values())
    rest = {name: f"{name}.weight" for name in plain.values() if name not in matched}
    completed = match_names(shapes, rest.values())
    matched |= {name: completed[full] for name, full in rest.items() if full in completed}
    found: dict[str, StoredTensor] = {}
    for gradient in gradients:
        name = matched.get(plain[gradient.name])
        if name is None:
            continue
        if gradient.shape != shapes[name]:
            raise _refused(gradient, f"shape {gradient.shape}, its tensor {shapes[name]}")
        if gradient.dtype not in FLOATS:
            raise _refused(gradient, f"dtype {gradient.dtype}")
        if name in found:
            raise _refused(gradient, f"the same tensor {name} as {found[name].name}")
        found[name] = gradient
    if gradients and not found:
        raise CheckpointError(
            f"no gradient is named after a tensor of the checkpoint: {gradients[0].name}, …",
            path=path,
            hint="name them as model.named_parameters() does",
        )
    return found


def _refused(gradient: StoredTensor, what: str) -> CheckpointError:
    return CheckpointError(
        f"the gradient has {what}",
        path=gradient.path,
        tensor=gradient.name,
        hint="save one floating-point gradient per parameter, in its shape, at the same step",
    )
