"""Training steps in the names of files and folders: ``checkpoint-300``, ``epoch=3-step=1200``."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

_STEP = re.compile(
    r"(?P<before>.*?)(?:^|(?<=[-_.=]))(?:checkpoint|ckpt|(?:global_?)?step|iter(?:ation)?)"
    r"[-_=]?(?P<step>\d{1,15})",
    re.IGNORECASE,
)
_EPOCH = re.compile(r"epoch[-_=]?\d+", re.IGNORECASE)
_SUFFIX = re.compile(r"\.(?:safetensors|bin|pt|pth|ckpt|npz)$")


def step_of(name: str) -> int | None:
    """The step a file or folder name ends with, None if it names none."""
    found = _STEP.fullmatch(_SUFFIX.sub("", name))
    return int(found["step"]) if found else None


def run_and_step(name: str, root: str) -> tuple[str | None, int | None]:
    """Run and step of a path relative to the collection `root`.

    The run is the path without the part that names the step, ``lora-r8/checkpoint-300`` →
    (``lora-r8``, 300); `root` where nothing is left; (None, None) without a step.
    """
    parts = list(PurePosixPath(name).parts)
    for place in reversed(range(len(parts))):
        found = _STEP.fullmatch(_SUFFIX.sub("", parts[place]))
        if found:
            before = _EPOCH.sub("", found["before"]).strip("-_.= ")
            rest = [*parts[:place], *([before] if before else []), *parts[place + 1 :]]
            return "/".join(rest) or root, int(found["step"])
    return None, None
