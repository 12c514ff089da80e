"""What a file is, told by its first bytes; the extension is only a hint for the error message."""

from __future__ import annotations

import re
import stat
from pathlib import Path
from typing import Literal

from analyzer.checkpoints.zip_records import unreadable, zip_members
from analyzer.errors import CorruptFile, UnsafePickle, UnsupportedFormat

Format = Literal["safetensors", "torch", "torch-legacy", "npz"]

MAX_HEADER = 100_000_000
"""Longest header of a safetensors file, in bytes (the limit of the reference reader)."""

LEGACY_MAGIC = bytes.fromhex("8a0a6cfc9c46f9206aa85019")
"""The number 0x1950a86a20f9469cfc6c as a pickled integer: starts files of PyTorch before 1.6."""

CONVERT = "convert it to safetensors"
_HEAD = 4096

# (first bytes, what the file is, what to do), tried in order.
_REFUSED: tuple[tuple[re.Pattern[bytes], str, str], ...] = tuple(
    (re.compile(pattern, re.DOTALL | re.IGNORECASE), what, hint)
    for pattern, what, hint in (
        (rb"version https://git-lfs", "a git-lfs pointer, not the weights", "run 'git lfs pull'"),
        (rb"GGUF", "a GGUF file", "scan the original checkpoint it was converted from"),
        (rb"\x89HDF\r\n\x1a\n", "an HDF5 file (Keras)", CONVERT),
        (rb"\x93NUMPY", "a single NumPy array", "save named arrays with numpy.savez"),
        (rb"\x1f\x8b|\xfd7zXZ|BZh|\x28\xb5\x2f\xfd", "a compressed file", "decompress it first"),
        (rb".{257}ustar", "a tar archive (or PyTorch before 0.4)", "unpack it, or save it again"),
        (rb"\s*<", "a web page or XML, not a checkpoint", "download it again, signed in if needed"),
        (rb"\s*[{\[]", "JSON text, not weights", "pass the folder that holds the weights"),
        (rb"\x7fELF|MZ", "a program, not a checkpoint", "remove it"),
        (rb"PAR1", "a Parquet table, not a checkpoint", "remove it"),
        (rb"\x08[\x01-\x20](?:\x12|\x3a|\x42)", "an ONNX model", CONVERT),
        (rb"[\x81-\x8f\xde\xdf].{0,4}[\xa1-\xbf\xd9-\xdb]", "a flax msgpack file", CONVERT),
    )
)
_PICKLE = re.compile(rb"\x80[\x02-\x05]|\(dp\d+\n|c[\w.]+\n\w+\n")


def identify(path: Path) -> Format:
    """The format of a checkpoint file.

    Raises UnsupportedFormat, UnsafePickle or CorruptFile, naming what the file is instead, and
    CheckpointError if it cannot be read at all.
    """
    head, size = _first_bytes(path)
    if size == 0:
        raise CorruptFile("the file is empty", path=path, hint="download or save it again")
    if head[8:9] == b"{" and (length := int.from_bytes(head[:8], "little")) < 1 << 48:
        return _safetensors(path, length, size)
    if head[:2] == b"PK":
        return _zip(path)
    if head[:1] == b"\x80" and LEGACY_MAGIC in head[:32]:
        return "torch-legacy"
    if _PICKLE.match(head):
        raise UnsafePickle(
            "a plain Python pickle: loading it could run code",
            path=path,
            hint="save the weights with torch.save or safetensors",
        )
    for pattern, what, hint in _REFUSED:
        if pattern.match(head):
            raise UnsupportedFormat(what, path=path, hint=hint)
    if path.suffix == ".safetensors":
        raise CorruptFile(
            "not a safetensors file: it does not start with a header length and '{'",
            path=path,
            hint="download or save it again",
        )
    raise UnsupportedFormat(
        "not a checkpoint of a known format",
        path=path,
        hint="safetensors, PyTorch and .npz files are read",
    )


def _first_bytes(path: Path) -> tuple[bytes, int]:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UnsupportedFormat("not a regular file", path=path, hint="pass a file or folder")
        with path.open("rb") as file:
            return file.read(_HEAD), status.st_size
    except OSError as error:
        raise unreadable(path, error) from None


def _safetensors(path: Path, length: int, size: int) -> Format:
    if length > MAX_HEADER:
        raise CorruptFile(
            f"the safetensors header claims {length} bytes, more than {MAX_HEADER} are allowed",
            path=path,
            hint="the file is damaged; download or save it again",
        )
    if 8 + length > size:
        raise CorruptFile(
            f"the safetensors header claims {length} bytes, the file has {size}",
            path=path,
            hint="the file is truncated; download or save it again",
        )
    return "safetensors"


def _zip(path: Path) -> Format:
    names = [member.filename for member in zip_members(path)]
    leaves = {name.rpartition("/")[2] for name in names}
    if "constants.pkl" in leaves:
        raise UnsupportedFormat(
            "a TorchScript archive", path=path, hint="save the module's state_dict() instead"
        )
    if "data.pkl" in leaves:
        return "torch"
    if names and all(name.endswith(".npy") for name in names):
        return "npz"
    what = "an empty zip archive" if not names else "a zip archive, but not a checkpoint"
    raise UnsupportedFormat(what, path=path, hint="unpack it first")
