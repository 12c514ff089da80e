"""What numbers of one matrix mean, in words: with the thresholds, and never more certain than
the numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NEAR = 1.5  # a critical multiplier below this is worth a word
TUNED_WORDS = {"zero_delta": "equal to the base", "new_module": "new, not in the base"}
PHASE_WORDS = {
    "random_like": "random noise, no tail",
    "bulk_spikes": "noise and spikes, no tail",
    "heavy_tailed": "heavy tail",
    "bulk_decay": "no clear power law",
    "rank_collapse": "rank collapsed",
}
GOF = 0.1  # a goodness-of-fit p-value below this speaks against a power law (Clauset et al. 2009)

Row = Mapping[str, Any]


def intruder_verdict(row: Row) -> str:
    """A matrix's intruder numbers in a few words.

    Reads status, n_intruders, n_uncertain, k and critical_multiplier.
    """
    if row["status"] in TUNED_WORDS:
        return TUNED_WORDS[row["status"]]
    if row["status"] != "ok":
        return row["status"].replace("_", " ")
    if row["n_intruders"] is None:
        return "not compared"
    if row["n_uncertain"]:
        return f"{row['n_intruders']} new, {row['n_uncertain']} undecided"
    if row["n_intruders"]:
        return f"{row['n_intruders']} of {row['k']} are new"
    if row["critical_multiplier"] is not None and row["critical_multiplier"] < NEAR:
        return f"none; 1 at {row['critical_multiplier']:.2f} × ΔW"
    return "none"


def tail_verdict(row: Row) -> str:
    """A matrix's tail in a few words. Reads status, tail_status and phase."""
    if row["status"] not in ("ok", *TUNED_WORDS):
        return row["status"].replace("_", " ")
    if row["tail_status"] not in (None, "ok"):
        return row["tail_status"].replace("_", " ")
    return PHASE_WORDS.get(row["phase"], "undecided")


def intruder_sentence(row: Row) -> str:
    """How the leading vectors of one side compare with the base's.

    Reads a row of the intruder table, with `min_maxcos` and `status` of the matrix.
    """
    if row["status"] in TUNED_WORDS:
        return f"The matrix is {TUNED_WORDS[row['status']]}."
    if row["n_intruders"] is None:
        return "The matrix was not compared with a base."
    k, epsilon, n = row["k"], row["epsilon"], row["n_intruders"]
    threshold = f"|cosine| ≥ {epsilon:g}"
    asked = f"of the {k} leading {row['side']} singular vectors"
    cosine = row["min_maxcos"]
    lowest = "" if cosine is None else f"; the lowest best |cosine| is {cosine:.3f}"
    if n:
        text = f"{n} {asked} {_are(n)} new: no base vector reaches {threshold}{lowest}."
    else:
        text = f"None {asked} is new: each has a base vector with {threshold}{lowest}."
    if row["n_uncertain"]:
        text += f" The error bounds leave {row['n_uncertain']} of these decisions open."
    return text


def strength_sentence(row: Row) -> str:
    """The size of an update against what it takes to show. Reads a row of the intruder table."""
    parts = []
    sigma, theta = row["delta_spectral_norm"], row["theta_star"]
    if sigma is not None and theta is not None:
        place = "reaches" if sigma >= theta else "stays below"
        parts.append(
            f"σ₁(ΔW) = {sigma:.3g} {place} θ* = {theta:.3g}, "
            "where a generic component of an update is expected to show."
        )
    multiplier, limit = row["critical_multiplier"], row["critical_limit"]
    if multiplier is not None:
        parts.append(f"The first intruder appears at {multiplier:.3g} × ΔW.")
    elif limit is not None and not row["n_intruders"]:
        parts.append(f"No multiple of ΔW up to {limit:.3g} shows an intruder.")
    return " ".join(parts)


def size_sentence(row: Row) -> str:
    """How large an update is. Reads delta_fro_ratio, delta_effective_rank and delta_stable_rank."""
    if row["delta_fro_ratio"] is None:
        return ""
    text = f"‖ΔW‖ is {100 * row['delta_fro_ratio']:.3g} % of ‖W0‖ (Frobenius)"
    if row["delta_effective_rank"] is not None:
        text += f", spread over an effective rank of {row['delta_effective_rank']:.3g}"
    return f"{text}."


def tail_sentence(row: Row, whose: str) -> str:
    """The tail of one spectrum. Reads a row of the tail table."""
    if row["alpha"] is None:
        reason = row["status"].replace("_", " ")
        return f"{whose}: no tail was fitted ({reason})."
    text = f"{whose}: alpha = {row['alpha']:.3g}"
    if row["alpha_lo"] is not None and row["alpha_hi"] is not None:
        text += f" (95 %: {row['alpha_lo']:.3g} to {row['alpha_hi']:.3g})"
    text += f" from {row['n_tail']} of {row['n_evals']} eigenvalues"
    if row["gof_p"] is not None:
        says = "speaks against a power law" if row["gof_p"] < GOF else "does not rule it out"
        text += f"; goodness of fit p = {row['gof_p']:.2g} {says} (threshold {GOF:g})"
    if row["null_q"] is not None:
        text += f"; {100 * row['null_q']:.3g} % of random matrices of this shape have less"
    return f"{text}. Reading: {PHASE_WORDS.get(row['phase'], 'undecided')}."


def change_sentence(first: Row, second: Row) -> str:
    """Whether the tail exponents of two matrices differ. Reads two rows of the tail table."""
    bounds = [row[c] for row in (first, second) for c in ("alpha", "alpha_lo", "alpha_hi")]
    if any(value is None for value in bounds):
        return ""
    change = second["alpha"] - first["alpha"]
    apart = first["alpha_hi"] < second["alpha_lo"] or second["alpha_hi"] < first["alpha_lo"]
    says = "do not overlap" if apart else "overlap: no change is shown"
    return f"alpha changes by {change:+.2g}; the 95 % intervals {says}."


def _are(n: int) -> str:
    return "is" if n == 1 else "are"
