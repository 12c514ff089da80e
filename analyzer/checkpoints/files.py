"""One weight file, whatever its format, and the several files of a sharded checkpoint."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from analyzer.checkpoints.formats import Format, identify
from analyzer.checkpoints.json_text import parse_object
from analyzer.checkpoints.safetensors_file import list_safetensors
from analyzer.checkpoints.stored import StoredTensor
from analyzer.checkpoints.zip_records import unreadable
from analyzer.errors import CheckpointError, CorruptFile, MissingShard, UnsafePath

MAX_INDEX = 256 << 20
SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<total>\d{5})(?P<suffix>\.\w+)")
_DOWNLOAD = "download the missing files"
NOWHERE_HINT = "bring its target back, or remove the link"


@dataclass(frozen=True, slots=True)
class Contents:
    """What the weight files of one checkpoint hold."""

    format: Format
    tensors: tuple[StoredTensor, ...]
    warnings: tuple[str, ...]


def list_file(path: Path) -> Contents:
    """The tensors of one weight file. Raises a CheckpointError that says what is wrong."""
    refuse_dangling(path)
    found = identify(path)
    if found == "safetensors":
        return Contents(found, tuple(list_safetensors(path)), ())
    if found == "torch":
        from analyzer.checkpoints.torch_zip import list_torch_zip as read
    elif found == "torch-legacy":
        from analyzer.checkpoints.torch_legacy import list_torch_legacy as read
    else:
        from analyzer.checkpoints.npz import list_npz as read
    tensors, warnings = read(path)
    return Contents(found, tuple(tensors), warnings)


def dangling(path: Path) -> str | None:
    """Where a symbolic link that leads nowhere points, in words; None for everything else."""
    if path.is_symlink() and not path.exists():
        return f"a link to {os.readlink(path)}, which does not exist"
    return None


def refuse_dangling(path: Path) -> None:
    """Raises CheckpointError for a symbolic link that leads nowhere."""
    if nowhere := dangling(path):
        raise CheckpointError(nowhere, path=path, hint=NOWHERE_HINT)


def list_shards(paths: Iterable[Path]) -> Contents:
    """The tensors of several weight files. Raises CorruptFile if two hold one name."""
    parts = [list_file(path) for path in paths]
    tensors = tuple(tensor for part in parts for tensor in part.tensors)
    seen: dict[str, Path] = {}
    for tensor in tensors:
        other = seen.setdefault(tensor.name, tensor.path)
        if other != tensor.path:
            raise CorruptFile(
                f"also in {other.name}: which one is meant is unknown",
                path=tensor.path,
                tensor=tensor.name,
                hint="keep one checkpoint a folder",
            )
    warnings = dict.fromkeys(line for part in parts for line in part.warnings)
    return Contents(parts[0].format, tensors, tuple(warnings))


def list_indexed(index: Path) -> tuple[Contents, tuple[Path, ...]]:
    """The tensors an index file names, and the shards that hold them.

    Raises UnsafePath if a shard is not a bare file name, MissingShard if one is absent,
    CorruptFile if the index and the shards disagree.
    """
    weight_map = _weight_map(index)
    shards = {name: bare(index, name) for name in dict.fromkeys(weight_map.values())}
    for path in shards.values():
        refuse_dangling(path)
        if not path.exists():
            raise MissingShard("the index names this file, it is absent", path=path, hint=_DOWNLOAD)
    parts = {name: list_file(path) for name, path in shards.items()}
    found = {(name, t.name): t for name, part in parts.items() for t in part.tensors}
    for tensor, shard in weight_map.items():
        if (shard, tensor) not in found:
            raise CorruptFile(
                "the index puts this tensor here, the file does not hold it",
                path=shards[shard],
                tensor=tensor,
                hint="index and shards are of different checkpoints; download both again",
            )
    tensors = tuple(t for (shard, name), t in found.items() if weight_map.get(name) == shard)
    warnings = dict.fromkeys(line for part in parts.values() for line in part.warnings)
    contents = Contents(next(iter(parts.values())).format, tensors, tuple(warnings))
    return contents, tuple(shards.values())


def complete_shards(paths: list[Path]) -> list[Path]:
    """The shards of one checkpoint in order. Raises MissingShard if one of them is absent."""
    matches = {path: SHARD.fullmatch(path.name) for path in paths}
    numbered = {int(m["number"]): path for path, m in matches.items() if m}
    totals = {int(m["total"]) for m in matches.values() if m}
    missing = sorted(set(range(1, max(totals) + 1)) - set(numbered))
    if missing or len(totals) > 1:
        raise MissingShard(
            f"of {max(totals)} shards, {missing[:5] or 'some'} are absent",
            path=paths[0].parent,
            hint=_DOWNLOAD,
        )
    return [numbered[number] for number in sorted(numbered)]


def bare(index: Path, name: object) -> Path:
    """The file `name` beside `index`. Raises UnsafePath unless it is a plain file name."""
    if (
        not isinstance(name, str)
        or name in ("", ".", "..")
        or any(character in name for character in "/\\:\0")
    ):
        raise UnsafePath(
            f"the index points outside its folder: {name!r}",
            path=index,
            hint="do not trust this checkpoint",
        )
    return index.parent / name


def _weight_map(index: Path) -> dict[str, str]:
    refuse_dangling(index)
    try:
        if index.stat().st_size > MAX_INDEX:
            raise _bad_index(index, f"is larger than {MAX_INDEX} bytes")
        weight_map = parse_object(index.read_bytes()).get("weight_map")
    except OSError as error:
        raise unreadable(index, error) from None
    except ValueError as error:
        raise _bad_index(index, f"is not valid JSON: {error}") from None
    if not isinstance(weight_map, dict) or not weight_map:
        raise _bad_index(index, "has no weight_map")
    for name in weight_map.values():
        bare(index, name)
    return weight_map


def _bad_index(index: Path, what: str) -> CorruptFile:
    return CorruptFile(f"the index {what}", path=index, hint="download it again")
