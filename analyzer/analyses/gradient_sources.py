"""What stands for the gradient of a matrix, and how far each source can be trusted.

Figures in the cautions are from a byte-level language model of 0.38 M parameters, as an order of
magnitude; G is the gradient, W the weight, M and V the moments of Adam.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Source:
    """`formula` of what is decomposed, what it `supports`, and the `caution` it needs."""

    formula: str
    supports: str
    caution: str


SOURCES: dict[str, Source] = {
    "grad": Source(
        "G of one batch at step t",
        "rank, subspace and cosines of the gradient",
        "one batch's gradient: without a noise ceiling its spectrum is part minibatch noise",
    ),
    "exp_avg": Source(
        "m̂ = M/(1 − β₁ᵗ)",
        "the order of matrices by rank",
        "a moving average: its direction is not that of the gradient",
    ),
    "adam_update": Source(
        "m̂/(√v̂ + ε)",
        "the spectrum of the step that Adam takes",
        "division entry by entry raises the rank above the gradient's (1.6 times in a small model)",
    ),
    "delta_prev": Source(
        "W_t − W_{t−1}, t−1 the checkpoint before",
        "the spectrum of the update between two checkpoints",
        "sums many steps and weight decay: not the gradient's rank (2.6 times it in a small model)",
    ),
    "delta_init": Source(
        "W_t − W_0",
        "the spectrum of the whole update",
        "sums all steps and weight decay: not the gradient's rank (2.6 times it in a small model)",
    ),
    "cumulative": Source(
        "Σ G Gᵀ (left) or Σ Gᵀ G (right) over the steps recorded so far",
        "the subspace all gradients share, against those of ΔW and W",
        "of the recorded steps only, and of their leading directions",
    ),
    "projector": Source(
        "GaLore's stored P",
        "overlaps of the projection between checkpoints",
        "a subspace without singular values, of the minibatch at its last refresh",
    ),
}


def spectrum_kind(source: str) -> str:
    """The name of a source's whole spectrum in the tables spectrum and spectrum_info."""
    return "gradient" if source == "grad" else source


KINDS = tuple(map(spectrum_kind, ("grad", "exp_avg", "adam_update", "delta_prev", "delta_init")))
