"""Polynomials that replace exp on [-B, B], and how many features they cost in attention.

J. Alman & Z. Song, arXiv 2302.13214, 2023, turn exp(S), S = β Q Kᵀ of head width d_h, into a
product of two matrices with one column per monomial of a polynomial in q·k. The degree here is that
of the Chebyshev truncation of exp (exact error, no hidden constants), not of their Θ(·).

A feature count above the sequence length means that this explicit construction does not pay. It
does not mean that the head is hard: the conditions on entries in J. Hu et al., arXiv 2406.03136,
are sufficient ones, their hardness results are for the worst case at d_h = O(log L), and for
constant d_h other algorithms exist (arXiv 2505.14840).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import NDArray
from scipy.special import hyp0f1, i0e, iv

Array = NDArray[np.float64]

MAX_MONOMIAL_DEGREE = 24  # beyond it cancellation between monomials ruins float64
_MAX_BOUND = 1e5  # of |S|: the recurrence takes a few times as many steps
_MARGIN = 40  # ratios this far below the start of the recurrence are exact in float64


@dataclass(frozen=True, slots=True)
class BreakEven:
    """Lengths in tokens from which the feature form needs fewer operations than exact attention."""

    forward: float
    backward: float


def log_truncation_error(bound: float, degree: int, *, relative: bool = False) -> float:
    """ln max |exp(x) - p(x)| over |x| ≤ `bound`, p the Chebyshev truncation of that degree.

    exp(x) = I_0(B) + 2 Σ I_k(B) T_k(x/B) with modified Bessel functions I_k, so that the maximum,
    reached at x = B, is 2 Σ_{k > degree} I_k(B). `relative` adds B, the worst case of dividing by
    exp(x): an upper bound that is not attained. A logarithm because both overflow for B > 700;
    -inf for B = 0. Raises ValueError for a bound outside [0, 1e5] or a negative degree.
    """
    _check_bound(bound)
    _check_degree(degree)
    tails = _log_tails(bound, max(degree, math.ceil(2.0 * bound)) + 2 * _MARGIN)
    return float(tails[degree]) + (bound if relative else 0.0)


def certified_degree(bound: float, eps: float, *, relative: bool = False) -> int:
    """Least g whose Chebyshev truncation of exp on [-bound, bound] has an error ≤ `eps`.

    Exact for the absolute error (it equals the least truncation degree that meets `eps`); an upper
    bound for the relative one, max |exp(x) - p(x)|/exp(x). Other polynomials of the degree may do
    better, a weighted minimax fit much better in the relative sense.
    Raises ValueError for a bound outside [0, 1e5] or eps that is not positive and finite.
    """
    _check_bound(bound)
    _check_eps(eps)
    target = math.log(eps) - (bound if relative else 0.0)
    terms = math.ceil(2.0 * bound) + 2 * _MARGIN
    while True:
        tails = _log_tails(bound, terms)
        meets = np.flatnonzero(tails[: terms - _MARGIN] <= target)
        if meets.size:
            return int(meets[0])
        terms *= 2


def _log_tails(bound: float, terms: int) -> Array:
    """ln 2 Σ_{k>g} I_k(B) for g = 0 … terms - 1, by downward recurrence of ratios in (0, 1).

    r_k = I_{k+1}/I_k = B/(2(k+1) + B r_{k+1}), and Σ_{j≥k} I_j/I_k = 1 + r_k Σ_{j≥k+1} I_j/I_{k+1}.
    Every term is positive: nothing cancels, over- or underflows. Both start from zero, an error
    that is gone `_MARGIN` steps below the start because r < 1/4 there for terms > 2B.
    """
    ratios, sums = np.zeros(terms + 1), np.ones(terms + 2)
    ratio, total = 0.0, 1.0
    for k in range(terms, -1, -1):
        ratio = bound / (2.0 * (k + 1) + bound * ratio)
        ratios[k] = ratio
        sums[k] = total = 1.0 + ratio * total
    with np.errstate(divide="ignore"):
        logs = math.log(i0e(bound)) + bound + np.cumsum(np.log(ratios))  # ln I_1, ln I_2, …
    return math.log(2.0) + logs[:terms] + np.log(sums[1 : terms + 1])


def chebyshev_coefficients(bound: float, degree: int) -> Array:
    """Coefficients (degree + 1,) of T_k(x/bound): I_0(B), 2 I_1(B), 2 I_2(B), …

    Raises ValueError where they overflow, for B above about 710.
    """
    _check_bound(bound)
    _check_degree(degree)
    coefficients = 2.0 * iv(np.arange(degree + 1), bound)
    coefficients[0] *= 0.5
    if not np.all(np.isfinite(coefficients)):
        raise ValueError(f"exp overflows float64 on [-{bound:g}, {bound:g}]; the limit is near 710")
    return coefficients


def monomial_coefficients(bound: float, degree: int) -> Array:
    """c (degree + 1,) with p(x) = Σ c_k x^k, the same truncation; 1/k! in the limit bound → 0.

    Rounding moves p by about 1e-16·exp(√2·bound) on the interval. Features multiply monomials of q
    and k and round by about 1e-16·exp(max Σ_c |β q_c k_c|), which may be more.
    Raises ValueError for a degree above 24, where sums of monomials are no longer safe in float64:
    use `chebyshev_coefficients` there.
    """
    _check_bound(bound)
    _check_degree(degree)
    if degree > MAX_MONOMIAL_DEGREE:
        raise ValueError(
            f"degree {degree} exceeds {MAX_MONOMIAL_DEGREE}, the largest safe for monomials in "
            "float64"
        )
    chebyshev_coefficients(bound, 0)  # refuses what overflows
    powers = np.arange(degree + 1)
    # I_j(B)/B^j, which neither underflows nor divides by zero for small B
    factorials = np.array([float(math.factorial(j)) for j in powers])
    scaled = 2.0 * hyp0f1(powers + 1.0, 0.25 * bound * bound) / (2.0**powers * factorials)
    scaled[0] *= 0.5
    coefficients = np.zeros(degree + 1)
    for j in powers:
        terms = chebyshev.cheb2poly(np.eye(degree + 1)[j, : j + 1])
        coefficients[: j + 1] += scaled[j] * terms * float(bound) ** (j - powers[: j + 1])
    return coefficients


def feature_count(width: int, degree: int) -> int:
    """k₁ = C(width + degree, degree): monomials of degree ≤ g in d_h variables, exactly."""
    _check_width(width)
    _check_degree(degree)
    return math.comb(width + degree, degree)


def log_feature_count(width: int, degree: int) -> float:
    """ln k₁ by log-gamma, for counts too large to be written down."""
    _check_width(width)
    _check_degree(degree)
    return math.lgamma(width + degree + 1) - math.lgamma(width + 1) - math.lgamma(degree + 1)


def log_feature_count_loose(width: int, degree: int) -> float:
    """ln C(2(g + d_h), 2g), the looser count in the analysis of Alman & Song."""
    return log_feature_count(2 * width, 2 * degree)


def rank_exponent(width: int, length: int, logit_bound: float, *, relative: bool = False) -> float:
    """ln k₁/ln L at the degree that makes exp accurate to 1/L on |S| ≤ `logit_bound`.

    `width` is d_h, `length` is L. Rows of attention are then off by at most 2/(L - 1) in ℓ₁
    norm for

    - absolute accuracy, no mask, `logit_bound` = max|S| of keys minus their mean, as row sums of
      exp are then ≥ L. Half the range of a row is not such a bound: max|S| may be twice as large;
    - `relative` accuracy, any mask, max|S| or half the largest range of a row. Shifting a row by
      the middle of its range only changes the coefficients that its query features carry.

    Free of hidden constants: below 1 the construction has fewer features than tokens. At d_h ≥ 64
    and L = 4096 it exceeds 1 from |S| of about 0.2 on: explicit features do not pay there. It says
    nothing about other algorithms.
    Raises ValueError for L < 2, where ln L is not positive.
    """
    if length < 2:
        raise ValueError(f"the sequence length must be at least 2, got {length}")
    degree = certified_degree(logit_bound, 1.0 / length, relative=relative)
    return log_feature_count(width, degree) / math.log(length)


def break_even_lengths(width: int, degree: int) -> BreakEven:
    """k₁ tokens for the forward and about (2/3) k₁ d_h for the backward pass.

    From counted operations; memory traffic moves the real crossing.
    """
    count = float(feature_count(width, degree))
    return BreakEven(forward=count, backward=2.0 / 3.0 * count * width)


def _check_bound(bound: float) -> None:
    if not 0.0 <= bound <= _MAX_BOUND:
        raise ValueError(f"the bound on |x| must lie in [0, {_MAX_BOUND:g}], got {bound}")


def _check_eps(eps: float) -> None:
    if not 0.0 < eps < math.inf:
        raise ValueError(f"the accuracy must be positive and finite, got {eps}")


def _check_degree(degree: int) -> None:
    if degree < 0:
        raise ValueError(f"the degree must not be negative, got {degree}")


def _check_width(width: int) -> None:
    if width < 1:
        raise ValueError(f"the width must be at least 1, got {width}")
