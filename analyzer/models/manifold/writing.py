"""Writing a checkpoint like another one, and what its file says of where it comes from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from analyzer.checkpoints.checkpoint import Checkpoint
from analyzer.checkpoints.stored import StoredTensor
from analyzer.checkpoints.writing import Planned, tensor_bytes, write_checkpoint
from analyzer.errors import AnalysisError, UsageError
from analyzer.models.manifold.features import Read
from analyzer.models.manifold.geometry import Progress

if TYPE_CHECKING:
    import torch

Array = NDArray[np.float64]


def new_folder(folder: str | Path) -> Path:
    """A folder that does not exist yet, its parent made, before anything long begins."""
    target = Path(folder)
    if target.exists():
        raise UsageError("exists already", path=target, hint="name a new folder")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot be written: {error.strerror}", path=target) from None
    return target


def write_like(
    folder: str | Path,
    like: Checkpoint,
    read: Read,
    metadata: Mapping[str, str],
    progress: Progress | None = None,
) -> Path:
    """Tensors named, shaped and typed as in `like`, with its config. Raises UsageError if the
    folder exists or cannot be written."""
    planned = [Planned(tensor.name, tensor.dtype, tensor.shape) for tensor in like.stored]
    done = 0

    def chunks(name: str) -> Iterator[bytes | memoryview]:
        nonlocal done
        yield tensor_bytes(read(name))
        done += 1
        if progress is not None:
            progress(done, len(planned))

    target = Path(folder)
    header = {"format": "pt", **metadata}
    write_checkpoint(target, planned, chunks, metadata=header, config=like.config)
    return target


def as_stored(values: Array, tensor: StoredTensor) -> torch.Tensor:
    """Numbers in the dtype of a stored tensor. Raises AnalysisError where they overflow it."""
    import torch

    result = torch.from_numpy(np.ascontiguousarray(values)).to(getattr(torch, tensor.dtype))
    if not torch.isfinite(result).all():
        raise AnalysisError(f"the result overflows {tensor.dtype}", tensor=tensor.name)
    return result


def described(
    method: str,
    sources: Sequence[Checkpoint],
    base: Checkpoint | None,
    options: Mapping[str, object],
) -> dict[str, str]:
    """Metadata of the file: the method, its options, and what it was made from."""
    listed = [{"name": one.name, "sha256": source_sha256(one)} for one in sources]
    text = {"method": method, "sources": json.dumps(listed), "options": json.dumps(options)}
    if base is not None:
        text["base"] = json.dumps({"name": base.name, "sha256": source_sha256(base)})
    return text


def source_sha256(checkpoint: Checkpoint) -> str:
    """SHA-256 over the sorted names of all tensors and the hashes of their contents."""
    digest = hashlib.sha256()
    for name in sorted(tensor.name for tensor in checkpoint.stored):
        digest.update(f"{name}:{checkpoint.content_sha256(name)}\n".encode())
    return digest.hexdigest()
