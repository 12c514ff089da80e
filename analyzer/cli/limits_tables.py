"""The tables of `show NAME --analysis limits`: heads of every layer against the threshold."""

from __future__ import annotations

from collections import Counter
from statistics import median
from typing import TYPE_CHECKING, Any

from analyzer.cli.heat import Cell
from analyzer.errors import UsageError

if TYPE_CHECKING:
    from analyzer.store.reading import Store

Row = dict[str, Any]

# What is shown of a checkpoint, the first of these that it has.
_PREFERRED = ("activations", "data_free")
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
_MEANING = (
    "Implied: where entries are below √(ln L), theorem 3.1 or A.1 of arXiv 2406.03136 gives an "
    "almost linear-time algorithm, with the constant 1 that we chose. Not implied: that a head "
    "above it is hard, for the lower bound speaks of the worst input; or that the algorithm pays "
    "at this d_h, see the features it needs. A fixed norm leaves the guarantee as L shrinks."
)


def limits_rows(store: Store, checkpoint: Row) -> list[Row]:
    """Every row of a checkpoint, source by source.

    Raises UsageError where none was computed.
    """
    rows: list[Row] = []
    query = "SELECT 1 FROM duckdb_tables() WHERE table_name = 'lora_limits'"
    if store.sql(query).num_rows:
        rows = store.sql(
            "SELECT * FROM lora_limits WHERE checkpoint_id = ?"
            " ORDER BY source, stack NULLS FIRST, layer, module, head",
            [checkpoint["checkpoint_id"]],
        ).to_pylist()
    if not rows:
        raise UsageError(
            f"no attention layer of {checkpoint['name']} was compared with the thresholds",
            path=store.db,
            hint="scan it with --analyses limits; its config.json must name the number of heads",
        )
    return rows


def preferred(rows: list[Row]) -> list[Row]:
    """Those of the best source: measured, else bounds."""
    there = {row["source"] for row in rows}
    source = next((one for one in _PREFERRED if one in there), "spherical")
    return [row for row in rows if row["source"] == source]


def heat_rows(rows: list[Row]) -> dict[str, list[Cell]]:
    """Layer → one cell a head: ratio_logit, beside it ratio_as."""
    several = len({row["module"].rsplit(".", 1)[-1] for row in rows}) > 1
    stacks = len({row["stack"] for row in rows}) > 1 or several
    cells: dict[str, list[Cell]] = {}
    for row in rows:
        name = row["module"] if stacks else str(row["layer"])
        text = f"{_short(row['ratio_logit'])}/{_short(row['ratio_as'])}"
        cells.setdefault(name, []).append(Cell(text, row["band_logit"] or row["band_as"]))
    return cells


def summary_row(rows: list[Row]) -> Row:
    """The table of a paper: medians and maxima over the heads, verdicts, headroom."""
    first = rows[0]
    found: Row = {
        "model": first["adapter"] or first["model"],
        "L": first["L"],
        "d_h/ln L": first["width_over_log"],
    }
    for name in ("gamma_q", "gamma_k", "gamma_dq"):
        values = [row[name] for row in rows if row[name] is not None]
        found[f"{name} median"] = median(values) if values else None
        found[f"{name} max"] = max(values, default=None)
    for name in ("ratio_as", "ratio_logit", "rank_exponent"):
        found[name] = _median(rows, name)
    found["min headroom"] = min(_known(rows, "headroom"), default=None)
    return found


def note(rows: list[Row], everything: list[Row]) -> list[str]:
    """Source, verdicts, cost and meaning, a paragraph each."""
    first = rows[0]
    counts = Counter(row["verdict"] for row in rows if row["verdict"])
    told = [f"{counts[name]} {name} ({why})" for name, why in _VERDICTS if counts[name]]
    paragraphs = [
        "Cells: ratio_logit/ratio_as = √max|S| and √(β·d_h)·max entry of q and k, over √(ln L) = "
        f"{first['threshold']:.3g} at L = {first['L']}; · below 0.8, ○ near, ● above 1.25. "
        f"{_source(first)}.",
        f"Heads: {', '.join(told)}." if told else "No verdict.",
        _cost(rows),
    ]
    paragraphs += _room(rows)
    if first["source"] == "activations":
        paragraphs += _bounds(everything)
    warnings = sorted({row["warnings"] for row in rows if row["warnings"]})
    paragraphs += [f"Left out or approximate: {'; '.join(warnings)}."] if warnings else []
    return [*paragraphs, _MEANING]


def _source(row: Row) -> str:
    words = _WORDS.get(row["source"], "Typical values of random tokens, no bound")
    return words.format(tokens=row["n_tokens"], of=row["activations_of"], samples=row["n_samples"])


def _cost(rows: list[Row]) -> str:
    exponents, features = _known(rows, "rank_exponent"), _known(rows, "log10_features")
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
    headroom = _known(tuned, "headroom")
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


def _known(rows: list[Row], name: str) -> list[float]:
    return [row[name] for row in rows if row[name] is not None]


def _median(rows: list[Row], name: str) -> float | None:
    values = _known(rows, name)
    return median(values) if values else None


def _short(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:#.3g}".rstrip(".")
