"""Which checkpoint of a collection the others were tuned from."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path

from analyzer.checkpoints.checkpoint import Checkpoint, open_checkpoint
from analyzer.errors import UsageError


def given_base(path: Path, checkpoints: Sequence[Checkpoint]) -> Checkpoint:
    """The checkpoint at `path`, from the collection if it is there. Raises UsageError for an
    adapter, CheckpointError if it cannot be read."""
    real = path.resolve()
    inside = (c for c in checkpoints if real in (c.path.resolve(), *map(Path.resolve, c.files)))
    base = next(inside, None) or open_checkpoint(path)
    if base.kind == "adapter":
        raise UsageError("an adapter cannot be the base", path=path, hint="pass a full checkpoint")
    return base


def find_base(checkpoints: Sequence[Checkpoint], runs: Collection[str]) -> Checkpoint | None:
    """The base of a collection: named so, named by adapters, in one folder with adapter files,
    named by other models' configs, or the only candidate.

    `runs` are the names of the trajectories; a run's own folder holds its result, not its start.
    None where no full checkpoint stands outside the trajectories and several stand inside. Raises
    UsageError, naming the candidates, where several could be meant.
    """
    full = [c for c in checkpoints if c.kind == "full" and c.name not in runs]
    named = [c for c in full if Path(c.name).stem == "base"]
    top = [c for c in named if "/" not in c.name]
    if chosen := _only(top or named, "are named base"):
        return chosen
    adapters = [c for c in checkpoints if c.kind == "adapter"]
    wanted = {_base_name(c, "base_model_name_or_path") for c in adapters}
    if chosen := _only(_called(full, wanted), "are named by adapters"):
        return chosen
    if len(holding := _holding(checkpoints, adapters)) == 1:
        return holding[0]
    origins = [
        origin
        for c in full
        for origin in _called([x for x in full if x is not c], {_base_name(c, "_name_or_path")})
    ]
    if len(names := {c.name for c in origins}) == 1:
        return next(c for c in origins if c.name in names)
    loose = [c for c in full if c.run is None]
    if chosen := _only(loose, "could be the base"):
        return chosen
    everything = [c for c in checkpoints if c.kind == "full"]
    return full[0] if len(everything) == 1 and full else None


def _holding(checkpoints: Sequence[Checkpoint], adapters: Sequence[Checkpoint]) -> list[Checkpoint]:
    """Full checkpoints in whose folder, or a folder within, adapter files lie."""
    full = {c.path: c for c in checkpoints if c.kind == "full"}
    files = (c.path for c in adapters if c.path.is_file())
    nearest = (next((p for p in file.parents if p in full), None) for file in files)
    return [full[folder] for folder in dict.fromkeys(nearest) if folder is not None]


def _only(candidates: Sequence[Checkpoint], what: str) -> Checkpoint | None:
    """The one candidate, None if there is none. Raises UsageError if there are several."""
    if len(candidates) > 1:
        shown = ", ".join(c.name for c in candidates[:8])
        more = f" and {len(candidates) - 8} more" if len(candidates) > 8 else ""
        raise UsageError(
            f"{len(candidates)} checkpoints {what}: {shown}{more}",
            hint="choose one with --base PATH",
        )
    return candidates[0] if candidates else None


def _base_name(checkpoint: Checkpoint, key: str) -> str:
    """Last component, in lower case, of the path or repository a configuration names."""
    value = checkpoint.config.get(key)
    parts = re.split(r"[/\\]", value.rstrip("/\\")) if isinstance(value, str) else [""]
    return parts[-1].lower()


def _called(candidates: Sequence[Checkpoint], wanted: set[str]) -> list[Checkpoint]:
    """Candidates whose folder, or whose repository in a Hugging Face cache, has a wanted name."""
    found = []
    for candidate in candidates:
        parts = candidate.path.absolute().parts
        own = {parts[-1].lower(), Path(parts[-1]).stem.lower()}
        if len(parts) >= 3 and parts[-2] == "snapshots":
            own = {parts[-3].rpartition("--")[2].lower()}
        if own & (wanted - {""}):
            found.append(candidate)
    return found
