"""Recording in Lightning's Trainer."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from analyzer.errors import MissingExtra
from analyzer.recorder.recorder import Recorder

_PACKAGES = ("lightning.pytorch", "pytorch_lightning")


def _callback_class() -> type:
    """Lightning's Callback: of its two packages the one that is in use, else one that is there."""
    for name in sorted(_PACKAGES, key=lambda name: name not in sys.modules):
        try:
            return import_module(name).Callback
        except ImportError:
            continue
    raise MissingExtra("LightningRecorder needs Lightning", hint="pip install lightning")


class LightningRecorder(_callback_class()):
    """``Trainer(callbacks=[LightningRecorder()])`` records below the trainer's root folder.

    Gradients are accumulated and unscaled, but not clipped yet: Lightning clips afterwards. Of
    several optimizers the first is recorded. `options` are those of Recorder, a `probe`
    among them.
    """

    def __init__(self, folder: str | Path | None = None, **options: Any) -> None:
        super().__init__()
        self._folder, self._options = folder, options
        self._recorder: Recorder | None = None
        self._optimizer: Any = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._close()
        self._optimizer = trainer.optimizers[0]
        self._recorder = Recorder(
            pl_module,
            self._optimizer,
            self._folder or trainer.default_root_dir,
            hook="call",
            accumulate=trainer.accumulate_grad_batches,
            start_step=trainer.global_step,
            clip_state="before_clipping",
            **self._options,
        )

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        if self._recorder is not None and optimizer is self._optimizer:
            self._recorder.step = trainer.global_step
            self._recorder.record()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._close()

    def _close(self) -> None:
        if self._recorder is not None:
            self._recorder.close()
            self._recorder = self._optimizer = None
