"""PyTorch's files before 1.6: five pickles, then every storage with its length before it.

The pickles are the magic number, the protocol version, the byte order of the writer, the object
itself and the order of the storages. They are read by the same interpreter as in zip files, so
old files are as lazy and as safe as new ones.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from analyzer.checkpoints.stored import BITS, StoredTensor
from analyzer.checkpoints.torch_pickle import (
    TensorRef,
    TorchFile,
    TorchPickle,
    named_tensors,
    warnings,
)
from analyzer.checkpoints.torch_zip import located
from analyzer.checkpoints.zip_records import unreadable
from analyzer.errors import CorruptFile, UnsupportedFormat

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


def list_torch_legacy(path: Path) -> tuple[list[StoredTensor], tuple[str, ...]]:
    """The weights in a PyTorch file older than 1.6, and warnings.

    Raises CorruptFile, UnsupportedFormat or UnsafePickle.
    """
    file = read_torch_legacy(path)
    tensors = file.locate(named_tensors(file.root, file.pickled))
    return tensors, warnings(file.pickled.unknown)


def read_torch_legacy(path: Path) -> TorchFile:
    """The object in a PyTorch file older than 1.6. Raises CorruptFile or UnsupportedFormat."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _read(path, data)
    except OSError as error:
        raise unreadable(path, error) from None


def _read(path: Path, data: mmap.mmap) -> TorchFile:
    pickled = TorchPickle(path)
    parts: list[Any] = []
    position = 0
    for _ in range(5):
        part, position = pickled.load(data, position)
        parts.append(part)
    magic, protocol, system, root, order = parts
    if (magic, protocol) != (MAGIC, PROTOCOL) or not isinstance(order, list):
        raise _corrupt(path, "not a PyTorch file of protocol 1001")
    if isinstance(system, dict) and system.get("little_endian") is False:
        raise UnsupportedFormat(
            "big-endian numbers", path=path, hint="save it again with torch.save"
        )
    sizes = pickled.storages
    starts: dict[str, int] = {}
    for key in map(str, order):
        storage = sizes.get(key)
        if (
            storage is None
            or int.from_bytes(data[position : position + 8], "little") != storage.numel
        ):
            raise _corrupt(path, f"the storage {key!r} is not where it should be")
        starts[key] = position + 8
        position += 8 + storage.numel * BITS[storage.dtype] // 8
        if position > len(data):
            raise _corrupt(path, f"the file ends before its storage {key!r}")
    return TorchFile(root, pickled, lambda tensors: _locate(path, starts, tensors))


def _locate(
    path: Path, starts: Mapping[str, int], tensors: Mapping[str, TensorRef]
) -> list[StoredTensor]:
    if missing := next((t.key for t in tensors.values() if t.key not in starts), None):
        raise _corrupt(path, f"the storage {missing!r} is missing")
    return [located(name, t, path, starts[t.key]) for name, t in tensors.items()]


def _corrupt(path: Path, what: str) -> CorruptFile:
    return CorruptFile(what, path=path, hint="the file is damaged; download or save it again")
