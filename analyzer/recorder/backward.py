"""Gradients taken while the backward pass makes them, for optimizers that step inside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor
from torch.autograd import Variable

from analyzer.errors import UsageError
from analyzer.recorder.gradient_log import GradientLog
from analyzer.recorder.targets import Target


class BackwardHooks:
    """Hands over each gradient on the last of `accumulate` micro-batches, as soon as it is summed.

    A micro-batch ends with its backward pass, or when all weights have got their gradient. Hooks
    run in the order in which they were registered, so that an optimizer that clears gradients in
    hooks of its own must be made afterwards.
    """

    def __init__(self, log: GradientLog, targets: Sequence[Target], accumulate: int) -> None:
        self._log = log
        self._accumulate = accumulate
        self._count = len(targets)
        self._reached: set[str] = set()
        self._in_pass = False
        self._micro_batch = 0
        self.removers: list[Callable[[], None]] = [
            t.parameter.register_post_accumulate_grad_hook(partial(self._on_gradient, t)).remove
            for t in targets
        ]

    def finish(self) -> None:
        """End the micro-batch at hand: some weights may not have been reached by it."""
        if not self._reached:
            return
        self._reached.clear()
        self._micro_batch += 1
        if self._micro_batch == self._accumulate:
            self._micro_batch = 0
            self._log.close_step()

    def _end_pass(self) -> None:
        self._in_pass = False
        self.finish()

    def _on_gradient(self, target: Target, parameter: Tensor) -> None:
        if not self._in_pass:
            self._in_pass = True
            # What distributed training uses too: there is no public hook at the end of a pass.
            Variable._execution_engine.queue_callback(self._end_pass)  # type: ignore[attr-defined]
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
            self._log.give(target, parameter.grad, 1.0)
        if len(self._reached) == self._count:
            self.finish()
