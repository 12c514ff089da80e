"""Elements that weights, gradient and Adam state take under full-rank, LoRA, GaLore, Fira training.

For W (m, n) trained by Adam at rank r (J. Zhao et al., "GaLore", arXiv 2403.03507, Table 1):

    full    weights mn             optimizer 2mn
    LoRA    weights mn + r(m + n)  optimizer 2r(m + n)
    GaLore  weights mn             optimizer r·min(m, n) + 2r·max(m, n)    projector, two moments
    Fira    GaLore + 1             the norm that its limiter remembers (arXiv 2410.01623)

Table 2 of the GaLore paper does not follow Table 1: its GaLore row of optimizer states is 3/4 of
its LoRA row (the ratio of a square matrix), embeddings included. Both conventions are given, since
the first is what a run allocates and the second is what the literature quotes. That table also
mixes GB (1e9 bytes) and GiB (2^30 bytes), so a unit is always named here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import Literal

from theory.galore_projection import check_rank

Method = Literal["full", "lora", "galore", "fira"]
Convention = Literal["exact", "paper"]
Unit = Literal["GB", "GiB"]

BYTES_PER_UNIT: dict[Unit, int] = {"GB": 10**9, "GiB": 2**30}


@dataclass(frozen=True, slots=True)
class MemoryElements:
    """Numbers of stored elements."""

    weights: int
    optimizer: int
    gradient: int  # all of it at once; with updates per layer only the largest matrix's share


def matrix_elements(
    rows: int, cols: int, rank: int, method: Method, convention: Convention = "exact"
) -> MemoryElements:
    """Elements of one matrix (rows, cols); `rank` is not used by ``full``.

    Under ``paper`` the optimizer of GaLore and Fira is 3/4 of LoRA's, rounded up.
    Raises ValueError for an empty matrix, a rank outside 1..min(rows, cols), an unknown name.
    """
    return total_elements([(rows, cols)], rank, method, convention)


def total_elements(
    matrices: Iterable[tuple[int, int]],
    rank: int,
    method: Method,
    convention: Convention = "exact",
    *,
    full_state: Iterable[tuple[int, ...]] = (),
) -> MemoryElements:
    """Elements of a model: `matrices` (m, n) trained by `method`, the rest with full Adam state.

    `full_state`: shapes of embeddings, heads, norms and biases, whose weights, gradients and two
    moments are kept whole by every method. Raises ValueError as `matrix_elements`.
    """
    if convention not in ("exact", "paper"):
        raise ValueError(f"convention must be 'exact' or 'paper', got {convention!r}")
    if method not in ("full", "lora", "galore", "fira"):
        raise ValueError(f"method must be full, lora, galore or fira, got {method!r}")
    shapes = list(matrices)
    whole = sum(prod(shape) for shape in full_state)
    scaled_lora = convention == "paper" and method in ("galore", "fira")
    counted = "lora" if scaled_lora else method
    optimizer = 2 * whole + sum(_optimizer(m, n, rank, counted) for m, n in shapes)
    if scaled_lora:
        optimizer = -(-3 * optimizer // 4) + (len(shapes) if method == "fira" else 0)
    dense = sum(m * n for m, n in shapes)
    factors = sum(rank * (m + n) for m, n in shapes) if method == "lora" else 0
    return MemoryElements(
        weights=whole + dense + factors,
        optimizer=optimizer,
        gradient=whole + (factors if method == "lora" else dense),
    )


def memory(
    elements: MemoryElements, *, weight_bytes: float, optimizer_bytes: float, unit: Unit
) -> float:
    """Weights plus optimizer state in `unit`; the gradient is not counted, as in the paper's table.

    `weight_bytes`, `optimizer_bytes`: bytes an element, 2 for bf16, 1 for 8-bit states (whose
    quantisation constants and unquantised projectors are not counted).
    """
    stored = elements.weights * weight_bytes + elements.optimizer * optimizer_bytes
    return stored / BYTES_PER_UNIT[unit]


def _optimizer(rows: int, cols: int, rank: int, method: Method) -> int:
    if rows < 1 or cols < 1:
        raise ValueError(f"matrix sides must be at least 1, got {rows} x {cols}")
    if method == "full":
        return 2 * rows * cols
    check_rank(rank, rows, cols)
    if method == "lora":
        return 2 * rank * (rows + cols)
    return rank * min(rows, cols) + 2 * rank * max(rows, cols) + (method == "fira")
