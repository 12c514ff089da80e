"""Files of training state that lie beside a checkpoint's weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from analyzer.checkpoints.checkpoint import Checkpoint
from analyzer.checkpoints.folder import entry_names, is_weight_file


def side_file(checkpoint: Checkpoint, names: Sequence[str]) -> Path | None:
    """The first of `names` that lies beside the weights, None if there is none.

    Beside a single file only if no other weights are there: whose state it is would be unknown.
    """
    folder = checkpoint.files[0].parent
    if not checkpoint.path.is_dir():
        own = {path.name for path in checkpoint.files}
        if any(is_weight_file(name) and name not in own for name in entry_names(folder)):
            return None
    return next((folder / name for name in names if (folder / name).is_file()), None)
