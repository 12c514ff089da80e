"""The heads of a checkpoint in sentences: source, verdicts, cost, room for alpha, what follows."""

from __future__ import annotations

from collections import Counter
from typing import Any

from analyzer.store.reading import Store
from analyzer.views.limits import SOURCES

Row = dict[str, Any]

_WORDS = {
    "activations": "Measured on {tokens} tokens of {of} in {samples} sequences, the largest of "
    "each; inputs are the base's where a checkpoint was tuned from one",
    "data_free": "Upper bounds for every text, from weights alone: expect them several times above "
    "what a text reaches",
}
_VERDICTS = (
    ("certified", "the largest entries are below the threshold"),
    ("effective", "the entries are not, the logits are"),
    ("borderline", "the logits are near it"),
    ("outside", "the logits are above it"),
    ("undecided", "the bound is not below it, which says nothing"),
)
MEANING = (
    "Implied: where entries are below √(ln L), theorem 3.1 or A.1 of arXiv 2406.03136 gives an "
    "almost linear-time algorithm, with the constant 1 that we chose. Not implied: that a head "
    "above it is hard, for the lower bound speaks of the worst input; or that the algorithm pays "
    "at this d_h, see the features it needs. A fixed norm leaves the guarantee as L shrinks."
)
# What the sentences are made from.
_ROWS = """
    SELECT source, n_tokens, n_samples, activations_of, verdict, width_over_log, rank_exponent,
           log10_features, lora_alpha, headroom, alpha_unbounded, warnings
    FROM lora_limits JOIN checkpoint c USING (checkpoint_id) WHERE c.name = ?
"""


def preferred(rows: list[Row]) -> list[Row]:
    """Those of the best source: measured, else bounds."""
    there = {row["source"] for row in rows}
    source = next((one for one in SOURCES if one in there), "spherical")
    return [row for row in rows if row["source"] == source]


def head_words(store: Store, checkpoint: str, source: str) -> list[str]:
    """Sentences on the heads of one source, a paragraph each; none where there are no heads."""
    everything = store.sql(_ROWS, [checkpoint]).to_pylist()
    rows = [row for row in everything if row["source"] == source]
    return [f"{source_words(rows[0])}.", *paragraphs(rows, everything)] if rows else []


def paragraphs(rows: list[Row], everything: list[Row]) -> list[str]:
    """Verdicts, cost, room for alpha, bounds and what is left out, a paragraph each."""
    counts = Counter(row["verdict"] for row in rows if row["verdict"])
    told = [f"{counts[name]} {name} ({why})" for name, why in _VERDICTS if counts[name]]
    parts = [f"Heads: {', '.join(told)}." if told else "No verdict.", _cost(rows), *_room(rows)]
    if rows[0]["source"] == "activations":
        parts += _bounds(everything)
    warnings = sorted({row["warnings"] for row in rows if row["warnings"]})
    return parts + ([f"Left out or approximate: {'; '.join(warnings)}."] if warnings else [])


def source_words(row: Row) -> str:
    """Where a row's numbers come from."""
    words = _WORDS.get(row["source"], "Typical values of random tokens, no bound")
    return words.format(tokens=row["n_tokens"], of=row["activations_of"], samples=row["n_samples"])


def known(rows: list[Row], name: str) -> list[float]:
    """The values of a column that are not NULL."""
    return [row[name] for row in rows if row[name] is not None]


def _cost(rows: list[Row]) -> str:
    exponents, features = known(rows, "rank_exponent"), known(rows, "log10_features")
    widths = sorted({row["width_over_log"] for row in rows})
    text = f"d_h/ln L = {', '.join(f'{w:.3g}' for w in widths)} (the theorems take it as bounded). "
    if not exponents:
        return text + "Explicit features: not known without the logits."
    fewer = sum(one < 1 for one in exponents)
    most = "at most " if rows[0]["source"] == "data_free" else ""
    return (
        f"{text}Explicit features, exp accurate to 1/L: {most}10^{min(features):.3g} to "
        f"10^{max(features):.3g} a token, rank_exponent {min(exponents):.3g} to "
        f"{max(exponents):.3g}; {fewer} of {len(rows)} heads need fewer than L."
    )


def _room(rows: list[Row]) -> list[str]:
    """How far alpha may be raised before the queries exceed the threshold."""
    tuned = [row for row in rows if row["lora_alpha"] is not None and row["source"] != "data_free"]
    if not tuned:
        return []
    headroom = known(tuned, "headroom")
    unbounded = sum(bool(row["alpha_unbounded"]) for row in tuned)
    over = len(tuned) - len(headroom) - unbounded
    text = "alpha: "
    if headroom:
        text += f"min headroom {min(headroom):.3g} × lora_alpha over {len(headroom)} heads; "
    text += f"in {over} heads the base alone exceeds the threshold"
    return [text + (f"; {unbounded} have no update." if unbounded else ".")]


def _bounds(everything: list[Row]) -> list[str]:
    """What holds for every text, beside what was measured on one."""
    bounds = [row for row in everything if row["source"] == "data_free"]
    if not bounds:
        return []
    sure = sum(row["verdict"] in ("certified", "effective") for row in bounds)
    return [f"For every text (bounds from weights alone): {sure} of {len(bounds)} heads below."]
