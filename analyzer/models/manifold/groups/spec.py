"""Permutation groups of any network, as its user describes them in a file.

    tensors:
      conv1.weight: ">c1 - - -"     # outputs are the channels c1, inputs and taps have no units
      conv1.bias: ">c1"
      norm1.(weight|bias|running_mean|running_var): ">c1"
      fc1.weight: ">h <c1/49"       # flattened 7 × 7 maps: 49 consecutive inputs a channel
      fc1.bias: ">h"
      fc2.weight: "- <h"
      fc2.bias: "-"
      .*num_batches_tracked: ""

Keys are names of tensors or regular expressions of whole names, whose named groups may stand in
braces in the words; the first that matches counts. `analyzer.models.manifold.groups.axes` explains
the words; spaces ``res``, ``mlp_…`` and ``experts_…`` make groups of these kinds, others channels.
``config`` beside ``tensors`` holds num_attention_heads and num_key_value_heads where
heads are meant and config.json does not say.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from analyzer.checkpoints.checkpoint import Checkpoint
from analyzer.checkpoints.json_text import parse_object
from analyzer.errors import MissingExtra, UsageError
from analyzer.models.manifold.groups.axes import Rule, parse
from analyzer.models.manifold.groups.mapping import Mapped, mapped_by


def groups_from_yaml(path: str | Path, checkpoint: Checkpoint) -> Mapped:
    """The groups that a file describes, and the checkpoint's axes that it does not map.

    A file whose name ends in ``.json`` holds the same as JSON, any other needs PyYAML. Raises
    UsageError for a file that cannot be read or used, MissingExtra without PyYAML, ShapeMismatch
    where two axes of a group differ.
    """
    path = Path(path)
    content = _load(path)
    tensors, config = content.get("tensors"), content.get("config", {})
    if not isinstance(tensors, Mapping) or not isinstance(config, Mapping):
        raise UsageError("expected a mapping of names under 'tensors'", path=path)
    table = tuple(_rule(name, words, path) for name, words in tensors.items())
    return mapped_by(table, checkpoint, {**checkpoint.config, **config})


def _rule(name: object, words: object, path: Path) -> Rule:
    if not isinstance(name, str) or not isinstance(words, str):
        raise UsageError(f"{name!r}: {words!r} is not a name and the words of its axes", path=path)
    try:
        pattern = re.compile(name)
        parse(words.format(**dict.fromkeys(pattern.groupindex, "0")))
    except (re.error, ValueError, KeyError, IndexError) as error:
        raise UsageError(f"{name!r}: {error}", path=path) from None
    return pattern, words


def _load(path: Path) -> Mapping[str, Any]:
    try:
        text = path.read_bytes()
        content = parse_object(text) if path.suffix == ".json" else _parse_yaml(text)
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot be read: {error}", path=path) from None
    if not isinstance(content, Mapping):
        raise UsageError("expected a mapping with the key 'tensors'", path=path)
    return content


def _parse_yaml(text: bytes) -> object:
    """Raises ValueError for what is no YAML."""
    try:
        import yaml
    except ImportError:
        raise MissingExtra(
            "reading YAML needs PyYAML", hint="pip install pyyaml, or write the file as .json"
        ) from None
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())) from None
