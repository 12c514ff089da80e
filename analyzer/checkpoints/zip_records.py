"""The records of a zip archive, and where in the file each one's content starts."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path
from typing import IO

from analyzer.errors import CheckpointError, CorruptFile

_LOCAL_HEADER = 30


def zip_members(path: Path) -> list[zipfile.ZipInfo]:
    """The records of a zip archive, each name once, all within the file.

    Raises CorruptFile otherwise: names that occur twice mean different things to two readers.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
        size = path.stat().st_size
    except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error) as error:
        raise broken_zip(path, f"cannot be listed: {error}") from None
    except OSError as error:
        raise unreadable(path, error) from None
    if len({member.filename for member in members}) < len(members):
        raise broken_zip(path, "names a record twice")
    for member in members:
        if not 0 <= member.header_offset <= size - _LOCAL_HEADER - member.compress_size:
            raise broken_zip(path, f"ends before its record {member.filename!r}")
    return members


def record_start(path: Path, file: IO[bytes], member: zipfile.ZipInfo) -> int:
    """Byte where a record's content starts; only its local header knows how long itself is.

    Raises CorruptFile if the local header is missing or contradicts the archive's directory.
    """
    file.seek(member.header_offset)
    header = file.read(_LOCAL_HEADER)
    if len(header) < _LOCAL_HEADER or header[:4] != b"PK\x03\x04":
        raise broken_zip(path, f"has no header for its record {member.filename!r}")
    if int.from_bytes(header[8:10], "little") != member.compress_type:
        raise broken_zip(path, f"contradicts itself about its record {member.filename!r}")
    lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    start = member.header_offset + _LOCAL_HEADER + lengths
    if start + member.compress_size > file.seek(0, 2):
        raise broken_zip(path, f"ends before its record {member.filename!r}")
    return start


def broken_zip(path: Path, what: str) -> CorruptFile:
    """The error for an archive whose parts do not agree."""
    hint = "the file is truncated or damaged; download or save it again"
    return CorruptFile(f"the zip archive {what}", path=path, hint=hint)


def unreadable(path: Path, error: OSError) -> CheckpointError:
    """The error to raise where the operating system refuses to open or read a file."""
    return CheckpointError(
        f"cannot be read: {error.strerror or error}", path=path, hint="check its permissions"
    )
