"""Likelihood-ratio tests between tail models, and what they allow to say.

Q. H. Vuong, Econometrica 57, 1989; A. Clauset, C. R. Shalizi & M. E. J. Newman (CSN),
arXiv 0706.1062, section 5 and appendix C.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import erfc
from scipy.stats import chi2

from theory.tail_models import TailModel

Verdict = Literal["supported", "plausible", "rejected"]

SIGNIFICANT = 0.1  # CSN's level, for goodness of fit and for comparisons
ENOUGH = 50  # tail values below which CSN trust no verdict


@dataclass(frozen=True, slots=True)
class Comparison:
    """`ratio` R = Σ(l₁ - l₂) > 0 favours the first model; `normalized` = R/√(n s²)."""

    ratio: float
    normalized: float
    p: float


def compare(first: TailModel, second: TailModel, *, nested: bool = False) -> Comparison:
    """Vuong's test, or Wilks' for a first model nested in the second.

    p = erfc(|R|/√(2 n s²)), s² the variance of the pointwise differences; nested: P(χ²₁ > 2|R|)
    (CSN eq. C.6 and C.7). The power law is the truncated one at Λ = 0, the edge of its range,
    where half of that p would be exact (S. G. Self & K.-Y. Liang, JASA 82, 1987).
    """
    difference = first.pointwise - second.pointwise
    ratio = float(difference.sum())
    spread = float(np.sqrt(difference.size) * difference.std())
    normalized = ratio / spread if spread > 0.0 else 0.0
    if nested:
        return Comparison(ratio, normalized, float(chi2.sf(2.0 * abs(ratio), 1)))
    return Comparison(ratio, normalized, float(erfc(abs(normalized) / np.sqrt(2.0))))


def compare_with_power_law(models: Mapping[str, TailModel]) -> dict[str, Comparison | None]:
    """The power law against every alternative by name; None for a degenerate one."""
    plain = models["power_law"]
    return {
        name: None
        if other.degenerate
        else compare(plain, other, nested=name == "truncated_power_law")
        for name, other in models.items()
        if name != "power_law"
    }


def best_model(models: Mapping[str, TailModel]) -> str:
    """Name of the lowest AIC among models that are not degenerate."""
    return min((m.aic, name) for name, m in models.items() if not m.degenerate)[1]


def verdict(gof_p: float, comparisons: Mapping[str, Comparison | None], n_tail: int) -> Verdict:
    """What the tests say of the power law (CSN table 6.1, three grades of support).

    Rejected: goodness of fit below 0.1, or an alternative significantly better. Supported: every
    alternative significantly worse or degenerate, and at least 50 values. Else plausible.
    """
    tests = [c for c in comparisons.values() if c is not None]
    if gof_p < SIGNIFICANT or any(c.ratio < 0.0 and c.p < SIGNIFICANT for c in tests):
        return "rejected"
    rivals = any(c.p >= SIGNIFICANT for c in tests)
    return "plausible" if rivals or n_tail < ENOUGH else "supported"
