"""Checkpoint folders written a tensor at a time: model.safetensors and config.json.

The layout is that of https://huggingface.co/docs/safetensors: eight bytes of length, a JSON header,
then the tensors' bytes one after another; here larger elements first, so that all are aligned.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analyzer.checkpoints.safetensors_file import DTYPES
from analyzer.checkpoints.stored import BITS
from analyzer.errors import UsageError

if TYPE_CHECKING:
    import torch

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
Chunks = Iterable[bytes | memoryview]


@dataclass(frozen=True, slots=True)
class Planned:
    """A tensor that is to be written; `dtype` by torch's name."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return -(-math.prod(self.shape) * BITS[self.dtype] // 8)


def write_checkpoint(
    folder: Path,
    tensors: Sequence[Planned],
    read: Callable[[str], Chunks],
    *,
    metadata: Mapping[str, str],
    config: Mapping[str, Any],
) -> None:
    """A folder that is complete or absent; `read` gives the bytes of one tensor at a time.

    Raises UsageError if the folder exists, cannot be written, or safetensors has no such dtype.
    """
    for tensor in tensors:
        if tensor.dtype not in _NAMES:
            raise UsageError(f"safetensors has no dtype {tensor.dtype}", tensor=tensor.name)
    try:
        with complete_or_absent(folder) as partial:
            write_safetensors(partial / "model.safetensors", tensors, read, metadata)
            if config:
                text = json.dumps(config, indent=2) + "\n"
                (partial / "config.json").write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot be written: {error.strerror}", path=folder) from error


@contextmanager
def complete_or_absent(folder: Path) -> Iterator[Path]:
    """A hidden sibling to write into, renamed to `folder` at the end and removed on an error.

    Raises UsageError if `folder` exists.
    """
    if folder.exists():
        raise UsageError("exists already", path=folder, hint="name a new folder")
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def tensor_bytes(tensor: torch.Tensor) -> bytes:
    """The elements of a tensor in row-major order."""
    import torch

    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def write_safetensors(
    path: Path,
    tensors: Sequence[Planned],
    read: Callable[[str], Chunks],
    metadata: Mapping[str, str],
) -> None:
    """One file; equal content gives equal bytes. Raises UsageError for bytes that do not fit."""
    ordered = sorted(tensors, key=lambda tensor: -BITS[tensor.dtype])
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for tensor in ordered:
        start, end = end, end + tensor.nbytes
        header[tensor.name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in ordered:
            written = sum(file.write(chunk) for chunk in read(tensor.name))
            if written != tensor.nbytes:
                raise UsageError(
                    f"{written} bytes for {tensor.nbytes}", path=path, tensor=tensor.name
                )
