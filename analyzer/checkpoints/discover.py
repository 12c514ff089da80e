"""A folder of checkpoints: what is there, what could not be read, and which is the base."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from analyzer.checkpoints.base import find_base, given_base
from analyzer.checkpoints.beside import beside
from analyzer.checkpoints.checkpoint import Checkpoint, open_checkpoint, placed
from analyzer.checkpoints.files import NOWHERE_HINT, dangling
from analyzer.checkpoints.folder import (
    ACTIVATIONS_FORMAT,
    MODEL_FILES,
    RECORDS_FOLDER,
    entry_names,
    foreign_layout,
    is_checkpoint_folder,
    is_weight_file,
)
from analyzer.checkpoints.safetensors_file import read_metadata
from analyzer.checkpoints.steps import run_and_step, step_of
from analyzer.errors import CheckpointError, NothingToScan, UsageError

MAX_DEPTH = 6


@dataclass(frozen=True, slots=True)
class Refusal:
    """A file or folder that looks like a checkpoint and could not be read."""

    path: Path
    reason: str
    hint: str | None


@dataclass(frozen=True, slots=True)
class Collection:
    """The checkpoints below `root`, the base among them; trajectories by run, steps ascending."""

    root: Path
    base: Checkpoint | None
    checkpoints: tuple[Checkpoint, ...]
    trajectories: dict[str, tuple[Checkpoint, ...]]
    refusals: tuple[Refusal, ...]

    def pairs(self) -> list[tuple[Checkpoint, Checkpoint]]:
        """(base, tuned) for every checkpoint but the base; empty without a base."""
        if self.base is None:
            return []
        return [(self.base, tuned) for tuned in self.checkpoints if tuned is not self.base]


def discover(
    path: str | Path,
    base: str | Path | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> Collection:
    """Every checkpoint below `path` (or at it), read no further than its headers.

    `include` and `exclude` are globs on names relative to `path`; a pattern also covers what lies
    below it, and the base is kept whatever `include` says. A checkpoint that cannot be read
    becomes a refusal. Raises UsageError (no such path, several possible bases), NothingToScan.
    """
    root = Path(path)
    if nowhere := dangling(root):
        raise UsageError(nowhere, path=root, hint=NOWHERE_HINT)
    if not root.exists():
        raise UsageError("no such file or folder", path=root, hint="check the spelling")
    found: list[Checkpoint] = []
    refusals: dict[Path, Refusal] = {}
    for place, is_checkpoint in _candidates(root):
        if _matches(_name(root, place), exclude):
            continue
        opened, errors = _opened(root, place, exclude, is_checkpoint=is_checkpoint)
        found += [_placed(checkpoint, root) for checkpoint in opened]
        for error in errors:
            where = Path(_text(str(error.path or place)))
            refusals.setdefault(where, Refusal(where, _reason(error), error.hint))
    found = _deduplicated(sorted(found, key=_order))
    runs = {c.run for c in found if c.run is not None}
    chosen = (
        given_base(_base_path(Path(base), root), found)
        if base is not None
        else find_base(found, runs)
    )
    return _collection(root, found, chosen, include, tuple(refusals.values()))


def _opened(
    root: Path, place: Path, exclude: Sequence[str], *, is_checkpoint: bool
) -> tuple[list[Checkpoint], list[CheckpointError]]:
    """The checkpoint at `place` and the adapters in its folder, and what could not be read."""
    opened: list[Checkpoint] = []
    errors: list[CheckpointError] = []
    try:
        opened += [open_checkpoint(place)] if is_checkpoint else []
    except CheckpointError as error:
        errors.append(error)
    if place.is_dir():
        main = opened[0] if opened else None
        others = beside(place, main, lambda path: not _matches(_name(root, path), exclude))
        if main and others.warning:
            opened[0] = replace(main, warnings=(*main.warnings, others.warning))
        opened += others.adapters
        errors += others.errors
    return opened, errors


def _collection(
    root: Path,
    found: list[Checkpoint],
    chosen: Checkpoint | None,
    include: Sequence[str],
    refusals: tuple[Refusal, ...],
) -> Collection:
    """The parts put together: the base first, the rest in order of run and step."""
    rest = [c for c in found if c is not chosen and (not include or _matches(c.name, include))]
    if chosen is not None:
        taken = {c.name for c in rest}
        name = chosen.name if chosen.name not in taken else str(chosen.path)
        chosen = placed(chosen, name=name, kind="base", run=None, step=chosen.step)
    kept = ([chosen] if chosen is not None else []) + rest
    if not kept or (include and not any(_matches(c.name, include) for c in kept)):
        raise _nothing(root, refusals, include)
    trajectories: dict[str, list[Checkpoint]] = defaultdict(list)
    for checkpoint in rest:
        if checkpoint.run is not None:
            trajectories[checkpoint.run].append(checkpoint)
    steps = {run: tuple(members) for run, members in sorted(trajectories.items())}
    return Collection(root, chosen, tuple(kept), steps, refusals)


def _base_path(base: Path, root: Path) -> Path:
    """As given, or a name below the root as the pairing prints it."""
    return base if base.exists() or dangling(base) else root / base


def _candidates(root: Path) -> Iterator[tuple[Path, bool]]:
    """Folders and loose files that should be checkpoints, each real folder once; and, told apart
    by False, folders within a checkpoint, which may hold adapters."""
    if not root.is_dir():
        yield root, True
        return
    seen: set[tuple[int, int]] = set()
    pending = [(root, 0, False)]
    while pending:
        folder, depth, inside = pending.pop()
        try:
            status = folder.stat()
            names = entry_names(folder)
        except (OSError, CheckpointError):
            continue
        if (status.st_dev, status.st_ino) in seen or folder.name == RECORDS_FOLDER:
            continue
        seen.add((status.st_dev, status.st_ino))
        is_step = step_of(folder.name) is not None
        own = is_checkpoint_folder(names, step_folder=is_step)
        if own and (not inside or _stands_alone(folder.name, names, is_step=is_step)):
            yield folder, True
        elif not inside and not own:
            yield from ((folder / n, True) for n in sorted(names) if _is_loose(folder / n))
        elif not own:
            yield folder, False
        if depth < MAX_DEPTH and foreign_layout(names) is None:
            below = sorted(name for name in names if (folder / name).is_dir())
            pending += [(folder / name, depth + 1, own or inside) for name in reversed(below)]


def _stands_alone(name: str, names: set[str], *, is_step: bool) -> bool:
    """Whether a folder below a checkpoint is one too: a training step, a further adapter or a
    model, but not a module of it (``2_Dense`` of sentence-transformers) or a copy for resuming."""
    if foreign_layout(names) is not None:
        return False
    model = any(n in names for n in MODEL_FILES) and "config.json" in names
    return is_step or "adapter_config.json" in names or (model and not name[0].isdigit())


def _is_loose(path: Path) -> bool:
    """Whether a path is a checkpoint by itself, or a link to one that is gone."""
    weights = is_weight_file(path.name) and not _holds_activations(path)
    return (weights and path.is_file()) or (
        (weights or step_of(path.name) is not None) and dangling(path) is not None
    )


def _holds_activations(path: Path) -> bool:
    """Whether a file holds hidden states rather than weights; False if it cannot be read."""
    if path.suffix != ".safetensors" or not path.is_file():
        return False
    try:
        return read_metadata(path).get("format", "").startswith(ACTIVATIONS_FORMAT)
    except CheckpointError:
        return False


def _placed(checkpoint: Checkpoint, root: Path) -> Checkpoint:
    """Named relative to the root, with the run and step its place tells."""
    top = _text(root.resolve().name)
    name = _name(root, checkpoint.path)
    run, step = run_and_step(name, top)
    if checkpoint.step is not None:
        step = checkpoint.step
    return placed(checkpoint, name=name, kind=checkpoint.kind, run=run, step=step)


def _name(root: Path, path: Path) -> str:
    relative = path.relative_to(root).as_posix()
    return _text(root.resolve().name if relative == "." else relative)


def _text(name: str) -> str:
    """A file name as text, whatever bytes it is made of."""
    return os.fsencode(name).decode("utf-8", "replace")


def _deduplicated(checkpoints: list[Checkpoint]) -> list[Checkpoint]:
    """The same checkpoints; a name that occurs before gets the path, which is unique."""
    seen: set[str] = set()
    unique = []
    for checkpoint in checkpoints:
        if checkpoint.name in seen:
            name = _text(str(checkpoint.path))
            checkpoint = placed(
                checkpoint,
                name=name,
                kind=checkpoint.kind,
                run=checkpoint.run,
                step=checkpoint.step,
            )
        seen.add(checkpoint.name)
        unique.append(checkpoint)
    return unique


def _order(checkpoint: Checkpoint) -> tuple[str, int, str]:
    step = checkpoint.step if checkpoint.step is not None else -1
    return checkpoint.run or checkpoint.name, step, checkpoint.name


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, p) or fnmatchcase(name, f"{p.rstrip('/')}/*") for p in patterns)


def _reason(error: CheckpointError) -> str:
    return f"{error.tensor}: {error.message}" if error.tensor else error.message


def _nothing(root: Path, refusals: Sequence[Refusal], include: Sequence[str]) -> NothingToScan:
    if include:
        text = f"no checkpoint matches {', '.join(include)}"
        return NothingToScan(text, path=root, hint="leave --include out to see their names")
    if not refusals:
        return NothingToScan(
            "no checkpoints here", path=root, hint="pass a folder with .safetensors or .bin files"
        )
    listed = "; ".join(
        f"{r.path}: {r.reason}" + (f" ({r.hint})" if r.hint else "") for r in refusals[:8]
    )
    more = f"; and {len(refusals) - 8} more" if len(refusals) > 8 else ""
    return NothingToScan(f"no checkpoint can be read: {listed}{more}", path=root)
