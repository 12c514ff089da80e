"""Safetensors: eight bytes of length, a JSON header, then the tensors one after another.

The header is parsed here rather than by the `safetensors` package, so that listing needs neither
torch nor an open handle; the rules are those of the format's reference reader: every byte after
the header belongs to exactly one tensor (https://huggingface.co/docs/safetensors).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from analyzer.checkpoints.formats import MAX_HEADER
from analyzer.checkpoints.json_text import parse_object
from analyzer.checkpoints.stored import BITS, StoredTensor, dense_stride, plausible_shape
from analyzer.checkpoints.zip_records import unreadable
from analyzer.errors import CorruptFile

DTYPES: dict[str, str] = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F6_E2M3": "float6_e2m3", "F6_E3M2": "float6_e3m2", "F4": "float4_e2m1fn_x2",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8",
    "BOOL": "bool", "C64": "complex64",
}  # fmt: skip
"""Name in a header → torch's name."""


def list_safetensors(path: Path) -> list[StoredTensor]:
    """The tensors of a safetensors file, in file order; reads the header alone.

    Raises CorruptFile if the header does not describe the file.
    """
    header, data_start, data_length = _header(path)
    header.pop("__metadata__", None)
    tensors = []
    expected = 0
    entries = [(_offsets(path, name, entry), name, entry) for name, entry in header.items()]
    for (begin, end), name, entry in sorted(entries, key=lambda item: item[0]):
        if begin != expected:
            raise _lie(path, name, f"starts at byte {begin}, the one before ends at {expected}")
        tensors.append(_tensor(path, name, entry, begin, end, data_start))
        expected = end
    if expected != data_length:
        raise CorruptFile(
            f"the tensors end at byte {expected} of {data_length}",
            path=path,
            hint="the file is truncated or has bytes appended; download or save it again",
        )
    return tensors


def read_metadata(path: Path) -> dict[str, str]:
    """What the header says of the file as a whole; {} if nothing. Raises CorruptFile."""
    metadata = _header(path)[0].get("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise CorruptFile("the header's metadata is not text", path=path, hint="save it again")
    return metadata


def _header(path: Path) -> tuple[dict[str, Any], int, int]:
    """Parsed header, byte where the data start, bytes of data."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            text = file.read(length) if length <= MAX_HEADER else b""
            size = file.seek(0, 2)
    except OSError as error:
        raise unreadable(path, error) from None
    if len(text) < length or not text.startswith(b"{"):
        raise CorruptFile("no safetensors header", path=path, hint="download or save it again")
    try:
        return parse_object(text), 8 + length, size - 8 - length
    except ValueError as error:
        raise CorruptFile(
            f"the safetensors header is not valid JSON: {error}",
            path=path,
            hint="download or save it again",
        ) from None


def _offsets(path: Path, name: str, entry: Any) -> tuple[int, int]:
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    if (
        not isinstance(offsets, list)
        or len(offsets) != 2
        or not all(type(offset) is int for offset in offsets)
        or not 0 <= offsets[0] <= offsets[1]
    ):
        raise _lie(path, name, "has no valid data_offsets")
    return offsets[0], offsets[1]


def _tensor(
    path: Path, name: str, entry: dict[str, Any], begin: int, end: int, data_start: int
) -> StoredTensor:
    shape = plausible_shape(entry.get("shape"))
    if shape is None:
        raise _lie(path, name, "has no valid shape")
    stored_as = entry.get("dtype")
    dtype = DTYPES.get(stored_as) if isinstance(stored_as, str) else None
    if dtype is None:
        raise _lie(path, name, f"has the unknown dtype {stored_as!r}")
    bits = math.prod(shape) * BITS[dtype]
    if bits != 8 * (end - begin):
        raise _lie(path, name, f"has shape {shape} and {stored_as}, but {end - begin} bytes")
    if BITS[dtype] < 8 and (not shape or shape[-1] % 2):
        raise _lie(path, name, f"packs two values a byte, but its shape is {shape}")
    if not _encodable(name):
        raise _lie(path, name.encode("utf-8", "replace").decode(), "has a name that is not text")
    return StoredTensor(
        name, shape, dense_stride(shape), dtype, path, data_start + begin, f"{path.name}:{begin}"
    )


def _encodable(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _lie(path: Path, name: str, what: str) -> CorruptFile:
    return CorruptFile(
        f"the header's entry {what}",
        path=path,
        tensor=name,
        hint="the file is damaged; download or save it again",
    )
