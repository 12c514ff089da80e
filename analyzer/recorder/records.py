"""Files of recorded steps: written whole or not at all, read one matrix at a time."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from analyzer.checkpoints.folder import RECORDS_FOLDER
from analyzer.checkpoints.json_text import parse_object
from analyzer.checkpoints.safetensors_file import list_safetensors
from analyzer.errors import CheckpointError, CorruptFile, UnsupportedFormat, UsageError
from analyzer.recorder.schema import (
    FORMAT,
    METADATA_KEY,
    VERSION,
    Arrays,
    Entry,
    Header,
    NoiseArrays,
    Record,
    from_json,
    to_json,
)

_NAME = re.compile(r"step-\d{8,15}\.safetensors")
_HINT = "delete it; the other steps can be read without it"


def list_records(folder: str | Path) -> list[Path]:
    """The recorded steps of a run, ascending; `folder` is the run's or the records' own.

    Raises UsageError if there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UsageError("no such folder", path=folder, hint="check the spelling")
    if (folder / RECORDS_FOLDER).is_dir():
        folder = folder / RECORDS_FOLDER
    return sorted(
        (path for path in folder.iterdir() if _NAME.fullmatch(path.name)), key=step_of_record
    )


def step_of_record(path: Path) -> int:
    """The step in the name of a record's file."""
    return int(path.stem.removeprefix("step-"))


def write_record(folder: Path, record: Record) -> Path:
    """Write one step below `folder`, under its name only when it is complete."""
    folder = folder / RECORDS_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{record.header.step:08d}.safetensors"
    tensors: dict[str, NDArray] = {}
    for (batch, name), arrays in record.arrays.items():
        tensors[f"{batch}/{name}/sigma"] = arrays.sigma
        tensors[f"{batch}/{name}/basis"] = arrays.basis
        tensors[f"{batch}/{name}/sketch"] = arrays.sketch
    for name, noise in record.noise.items():
        tensors[f"noise/{name}/cv"] = noise.cv
        tensors[f"noise/{name}/out"] = noise.out
    partial = folder / f".{path.name}.{os.getpid()}.partial"
    try:
        save_file(
            {key: np.ascontiguousarray(x) for key, x in tensors.items()},
            partial,
            metadata={METADATA_KEY: to_json(record.header)},
        )
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


@dataclass(frozen=True, slots=True)
class RecordFile:
    """A recorded step on disk: the header in memory, the arrays read when they are asked for."""

    path: Path
    header: Header

    def arrays(self, entry: Entry) -> Arrays | None:
        """The arrays of an entry, None where there was no finite non-zero gradient."""
        if entry.method is None:
            return None
        prefix = f"{entry.batch}/{entry.name}/"
        found = self._read(
            prefix, ("sigma", np.float64), ("basis", np.float32), ("sketch", np.float32)
        )
        arrays = Arrays(**found)
        height = entry.rows if entry.side == "left" else entry.cols
        width = (self.header.sketch_width,)
        if arrays.basis.shape != (height, arrays.sigma.size) or arrays.sketch.shape != width:
            raise CorruptFile(
                f"basis {arrays.basis.shape} or sketch {arrays.sketch.shape} is of another size",
                path=self.path,
                tensor=entry.name,
                hint=_HINT,
            )
        return arrays

    def noise_arrays(self, name: str) -> NoiseArrays:
        """The arrays of the noise entry of a matrix."""
        return NoiseArrays(**self._read(f"noise/{name}/", ("cv", np.float64), ("out", np.float64)))

    def _read(self, prefix: str, *parts: tuple[str, type]) -> dict[str, NDArray]:
        found: dict[str, NDArray] = {}
        try:
            with safe_open(self.path, framework="np") as file:
                for part, dtype in parts:
                    array = file.get_tensor(prefix + part)
                    if array.dtype != dtype or not np.isfinite(array).all():
                        raise CorruptFile(
                            f"holds {array.dtype}, or NaN or infinity",
                            path=self.path,
                            tensor=prefix + part,
                            hint=_HINT,
                        )
                    found[part] = array
        except (SafetensorError, OSError) as error:
            raise CorruptFile(str(error), path=self.path, tensor=prefix, hint=_HINT) from None
        return found


def open_record(path: str | Path) -> RecordFile:
    """A recorded step, of which only the header is read.

    Raises CorruptFile for a truncated or inconsistent file, UnsupportedFormat for a safetensors
    file that is something else or of a later version.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError("no such file", path=path, hint="check the spelling")
    list_safetensors(path)  # raises CorruptFile if the header does not describe the file
    try:
        with safe_open(path, framework="np") as file:
            metadata: Mapping[str, str] = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise CorruptFile(str(error), path=path, hint=_HINT) from None
    if METADATA_KEY not in metadata:
        raise UnsupportedFormat(
            "a safetensors file without recorded gradients",
            path=path,
            hint=f"pass a file of a folder {RECORDS_FOLDER}",
        )
    try:
        value = parse_object(metadata[METADATA_KEY].encode())
    except ValueError as error:
        raise _bad(path, str(error)) from None
    if value.get("format") != FORMAT or value.get("version") != VERSION:
        raise UnsupportedFormat(
            f"{value.get('format')!r} version {value.get('version')!r}, expected {FORMAT!r} "
            f"version {VERSION}",
            path=path,
            hint="update the analyzer, or record again",
        )
    try:
        return RecordFile(path, from_json(value))
    except ValueError as error:
        raise _bad(path, str(error)) from None


def read_record(path: str | Path) -> Record:
    """One recorded step with all its arrays. Raises what `open_record` and its arrays raise."""
    file = open_record(path)
    entries = ((entry, file.arrays(entry)) for entry in file.header.entries)
    return Record(
        header=file.header,
        arrays={(entry.batch, entry.name): found for entry, found in entries if found is not None},
        noise={noise.name: file.noise_arrays(noise.name) for noise in file.header.noise},
    )


def _bad(path: Path, what: str) -> CorruptFile:
    return CorruptFile(f"the record's header is not valid: {what}", path=path, hint=_HINT)
