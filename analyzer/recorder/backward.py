"""Gradients taken while the backward pass makes them, for optimizers that step inside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from analyzer.errors import UsageError
from analyzer.recorder.gradient_log import GradientLog
from analyzer.recorder.targets import Target, is_compiled


class _ForwardSeen:
    """Whether a module was called since the last gradient; a bool, so that it copies with it."""

    def __init__(self) -> None:
        self.value = False

    def on_forward(self, *_: Any) -> None:
        if torch._C._current_graph_task_id() == -1:  # recomputation in the backward pass is none
            self.value = True


class BackwardHooks:
    """Hands over each gradient on the last of `accumulate` micro-batches, as soon as it is summed.

    A micro-batch begins with the first gradient after a forward pass, or when a weight gets one
    again. Nothing is hooked into the forward pass of a compiled model, where only the latter tells.
    Hooks run in the order in which they were registered, so that an optimizer that clears gradients
    in hooks of its own must be made afterwards.
    """

    def __init__(
        self, model: nn.Module, log: GradientLog, targets: Sequence[Target], accumulate: int
    ) -> None:
        self._log = log
        self._accumulate = accumulate
        self._count = len(targets)
        self._reached: set[str] = set()
        self._micro_batch = 0
        self._forward = _ForwardSeen()
        handles: list[RemovableHandle] = [
            t.parameter.register_post_accumulate_grad_hook(partial(self._on_gradient, t))
            for t in targets
        ]
        if not is_compiled(model):
            owners = {id(t.owner): t.owner for t in targets}.values()
            handles += [o.register_forward_pre_hook(self._forward.on_forward) for o in owners]
        self.removers: list[Callable[[], None]] = [handle.remove for handle in handles]

    def finish(self) -> None:
        """End the micro-batch at hand: some weights may not have been reached by it."""
        if not self._reached:
            return
        self._reached.clear()
        self._micro_batch += 1
        if self._micro_batch == self._accumulate:
            self._micro_batch = 0
            self._log.close_step()

    def _on_gradient(self, target: Target, parameter: Tensor) -> None:
        if target.name in self._reached or self._forward.value:
            self.finish()
        self._forward.value = False
        if parameter.grad is None:
            raise UsageError(
                "its gradient was cleared before it could be recorded",
                tensor=target.name,
                hint="make the Recorder before the optimizer that steps in the backward pass",
            )
        last = self._micro_batch == self._accumulate - 1
        if last and not self._reached:
            self._log.open_step()
        self._reached.add(target.name)
        if last:
            self._log.give([(target, parameter.grad)], 1.0)
        if len(self._reached) == self._count:
            self.finish()
