"""Five-label reading of a spectrum, after the phases of C. H. Martin & M. W. Mahoney.

"Implicit Self-Regularization in Deep Neural Networks", arXiv 1810.01075, section 4. The labels
follow from tests against random matrices instead of thresholds on the exponent, which pure noise
passes. They describe a spectrum; they say nothing certain about training.
"""

from __future__ import annotations

from typing import Literal

Phase = Literal["rank_collapse", "random_like", "bulk_spikes", "heavy_tailed", "bulk_decay"]


def phase(
    *,
    numerical_rank: int,
    full_rank: int,
    bulk_is_random: bool,
    num_spikes: int,
    xi_lo: float | None,
    gof_p: float | None,
) -> Phase | None:
    """Label from the bulk fit, the interval of the extreme-value index and the goodness of fit.

    None where the bulk is not random and `xi_lo` is missing, or where it is positive and `gof_p`
    is missing: the two remaining labels cannot be told apart then.
    """
    if numerical_rank < full_rank / 2:
        return "rank_collapse"
    if bulk_is_random:
        return "bulk_spikes" if num_spikes else "random_like"
    if xi_lo is None:
        return None
    if xi_lo <= 0.0:
        return "bulk_decay"
    if gof_p is None:
        return None
    return "heavy_tailed" if gof_p >= 0.1 else "bulk_decay"
