"""Running statistics of batch norms, estimated anew for weights that were resampled or merged.

The averages of the old network are not those of the new one: without this step a merged or narrowed
network can be at chance while its weights are good (K. Jordan et al., "REPAIR", arXiv 2211.08403,
ICLR 2023, section 3; P. Izmailov et al., arXiv 1803.05407, section 3.2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from analyzer.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor, nn

# A state dict → its running statistics anew, by name.
Statistics = Callable[[dict[str, "Tensor"]], Mapping[str, "Tensor"]]

RUNNING = ("running_mean", "running_var", "num_batches_tracked")


def batch_norm_statistics(model: nn.Module, batches: Iterable[Any]) -> dict[str, Tensor]:
    """Running means, variances and counts of every batch norm of `model`, by name in its state.

    Means over `batches`, each of which counts the same, of inputs or of tuples (inputs, labels).
    Everything but the norms computes as in evaluation mode; the model stays as it is. Raises
    UsageError for no batch, or a model without running statistics.
    """
    import torch
    from torch.nn.modules.batchnorm import _BatchNorm

    norms = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.track_running_stats
    }
    if not norms:
        raise UsageError("the model has no batch norm with running statistics")
    count = 0
    with _estimating(model, list(norms.values())), torch.no_grad():
        for batch in batches:
            model(batch[0] if isinstance(batch, (tuple, list)) else batch)
            count += 1
        if not count:
            raise UsageError("there is no batch to estimate running statistics on")
        return {
            f"{name}.{key}" if name else key: getattr(module, key).clone()
            for name, module in norms.items()
            for key in RUNNING
        }


@contextmanager
def _estimating(model: nn.Module, norms: Sequence[Any]) -> Iterator[None]:
    """Norms start from nothing and average over batches; afterwards all is as before."""
    modes = {module: module.training for module in model.modules()}
    kept = [(norm.momentum, {key: getattr(norm, key).clone() for key in RUNNING}) for norm in norms]
    try:
        model.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the mean of all batches
            norm.train()
        yield
    finally:
        for norm, (momentum, buffers) in zip(norms, kept, strict=True):
            norm.momentum = momentum
            for key, value in buffers.items():
                getattr(norm, key).copy_(value)
        for module, training in modes.items():
            module.training = training


def renewed(state: dict[str, Tensor], statistics: Statistics) -> dict[str, Tensor]:
    """What `statistics` says of a state dict, in the dtypes of that.

    Raises UsageError for a name that the state has not, another shape, or values that are not
    finite.
    """
    import torch

    result: dict[str, Tensor] = {}
    for name, value in statistics(dict(state)).items():
        if name not in state or value.shape != state[name].shape:
            raise UsageError(
                f"running statistics of shape {tuple(value.shape)} fit no tensor", tensor=name
            )
        result[name] = value.detach().to("cpu", state[name].dtype)
        if not bool(torch.isfinite(result[name]).all()):
            raise UsageError("running statistics are not finite", tensor=name)
    return result
