"""What an adapter is, what it changes, and the two forms a change can take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

FloatArray = NDArray[np.float64]


class StoredTensor(Protocol):
    """Name and shape of a stored tensor, known without reading it."""

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...


class AdapterFiles(Protocol):
    """What a checkpoint must offer to be read as an adapter."""

    @property
    def name(self) -> str: ...
    @property
    def path(self) -> Path: ...
    @property
    def config(self) -> Mapping[str, Any]: ...
    def tensors(self) -> Sequence[StoredTensor]: ...
    def read(self, name: str) -> torch.Tensor: ...


@dataclass(frozen=True, slots=True)
class AdapterTarget:
    """One tensor of the base that the adapter changes.

    `module` is the dotted path of the adapted module (kohya files: with underscores, the dots are
    lost), `name` the base tensor it is expected to change. `parts` pairs the canonical name of
    each stored factor (``A``, ``B``, ``hada_w1_a`` …) with its tensor name. `scaling` is the
    factor in front of the product: None where it does not exist (IA³, saved modules) or depends
    on data that opening does not read (a stored alpha; the number of experts). `status` is
    ``ok`` or ``refused``, `detail` says why. `experts` is the size of the stack that the target
    changes, known once it is matched with a base.
    """

    module: str
    name: str
    kind: str
    parts: tuple[tuple[str, str], ...]
    rank: int | None = None
    scaling: float | None = None
    status: str = "ok"
    detail: str = ""
    experts: int | None = None

    @property
    def tensor_names(self) -> tuple[str, ...]:
        return tuple(name for _, name in self.parts)


@dataclass(frozen=True, slots=True)
class Adapter:
    """An opened adapter; `initial` holds the factors it was initialised with, where given."""

    source: AdapterFiles
    peft_type: str
    targets: tuple[AdapterTarget, ...]
    warnings: tuple[str, ...]
    initial: Adapter | None = None


@dataclass(frozen=True, slots=True)
class LowRankDelta:
    """ΔW = P Qᵀ − (truncated SVD of the base of rank `minus_base_rank`).

    P (rows, r) and Q (cols, r) float64, rows = output features; the scaling is folded into P.
    """

    P: FloatArray
    Q: FloatArray
    minus_base_rank: int = 0


@dataclass(frozen=True, slots=True)
class TunedWeight:
    """The tuned matrix W (rows, cols) float64, where it is no low-rank change of the base."""

    W: FloatArray


@dataclass(frozen=True, slots=True)
class Module:
    """The stored factors of one adapted module, before anything is computed from them.

    `path` is the module's path in the network, `style` the spelling of its keys (``peft``,
    ``mlx`` or ``kohya``: no configuration, alpha stored beside the factors).
    """

    path: str
    style: str
    tensors: Mapping[str, StoredTensor]

    def shape(self, part: str) -> tuple[int, ...]:
        return tuple(self.tensors[part].shape)
