"""How many rows (tokens) went into a gradient: its rank cannot be larger."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from analyzer.recorder.targets import Target, is_compiled


class TokenCounter:
    """Counts rows of the input of one module since they were last taken.

    Holds numbers only, so that copying or pickling a model with this hook takes nothing along.
    """

    def __init__(self, attribute: str) -> None:
        self._attribute = attribute
        self._count = 0
        self._had_gradient = False

    def take(self) -> int | None:
        """Rows since the last call, None if the module was not seen."""
        count, self._count, self._had_gradient = self._count, 0, False
        return count or None

    def on_forward(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Forward pre-hook. Evaluation and the recomputation of checkpointing do not count."""
        evaluation = not (module.training or torch.is_grad_enabled())
        if evaluation or torch._C._current_graph_task_id() != -1:
            return
        weight = getattr(module, self._attribute, None)
        gradient = None if weight is None else weight.grad
        if gradient is None and self._had_gradient:
            self._count = 0  # it was dropped without a step: a loss scaler met an overflow
        self._had_gradient = gradient is not None
        tensors = (x for x in (*args, *kwargs.values()) if isinstance(x, Tensor))
        if (x := next(tensors, None)) is not None:
            self._count += _rows(module, x)

    def on_gradient(self, _: Tensor) -> None:
        """Post-accumulate hook of the module's weight."""
        self._had_gradient = True


def count_tokens(
    model: nn.Module, target: Target, *, hooked: bool
) -> tuple[TokenCounter, list[Callable[[], None]]]:
    """A counter on the module that owns `target`, and what removes its hooks.

    Nothing is hooked into a compiled model, where a hook could change what is compiled.
    """
    counter = TokenCounter(target.attribute)
    if is_compiled(model) or not hooked:
        return counter, []
    handles = (
        target.owner.register_forward_pre_hook(counter.on_forward, with_kwargs=True),
        target.parameter.register_post_accumulate_grad_hook(counter.on_gradient),
    )
    return counter, [handle.remove for handle in handles]


def _rows(module: nn.Module, x: Tensor) -> int:
    """Token ids count one by one, feature vectors and pixels by their position."""
    if not x.is_floating_point():
        return x.numel()
    features = x.shape[1] if isinstance(module, _ConvNd) else x.shape[-1]
    return x.numel() // max(features, 1)
