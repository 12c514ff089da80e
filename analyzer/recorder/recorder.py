"""Recording of gradients while a model trains, without any effect on the training."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import nn
from torch.optim import Optimizer

from analyzer.checkpoints.folder import RECORDS_FOLDER
from analyzer.errors import UsageError
from analyzer.recorder.backward import BackwardHooks
from analyzer.recorder.gradient_log import GradientLog, Surroundings
from analyzer.recorder.measurements import Measurements
from analyzer.recorder.measuring import Settings
from analyzer.recorder.noise import Probe
from analyzer.recorder.records import list_records, step_of_record
from analyzer.recorder.targets import find_targets, unwrap
from analyzer.recorder.tokens import count_tokens
from analyzer.spectral.count_sketch import ROW
from analyzer.spectral.warm_start import Side

Hook = Literal["optimizer", "backward", "call"]

log = logging.getLogger(__name__)


class Recorder:
    """Records gradients of `model` below `folder` until it is closed; also a context manager.

    The gradient that leads from step t to t + 1 is step t, counted from `start_step` in steps of
    the optimizer: the record of step t belongs to the weights of checkpoint-t. Recorded are the
    steps that `every` divides; on the step after each, only how the basis still fits.

    hook: ``optimizer`` just before each optimizer step, after accumulation, unscaling and clipping;
    ``backward`` as soon as a gradient is summed over `accumulate` backward passes, for layer-wise
    optimizers, which have none left when they step (`optimizer` may be None; a loss scale stays
    in); ``call`` where the training loop calls `record()`.
    rank, sketch_width, side: leading directions l, width of the CountSketch, and side of the basis
    (the shorter one by default). targets: regular expression on parameter names instead of the
    default, all matrices but embeddings and heads.
    probe: `probe(i)` is the loss of the model itself, not of a data-parallel wrapper, on the fixed
    independent batch i. Batch 0 is recorded beside the minibatch, 1 and 2 give the noise ceiling
    unless `noise_batches` is 0.
    budget_ms: milliseconds that recording may add to a training step on average; while it takes
    more, `every` is doubled. seed: of all random numbers here; torch's own generator is not used.

    Under torch.distributed only rank 0 records. Raises UsageError for options that make no sense,
    sharded parameters, nothing to record, and a recorded step without any gradient.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | None,
        folder: str | Path,
        *,
        every: int = 10,
        rank: int = 16,
        sketch_width: int = 1024,
        side: Side | None = None,
        targets: str | None = None,
        probe: Probe | None = None,
        noise_batches: int = 2,
        budget_ms: float | None = None,
        hook: Hook = "optimizer",
        accumulate: int = 1,
        start_step: int = 0,
        seed: int = 0,
        clip_state: str | None = None,
    ) -> None:
        _check_range(every=(every, 1), rank=(rank, 1), sketch_width=(sketch_width, ROW))
        _check_range(accumulate=(accumulate, 1), start_step=(start_step, 0), seed=(seed, 0))
        _check_choice("side", side, (None, "left", "right"))
        _check_choice("hook", hook, ("optimizer", "backward", "call"))
        _check_choice("noise_batches", noise_batches, (0, 2))
        if budget_ms is not None and not budget_ms > 0:
            raise UsageError(f"budget_ms must be above 0, got {budget_ms}")
        if hook == "backward" and probe is not None:
            raise UsageError(
                "a probe inside the backward pass would see weights of two steps",
                hint="leave the probe out, or use hook='optimizer'",
            )
        if hook == "optimizer" and not isinstance(optimizer, Optimizer):
            raise UsageError("hook='optimizer' needs the torch optimizer of the model")
        self._optimizer = _innermost(optimizer)
        trained = None if hook == "backward" else _parameter_ids(self._optimizer)
        self._targets = find_targets(model, targets, trained)
        self._removers: list[Callable[[], None]] = []
        self._backward: BackwardHooks | None = None
        rank_here, ranks = _distributed()
        self._active = rank_here == 0
        counter, removers = count_tokens(model, self._targets[0], hooked=self._active)
        self._removers += removers
        clipped = "before_clipping" if hook == "backward" else "optimizer_input"
        self._log = GradientLog(
            Measurements(self._targets, Settings(rank, sketch_width, side, seed)),
            Surroundings(
                model=unwrap(model),
                folder=Path(folder),
                counter=counter,
                ranks=ranks,
                learning_rates=self._learning_rates,
                clip_state=clip_state or clipped,
                accumulate=accumulate,
                probe=probe,
                noise_batches=noise_batches,
                budget_ms=budget_ms,
            ),
            every,
            start_step,
        )
        if not self._active:
            return
        _warn_of_later_records(Path(folder), start_step)
        if hook == "backward":
            self._backward = BackwardHooks(model, self._log, self._targets, accumulate)
            self._removers += self._backward.removers
        elif hook == "optimizer" and self._optimizer is not None:
            handle = self._optimizer.register_step_pre_hook(self._before_step)
            self._removers.append(handle.remove)

    @property
    def step(self) -> int:
        """Number of the next step; a trainer that counts differently may set it."""
        return self._log.step

    @step.setter
    def step(self, step: int) -> None:
        self._log.step = step

    @property
    def every(self) -> int:
        """Distance of recorded steps at present."""
        return self._log.every

    def record(self) -> None:
        """Count one optimizer step, and record the gradients that are there if it is its turn.

        For hook ``call``: once for every optimizer step, just before it.
        """
        self._take(1.0)

    def close(self) -> None:
        """Remove all hooks. What was recorded is on disk already."""
        for remove in self._removers:
            remove()
        if self._backward is not None:
            self._backward.finish()
        self._removers, self._backward, self._active = [], None, False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _before_step(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Step pre-hook; args[0] is the optimizer."""
        if kwargs.get("closure", args[1] if len(args) > 1 else None) is not None:
            raise UsageError(
                "the optimizer computes its gradient in a closure, after this hook",
                hint="use hook='call' and call record() at the end of the closure",
            )
        # A fused optimizer under a GradScaler unscales, and skips overflows, inside its kernel.
        found_inf, scale = (getattr(optimizer, name, None) for name in ("found_inf", "grad_scale"))
        if found_inf is None or not float(found_inf):
            self._take(1.0 if scale is None else float(scale))

    def _take(self, scale: float) -> None:
        if not self._active:
            return
        if self._log.open_step():
            if all(target.parameter.grad is None for target in self._targets):
                raise UsageError(
                    "no gradient is left when the optimizer steps",
                    tensor=self._targets[0].name,
                    hint="an optimizer that steps in the backward pass needs hook='backward'",
                )
            self._log.give([(t, t.parameter.grad) for t in self._targets], scale)
        self._log.close_step()

    def _learning_rates(self) -> tuple[float, ...]:
        groups = () if self._optimizer is None else self._optimizer.param_groups
        return tuple(float(group["lr"]) for group in groups if "lr" in group)


def _innermost(optimizer: Optimizer | None) -> Optimizer | None:
    """The optimizer that wrappers (Accelerate's) hold as `optimizer`."""
    while isinstance(inner := getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = inner
    return optimizer


def _parameter_ids(optimizer: Optimizer | None) -> set[int] | None:
    if optimizer is None:
        return None
    return {id(p) for group in optimizer.param_groups for p in group["params"]}


def _distributed() -> tuple[int, int]:
    """Rank and number of processes; (0, 1) alone."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def _warn_of_later_records(folder: Path, start_step: int) -> None:
    """Records of an earlier run beyond the start, of which some may stay."""
    known = list_records(folder) if (folder / RECORDS_FOLDER).is_dir() else []
    later = [path for path in known if step_of_record(path) >= start_step]
    if later:
        log.warning(
            "%s holds %d records from step %d on: those of equal steps will be replaced",
            folder / RECORDS_FOLDER,
            len(later),
            start_step,
        )


def _check_range(**values: tuple[int, int]) -> None:
    for name, (value, least) in values.items():
        if value < least:
            raise UsageError(f"{name} must be at least {least}, got {value}")


def _check_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    if value not in choices:
        raise UsageError(f"{name} must be one of {choices}, got {value!r}")
