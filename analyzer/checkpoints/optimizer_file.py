"""The layout of a saved optimizer: groups of numbered parameters, and a state for each number."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from analyzer.checkpoints.adam_state import AdamEntry, adam_entry
from analyzer.checkpoints.files import refuse_dangling
from analyzer.checkpoints.formats import identify
from analyzer.checkpoints.torch_legacy import read_torch_legacy
from analyzer.checkpoints.torch_pickle import TorchFile
from analyzer.checkpoints.torch_zip import read_torch_zip
from analyzer.errors import CorruptFile, UnsupportedFormat

Number = int | str


def read_optimizer(path: Path) -> TorchFile:
    """The object in an optimizer's file, by the inert interpreter. Raises a CheckpointError."""
    refuse_dangling(path)
    found = identify(path)
    if found == "torch-legacy":
        return read_torch_legacy(path)
    if found == "torch":
        return read_torch_zip(path)
    raise UnsupportedFormat(
        f"a {found} file, not an optimizer's state", path=path, hint="save it with torch.save"
    )


def entries_of(file: TorchFile, path: Path) -> tuple[list[dict[str, Any]], dict[Number, AdamEntry]]:
    """The groups of parameters, and the entries of those that have state.

    Raises UnsupportedFormat if this is no optimizer, or not Adam; CorruptFile if groups and states
    contradict each other.
    """
    root = file.root if isinstance(file.root, dict) else {}
    groups, states = root.get("param_groups"), root.get("state")
    if not isinstance(groups, list) or not isinstance(states, dict):
        raise UnsupportedFormat(
            "no optimizer state: it lacks state and param_groups",
            path=path,
            hint="save optimizer.state_dict() there",
        )
    numbers: set[Number] = set()
    for group in groups:
        members = group.get("params") if isinstance(group, dict) else None
        if not isinstance(members, list) or not all(map(_is_number, members)):
            raise broken(path, "a group without a list of parameters")
        if len(set(members)) < len(members) or numbers & set(members):
            raise broken(path, "a parameter that occurs twice")
        numbers |= set(members)
    entries = {}
    for number, state in states.items():
        if number not in numbers:
            raise broken(path, "state for a parameter that is in no group")
        if not isinstance(state, dict):
            raise broken(path, f"state of parameter {number} that is not a dictionary")
        if state:
            entries[number] = adam_entry(number, state, path)
    return groups, entries


def _is_number(value: object) -> bool:
    # Python refuses to print integers of thousands of digits, as a pickle may hold.
    return isinstance(value, str) or (type(value) is int and 0 <= value < 1 << 31)


def given_names(group: Mapping[str, Any], path: Path) -> list[tuple[Number, str]]:
    """Names that the file gives: torch's `param_names`, or names for numbers as FSDP saves."""
    numbers, names = group["params"], group.get("param_names")
    if names is None:
        return [(n, n) for n in numbers if isinstance(n, str)]
    if (
        not isinstance(names, list)
        or len(names) != len(numbers)
        or not all(isinstance(name, str) for name in names)
    ):
        raise broken(path, "a group whose param_names do not fit its parameters")
    return list(zip(numbers, names, strict=True))


def broken(path: Path, what: str) -> CorruptFile:
    """The error for a file whose parts contradict each other."""
    return CorruptFile(f"it holds {what}", path=path, hint="the file is damaged; save it again")
