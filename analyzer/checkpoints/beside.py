"""Weight files in a checkpoint's folder that are not part of it: adapters, and what is not read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from analyzer.checkpoints.checkpoint import Checkpoint, open_checkpoint
from analyzer.checkpoints.files import SHARD
from analyzer.checkpoints.folder import ADAPTER_FILES, WEIGHT_SUFFIXES, entry_names, is_weight_file
from analyzer.errors import CheckpointError

# Stems under which transformers and diffusers keep one model in several formats.
_MODEL_STEMS = ("model", "pytorch_model", "diffusion_pytorch_model")
_SHOWN = 4


@dataclass(frozen=True, slots=True)
class Beside:
    """Adapters that lie beside a checkpoint, errors of those that cannot be read, and the names
    of other weight files."""

    adapters: tuple[Checkpoint, ...]
    errors: tuple[CheckpointError, ...]
    unread: tuple[str, ...]

    @property
    def warning(self) -> str | None:
        """The files that are left alone, in one line."""
        if not self.unread:
            return None
        more = len(self.unread) - _SHOWN
        names = ", ".join(self.unread[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
        one = len(self.unread) == 1
        return f"also holds {names}, which {'is' if one else 'are'} not read: pass " + (
            "it by name" if one else "them by name"
        )


def beside(folder: Path, checkpoint: Checkpoint | None, wanted: Callable[[Path], bool]) -> Beside:
    """What else lies in the `folder` of `checkpoint` (None if it could not be read).

    Copies of the same weights in another format are passed over, and so are files that are not
    `wanted`. Only headers are read.
    """
    used = {path.name for path in checkpoint.files} if checkpoint else set()
    formats: dict[str, str] = {_stem(name): Path(name).suffix for name in used}
    adapters, errors, unread = [], [], []
    for name in _weight_files(folder):
        stem, suffix = _stem(name), Path(name).suffix
        if name in used or formats.get(stem, suffix) != suffix or not wanted(folder / name):
            continue
        try:
            found = open_checkpoint(folder / name)
        except CheckpointError as error:
            if name in ADAPTER_FILES:
                errors.append(error)
            else:
                unread.append(name)
            continue
        if found.kind == "adapter":
            adapters.append(found)
            formats[stem] = suffix
        else:
            unread.append(name)
    return Beside(tuple(adapters), tuple(errors), tuple(unread))


def _weight_files(folder: Path) -> Iterator[str]:
    """Names of weight files in formats that are read, safetensors first, then by name."""
    names = (name for name in entry_names(folder) if is_weight_file(name))
    for name in sorted(names, key=lambda name: (not name.endswith(".safetensors"), name)):
        if name.lower().endswith(WEIGHT_SUFFIXES) and not (folder / name).is_dir():
            yield name


def _stem(name: str) -> str:
    """The name without ending and shard number; one stem for all usual names of a model."""
    shard = SHARD.fullmatch(name)
    stem = shard["stem"] if shard else Path(name.removesuffix(".index.json")).stem
    return _MODEL_STEMS[0] if stem in _MODEL_STEMS else stem
