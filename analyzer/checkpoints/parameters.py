"""Which stored tensors are parameters of a network, and how many numbers they hold."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from analyzer.checkpoints.stored import StoredTensor

# What networks store beside their parameters; GPT-2's causal mask is named attn.bias.
_NO_PARAMETER = re.compile(
    r"(?:^|[._])(?:position_ids|token_type_ids|masked_bias|inv_freq|\w*relative_position_index"
    r"|relative_coords_table|running_mean|running_var|num_batches_tracked|cos_cached|sin_cached"
    r"|_extra_state)$"
)
_CAUSAL_MASK = re.compile(r"(?:^|\.)(?:attn|attention)\.bias$")


def is_parameter(tensor: StoredTensor) -> bool:
    """Whether a tensor of a full model is no buffer such as a mask, positions or averages."""
    return (
        tensor.dtype not in ("bool", "int64", "uint64")
        and not _NO_PARAMETER.search(tensor.name)
        and not (len(tensor.shape) == 4 and _CAUSAL_MASK.search(tensor.name))
    )


def untied(tensors: Iterable[StoredTensor]) -> list[StoredTensor]:
    """The tensors in their order, of tied ones only the first."""
    places: dict[object, StoredTensor] = {}
    for tensor in tensors:
        places.setdefault((tensor.storage_id, tensor.shape, tensor.stride), tensor)
    return list(places.values())


def count_parameters(tensors: Iterable[StoredTensor]) -> int:
    """Entries of the parameters among `tensors`, tied ones once; packed integers as stored."""
    return sum(math.prod(tensor.shape) for tensor in untied(filter(is_parameter, tensors)))
