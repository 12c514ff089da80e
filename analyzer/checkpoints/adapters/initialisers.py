"""Initialisers that take their first product out of the base weight.

PiSSA (Meng et al., arXiv 2404.02948) and OLoRA (Büyükakyüz, arXiv 2406.01775) start from
W0 − s B0 A0, so that with the untouched W0 the change is ΔW = s (B A − B0 A0). s B0 A0 is the
rank-r truncated SVD of W0 for ``pissa`` and s Q_r R_r of its QR decomposition, as stored, for
``olora``. CorDA, LoRA-GA, LoftQ and randomised PiSSA depend on data or random numbers that are
not stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from analyzer.checkpoints.adapters.factors import concatenate, oriented
from analyzer.checkpoints.adapters.types import FloatArray, LowRankDelta, Module
from analyzer.checkpoints.tensors import MatrixInfo

RECONSTRUCTIBLE = ("pissa", "olora")
# Start with B = 0 or leave the base alone.
_HARMLESS = ("true", "false", "gaussian", "eva", "orthogonal", "mica")


def base_shift(config: Mapping[str, Any], *, linear: bool) -> str | None:
    """Name of the initialiser that changed this module's base weight, None if none did.

    PEFT initialises embeddings and convolutions ordinarily, whatever the configuration says,
    LoftQ excepted.
    """
    initialiser = config.get("init_lora_weights")
    if not isinstance(initialiser, str) or initialiser.lower() in _HARMLESS:
        return None
    name = initialiser.lower()
    return name if linear or name == "loftq" else None


def refusal(shift: str | None, module: Module, *, has_initial: bool) -> str | None:
    """Why ΔW of this module cannot be known, None if it can."""
    if shift is None or shift in RECONSTRUCTIBLE or has_initial or "base_weight" in module.tensors:
        return None
    return (
        f"init_lora_weights={shift!r} changed the base weight by an amount that is not stored; "
        "give the residual base as the base, or the initial adapter"
    )


def minus_initial(delta: LowRankDelta, initial: LowRankDelta) -> LowRankDelta:
    """ΔW = s (B A − B0 A0), rank ≤ 2r."""
    return concatenate(delta, LowRankDelta(-initial.P, initial.Q))


def minus_olora(
    delta: LowRankDelta, rank: int, scaling: float, base: FloatArray, matrix: MatrixInfo
) -> LowRankDelta:
    """ΔW = s (B A − Q_r R_r), Q R the QR decomposition of the base as it is stored."""
    Q, R = np.linalg.qr(base.T if matrix.transposed else base)
    start = oriented(-scaling * Q[:, :rank], R[:rank].T, matrix, matrix.name, stored=True)
    return concatenate(delta, start)


def without_leading(base: FloatArray, rank: int) -> FloatArray:
    """The base minus its rank-`rank` truncated SVD: what PiSSA left behind."""
    U, s, Vh = np.linalg.svd(base, full_matrices=False)
    return base - (U[:, :rank] * s[:rank]) @ Vh[:rank]
