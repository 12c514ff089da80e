"""Which files of a folder are the checkpoint, and what its small JSON files say."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analyzer.checkpoints.files import (
    SHARD,
    Contents,
    complete_shards,
    dangling,
    list_file,
    list_indexed,
    list_shards,
)
from analyzer.checkpoints.json_text import parse_object
from analyzer.errors import CheckpointError, CorruptFile, UnsupportedFormat

# In the order in which one wins over the next; a model wins over an adapter beside it.
ADAPTER_FILES = (
    "adapter_model.safetensors", "adapter_model.bin", "adapters.safetensors",
    "pytorch_lora_weights.safetensors", "pytorch_lora_weights.bin",
)  # fmt: skip
MODEL_FILES = (
    "model.safetensors", "model.safetensors.index.json",
    "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.safetensors.index.json",
    "pytorch_model.bin", "pytorch_model.bin.index.json",
    "diffusion_pytorch_model.bin", "diffusion_pytorch_model.bin.index.json",
    "consolidated.safetensors", "consolidated.00.pth",
)  # fmt: skip
# File or folder names that identify a layout which is not read, with what to do about it.
_LAYOUTS: tuple[tuple[re.Pattern[str], str, str], ...] = tuple(
    (re.compile(pattern), what, hint)
    for pattern, what, hint in (
        (
            r".*\.distcp",
            "a PyTorch distributed checkpoint (DCP)",
            "run 'python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER out.pt'",
        ),
        (
            r"zero_to_fp32\.py|(bf16_)?zero_pp_rank_.*|mp_rank_.*",
            "a DeepSpeed checkpoint",
            "run its zero_to_fp32.py, or save with stage3_gather_16bit_weights_on_model_save",
        ),
        (
            r"_METADATA|_CHECKPOINT_METADATA",
            "an orbax checkpoint",
            "export it to safetensors with the library that wrote it",
        ),
    )
)
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".npz")
FOREIGN_SUFFIXES = (".gguf", ".onnx", ".msgpack", ".h5", ".pkl", ".pickle")
_SIDE_FILES = re.compile(
    r"optimizer|scheduler|rng_state|training_args\.bin|scaler|random_states|optim_states"
    r"|(bf16_)?zero_pp_rank_|mp_rank_|trainer_state|tokenizer|spiece|sentencepiece|vocab|merges|data_config"
    r"|grad(ient)?s?\.(safetensors|pt|bin)$",
    re.IGNORECASE,
)
MAX_CONFIG = 64 << 20
ACTIVATIONS_FORMAT = "analyzer-activations/"  # hidden states: beside checkpoints, but none
RECORDS_FOLDER = "analyzer-records"  # recorded gradients: beside checkpoints, but none


@dataclass(frozen=True, slots=True)
class FolderCheckpoint:
    """The weight files of a folder, what they hold, and the configuration beside them."""

    weights: tuple[Path, ...]
    contents: Contents
    is_adapter: bool


def is_weight_file(name: str) -> bool:
    """Whether a file name looks like weights: optimizer states and tokenizers do not."""
    suffix = os.path.splitext(name)[1].lower()
    return suffix in WEIGHT_SUFFIXES + FOREIGN_SUFFIXES and not _SIDE_FILES.match(name)


def is_checkpoint_folder(names: set[str], *, step_folder: bool) -> bool:
    """Whether a folder with these entries is one checkpoint rather than a place for several."""
    if "adapter_config.json" in names or any(n in names for n in ADAPTER_FILES):
        return True
    if _holds_model(names):
        return True
    loose = sum(map(is_weight_file, names))
    described = step_folder or "config.json" in names or "trainer_state.json" in names
    return (described and loose == 1) or (not loose and foreign_layout(names) is not None)


def _holds_model(names: set[str]) -> bool:
    """Whether a model lies here under a usual name: one file, an index, or shards."""
    shards = (SHARD.fullmatch(name) and is_weight_file(name) for name in names)
    return any(name in names for name in MODEL_FILES) or any(shards)


def foreign_layout(names: set[str]) -> tuple[str, str] | None:
    """(what it is, what to do) for a folder in a layout that is not read."""
    for pattern, what, hint in _LAYOUTS:
        if any(pattern.fullmatch(name) for name in names):
            return what, hint
    return None


def open_folder(folder: Path) -> FolderCheckpoint:
    """The checkpoint in a folder: safetensors before PyTorch files, one file before shards.

    Of a model and an adapter in one folder it is the model. Raises UnsupportedFormat if there is
    none, and whatever reading its files raises.
    """
    names = entry_names(folder)
    model = _holds_model(names)
    for name in () if model else ADAPTER_FILES:
        if name in names:
            return FolderCheckpoint((folder / name,), list_file(folder / name), True)
    if "adapter_config.json" in names and not model:
        raise UnsupportedFormat(
            "adapter_config.json without adapter_model.safetensors",
            path=folder,
            hint="download or save the adapter again",
        )
    for name in MODEL_FILES:
        if name in names and name.endswith(".index.json"):
            contents, shards = list_indexed(folder / name)
            return FolderCheckpoint((*shards, folder / name), contents, False)
        if name in names:
            return FolderCheckpoint((folder / name,), list_file(folder / name), False)
    return _unindexed(folder, names)


def _unindexed(folder: Path, names: set[str]) -> FolderCheckpoint:
    """Shards without an index, else the only weight file."""
    candidates = sorted(name for name in names if is_weight_file(name))
    for suffix in (".safetensors", ".bin"):
        shards = [n for n in candidates if n.endswith(suffix) and SHARD.fullmatch(n)]
        if shards:
            paths = tuple(complete_shards([folder / name for name in shards]))
            return FolderCheckpoint(paths, list_shards(paths), False)
    if len(candidates) == 1:
        path = folder / candidates[0]
        return FolderCheckpoint((path,), list_file(path), False)
    if not candidates and (layout := foreign_layout(names)):
        raise UnsupportedFormat(layout[0], path=folder, hint=layout[1])
    if candidates:
        raise UnsupportedFormat(
            f"{len(candidates)} weight files and no index",
            path=folder,
            hint="pass one of the files",
        )
    raise UnsupportedFormat(
        "no weight files", path=folder, hint="pass a folder with model.safetensors or the like"
    )


def entry_names(folder: Path) -> set[str]:
    """Names of the entries of a folder that are not hidden. Raises CheckpointError."""
    try:
        return {name for name in os.listdir(folder) if not name.startswith(".")}
    except OSError as error:
        raise CheckpointError(
            f"cannot be listed: {error.strerror}", path=folder, hint="check its permissions"
        ) from None


def read_config(path: Path) -> tuple[dict[str, Any], str | None]:
    """A JSON object on disk, {} if it is absent; and a warning if it is not valid."""
    try:
        if path.stat().st_size > MAX_CONFIG:
            return {}, f"{path.name} is larger than {MAX_CONFIG} bytes and was ignored"
        return parse_object(path.read_bytes()), None
    except FileNotFoundError:
        nowhere = dangling(path)
        return {}, f"{path.name} is {nowhere}" if nowhere else None
    except (OSError, ValueError) as error:
        return {}, f"{path.name} was ignored: {error}"


def trainer_step(folder: Path) -> int | None:
    """`global_step` of a Hugging Face trainer's state, None if there is none."""
    try:
        with (folder / "trainer_state.json").open("rb") as file:
            found = re.search(rb'"global_step"\s*:\s*(\d{1,18})\b', file.read(MAX_CONFIG))
    except OSError:
        return None
    return int(found.group(1)) if found else None


def adapter_config(folder: Path) -> dict[str, Any]:
    """The adapter's configuration; unlike a model's it must be valid. Raises CorruptFile."""
    config, problem = read_config(folder / "adapter_config.json")
    if problem:
        raise CorruptFile(problem, path=folder, hint="save or download the adapter again")
    return config
