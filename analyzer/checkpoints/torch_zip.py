"""PyTorch's zip files (`torch.save` since 1.6): a pickle and one uncompressed record a storage."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from analyzer.checkpoints.stored import BITS, StoredTensor
from analyzer.checkpoints.torch_pickle import (
    TensorRef,
    TorchFile,
    TorchPickle,
    named_tensors,
    warnings,
)
from analyzer.checkpoints.zip_records import record_start, unreadable, zip_members
from analyzer.errors import CorruptFile, UnsupportedFormat

MAX_PICKLE = 512 << 20
_RESAVE = "save it again with torch.save"


def list_torch_zip(path: Path) -> tuple[list[StoredTensor], tuple[str, ...]]:
    """The weights in a PyTorch zip file and warnings; nothing the file names is imported.

    Raises CorruptFile, UnsupportedFormat or UnsafePickle. A compressed record is refused: mapping
    one reads its compressed bytes as numbers.
    """
    file = read_torch_zip(path)
    tensors = file.locate(named_tensors(file.root, file.pickled))
    return tensors, warnings(file.pickled.unknown)


def read_torch_zip(path: Path) -> TorchFile:
    """The object in a PyTorch zip file. Raises CorruptFile or UnsupportedFormat."""
    members = {member.filename: member for member in zip_members(path)}
    pickles = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise _corrupt(path, f"{len(pickles)} records named data.pkl, one is expected")
    for member in members.values():
        if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
            raise CorruptFile(
                f"the record {member.filename} is compressed",
                path=path,
                hint="PyTorch never writes this; unpack and zip it with 'zip -0'",
            )
    root = pickles[0].removesuffix("/data.pkl")
    try:
        with path.open("rb") as file:
            pickled = TorchPickle(path)
            content, _ = pickled.load(_pickle(path, file, root, members))
    except OSError as error:
        raise unreadable(path, error) from None
    return TorchFile(content, pickled, lambda tensors: _locate(path, root, members, tensors))


def _pickle(path: Path, file: BinaryIO, root: str, members: dict[str, zipfile.ZipInfo]) -> bytes:
    order = members.get(f"{root}/byteorder")
    if order is not None and _content(path, file, order) != b"little":
        raise UnsupportedFormat("big-endian numbers", path=path, hint=_RESAVE)
    member = members[f"{root}/data.pkl"]
    if member.file_size > MAX_PICKLE:
        raise _corrupt(path, f"data.pkl is larger than {MAX_PICKLE} bytes")
    return _content(path, file, member)


def _locate(
    path: Path, root: str, members: dict[str, zipfile.ZipInfo], tensors: Mapping[str, TensorRef]
) -> list[StoredTensor]:
    starts: dict[str, int] = {}
    found = []
    try:
        with path.open("rb") as file:
            for name, tensor in tensors.items():
                if tensor.key not in starts:
                    member = members.get(f"{root}/data/{tensor.key}")
                    starts[tensor.key] = _storage_start(path, file, name, tensor, member)
                found.append(located(name, tensor, path, starts[tensor.key]))
    except OSError as error:
        raise unreadable(path, error) from None
    return found


def located(name: str, tensor: TensorRef, path: Path, storage_start: int) -> StoredTensor:
    """A tensor whose storage starts at byte `storage_start` of `path`."""
    return StoredTensor(
        name,
        tensor.shape,
        tensor.stride,
        tensor.dtype,
        path,
        storage_start + tensor.offset * BITS[tensor.dtype] // 8,
        f"{path.name}:{tensor.key}+{tensor.offset}",
    )


def _storage_start(
    path: Path, file: BinaryIO, name: str, tensor: TensorRef, member: zipfile.ZipInfo | None
) -> int:
    if member is None:
        raise _corrupt(path, f"the storage {tensor.key!r} of {name} is missing")
    if member.file_size < tensor.numel * BITS[tensor.dtype] // 8:
        raise _corrupt(path, f"the storage {tensor.key!r} of {name} is shorter than it claims")
    return record_start(path, file, member)


def _content(path: Path, file: BinaryIO, member: zipfile.ZipInfo) -> bytes:
    file.seek(record_start(path, file, member))
    return file.read(member.file_size)


def _corrupt(path: Path, what: str) -> CorruptFile:
    return CorruptFile(what, path=path, hint="the file is damaged; download or save it again")
