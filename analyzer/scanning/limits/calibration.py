"""Hidden states of the base on a calibration text, captured once and kept beside the store."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from analyzer.checkpoints.checkpoint import Checkpoint
from analyzer.checkpoints.discover import Collection
from analyzer.errors import UsageError

FOLDER = ".analyzer-activations"  # hidden, so that no scan takes it for a checkpoint


def calibration_states(
    collection: Collection, text_file: Path, db: Path, report: Callable[[float, str], None]
) -> Path:
    """Where the hidden states of the base on this text are; runs the model if they are not there.

    Raises UsageError for a text that cannot be read or a collection without one base model,
    MissingExtra without `transformers`, and what `capture` raises.
    """
    text = read_text(text_file)
    model = _model(collection)
    mark = hashlib.sha256(f"{model.fingerprint()}\n{text}".encode()).hexdigest()[:16]
    target = db.parent / FOLDER / f"{mark}.safetensors"
    if not target.is_file():
        # Only where the model is run: it needs torch and transformers.
        from analyzer.activations.capture import capture
        from analyzer.activations.format import write_activations

        captured = capture(
            model.path,
            text,
            progress=lambda done, total: report(done / total, f"{model.name} reads the text"),
        )
        target.parent.mkdir(exist_ok=True)
        write_activations(target, captured.tensors, None, captured.metadata)
    return target


def read_text(path: Path) -> str:
    """A text file as UTF-8. Raises UsageError."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"cannot be read: {error.strerror}", path=path, hint="pass a text file"
        ) from None
    except UnicodeDecodeError:
        raise UsageError("not UTF-8 text", path=path, hint="pass a text file") from None


def _model(collection: Collection) -> Checkpoint:
    if collection.base is not None:
        return collection.base
    full = [c for c in collection.checkpoints if c.kind == "full"]
    if len(full) != 1:
        raise UsageError(
            f"a calibration text needs one base model, found {len(full)}",
            path=collection.root,
            hint="give --base",
        )
    return full[0]
