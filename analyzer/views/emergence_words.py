"""A followed run in sentences: where its numbers come from, what is advised, what goes together."""

from __future__ import annotations

from typing import Any

from analyzer.store.reading import Store
from analyzer.views.emergence import PREFERRED, last_checkpoint
from analyzer.views.emergence_summary import matrix_table

Row = dict[str, Any]

# Asked of every run alike, so that nothing is picked for its p-value.
_CORRELATIONS = """
    SELECT source, x, y, n, rho, p FROM emergence_correlation
    WHERE run = ? AND checkpoint_id = ? AND method = 'spearman' AND "group" = 'all'
          AND (coalesce(batch_id, ''), source, x, y) IN (
              (?, ?, 'stable_rank_end', 'weight_erank_ratio'), (?, ?, 'cos_all', 'pruned_ratio'),
              ('', 'delta_init', 'stable_rank_end', 'pruned_ratio'))
    ORDER BY source DESC, x DESC
"""
_MEMORY = """
    SELECT convention, method, bf16_gigabytes FROM galore_memory
    WHERE run = ? AND checkpoint_id = ? AND (rank = ? OR rank IS NULL)
"""
_WORDS = {
    "stable_rank_end": "stable rank at the end",
    "cos_all": "mean cosine",
    "weight_erank_ratio": "erank W/k",
    "pruned_ratio": "WeLore's pruned share",
}


def preferred(rows: list[Row]) -> tuple[str, str | None]:
    """Source and batch that speak for the run."""
    there = {(row["source"], row["batch_id"]) for row in rows}
    return next((one for one in PREFERRED if one in there), ("grad", None))


def run_words(store: Store, run: str) -> str:
    """Advice, memory and correlations of a run; empty where nothing was followed."""
    last = last_checkpoint(store, run)
    if last is None:
        return ""
    return run_note(store, run, last, matrix_table(store, run, last).to_pylist())


def steps_note(rows: list[Row]) -> str:
    """What the numbers of the preferred source are taken from, and its steps."""
    source, batch = preferred(rows)
    own = [r for r in rows if (r["source"], r["batch_id"]) == (source, batch)]
    words = {
        "probe": "one fixed batch", "saved": "the saved gradients", "train": "the minibatches",
        None: source,
    }[batch]  # fmt: skip
    first, last = own[0]["step_first"], own[0]["step_last"]
    return f"From {words}, {max(r['n_steps'] for r in own)} steps from {first} to {last}."


def run_note(store: Store, run: str, checkpoint_id: int, rows: list[Row]) -> str:
    """Advice, memory and the correlations asked of every run, in sentences."""
    source, batch = preferred(rows)
    own = [r for r in rows if (r["source"], r["batch_id"]) == (source, batch)]
    parts = [_advice(own)] if source == "grad" else []
    ranks = [row["advised_rank"] for row in own if row["advised_rank"] is not None]
    if ranks:
        parts += _memory(store, run, checkpoint_id, max(ranks))
    named = [batch or "", source] * 2
    found = store.sql(_CORRELATIONS, [run, checkpoint_id, *named]).to_pylist()
    told = [
        f"{row['source']} {_WORDS[row['x']]} against {_WORDS[row['y']]} {row['rho']:+.2f} "
        f"(p = {row['p']:.2g}, n = {row['n']})"
        for row in found
        if row["rho"] is not None
    ]
    if told:
        parts.append(f"Spearman over the matrices: {'; '.join(told)}.")
    return " ".join(parts)


def _advice(rows: list[Row]) -> str:
    reached = [row for row in rows if row["advised_rank"] is not None]
    other = any(row["energy_out"] is not None for row in rows)
    batch = "of another batch's energy" if other else "of its own energy (no second batch)"
    text = f"90 % {batch} is held by the directions recorded in {len(reached)} of {len(rows)}"
    if reached:
        ranks = sorted(row["advised_rank"] for row in reached)
        text += f" matrices, by rank {ranks[0]} to {ranks[-1]}"
    else:
        text += " matrices"
    worth = sum(bool(row["worth_projecting"]) for row in rows)
    return f"{text}; projecting pays for {worth}." if other else f"{text}."


def _memory(store: Store, run: str, checkpoint_id: int, rank: int) -> list[str]:
    """Weights and optimizer at the power of two that covers every advised rank."""
    power = max(4, 2 ** max(rank - 1, 0).bit_length())
    rows = store.sql(_MEMORY, [run, checkpoint_id, power]).to_pylist()
    size = {(row["convention"], row["method"]): row["bf16_gigabytes"] for row in rows}
    if ("exact", "galore") not in size:
        return []
    told = ", ".join(
        f"{name} {_megabytes(size['exact', name])}" for name in ("full", "lora", "galore")
    )
    paper = _megabytes(size["paper", "galore"])
    return [
        f"Weights and Adam in bf16 at rank {power}: {told} (GaLore by the paper's convention "
        f"{paper})."
    ]


def _megabytes(gigabytes: float) -> str:
    return f"{gigabytes:.3g} GB" if gigabytes >= 1 else f"{1000 * gigabytes:.3g} MB"
