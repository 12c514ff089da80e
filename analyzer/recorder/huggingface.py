"""Recording in the Hugging Face Trainer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from analyzer.errors import MissingExtra, UsageError
from analyzer.recorder.noise import Probe
from analyzer.recorder.recorder import Recorder
from analyzer.recorder.targets import unwrap

try:
    from transformers.trainer_callback import TrainerCallback
except ImportError:
    raise MissingExtra(
        "AnalyzerCallback needs transformers", hint="pip install transformers accelerate"
    ) from None

Batch = Mapping[str, Any]


class AnalyzerCallback(TrainerCallback):
    """``Trainer(..., callbacks=[AnalyzerCallback()])`` records below the output folder.

    Gradients are taken as the optimizer gets them: accumulated, unscaled, clipped. Steps are the
    trainer's `global_step`, so that the record of step t belongs to checkpoint-t. `probe_batches`
    are one or three batches as the model takes them, with labels: the fixed batch, and two
    independent ones for the noise ceiling. `options` are those of Recorder.
    """

    def __init__(
        self,
        folder: str | Path | None = None,
        *,
        probe_batches: Sequence[Batch] | None = None,
        **options: Any,
    ) -> None:
        if probe_batches is not None and len(probe_batches) not in (1, 3):
            raise UsageError(
                f"{len(probe_batches)} probe batches",
                hint="pass one, or three to measure the noise ceiling as well",
            )
        self._folder, self._probe_batches, self._options = folder, probe_batches, options
        self._recorder: Recorder | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._close()
        options = dict(self._options)
        if self._probe_batches is not None:
            options["probe"] = _probe(unwrap(kwargs["model"]), self._probe_batches)
            options["noise_batches"] = len(self._probe_batches) - 1
        if args.max_grad_norm > 0:
            options.setdefault("clip_state", "after_clipping")
        self._recorder = Recorder(
            kwargs["model"],
            kwargs["optimizer"],
            self._folder or args.output_dir,
            accumulate=args.gradient_accumulation_steps,
            start_step=state.global_step,
            **options,
        )

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # The trainer counts a step whose gradient overflowed, the optimizer does not.
        if self._recorder is not None:
            self._recorder.step = state.global_step

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._close()

    def _close(self) -> None:
        if self._recorder is not None:
            self._recorder.close()
            self._recorder = None


def _probe(model: nn.Module, batches: Sequence[Batch]) -> Probe:
    def loss(index: int) -> Tensor:
        device = next(model.parameters()).device
        batch = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batches[index].items()}
        return model(**batch).loss

    return loss
