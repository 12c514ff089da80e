"""Bytes to train on: the sources of the Python standard library, which every install has."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from analyzer.errors import UsageError

HELD_OUT_EVERY = 10  # of the files, in alphabetical order


@dataclass(frozen=True, slots=True)
class Split:
    """One slice of the sources as 1-d uint8 tensors; no file is in both."""

    train: torch.Tensor
    held_out: torch.Tensor


@dataclass(frozen=True, slots=True)
class Corpus:
    """Prose-like code to pre-train on, and character tables, which look different, to tune on."""

    pretraining: Split  # the top-level modules
    tuning: Split  # the package `encodings`


def read_corpus() -> Corpus:
    """The two slices; raises `UsageError` where Python is installed without its sources."""
    stdlib = Path(sysconfig.get_paths()["stdlib"])
    return Corpus(_split(stdlib), _split(stdlib / "encodings"))


def _split(folder: Path) -> Split:
    files = [path.read_bytes() for path in sorted(folder.glob("*.py"))]
    if len(files) < HELD_OUT_EVERY:
        raise UsageError(
            f"{len(files)} Python sources, at least {HELD_OUT_EVERY} are needed to train on",
            path=folder,
            hint="install the standard library's .py files",
        )
    held_out = files[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY]
    train = [data for i, data in enumerate(files) if i % HELD_OUT_EVERY != HELD_OUT_EVERY - 1]
    return Split(_bytes(train), _bytes(held_out))


def _bytes(files: list[bytes]) -> torch.Tensor:
    return torch.from_numpy(np.frombuffer(bytearray(b"".join(files)), dtype=np.uint8))


def random_windows(
    data: torch.Tensor, count: int, batch: int, length: int, seed: int
) -> Iterator[torch.Tensor]:
    """`count` batches of windows of `data`: (batch, length + 1) int64, the same for one seed."""
    generator = torch.Generator().manual_seed(seed)
    offsets = torch.arange(length + 1)
    for _ in range(count):
        starts = torch.randint(len(data) - length, (batch, 1), generator=generator)
        yield data[starts + offsets].long()
