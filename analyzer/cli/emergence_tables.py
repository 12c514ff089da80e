"""The tables of `show RUN --analysis emergence`: gradients of a run, matrix by matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from analyzer.errors import UsageError

if TYPE_CHECKING:
    from analyzer.store.reading import Store

# What is shown of a matrix, the first of these that the run has.
_PREFERRED = (
    ("grad", "probe"), ("grad", "saved"), ("grad", "train"), ("exp_avg", None),
    ("delta_init", None), ("delta_prev", None),
)  # fmt: skip
_SHOWN = (
    "matrix", "layer", "type", "stable_rank_first", "stable_rank_max", "stable_rank_end",
    "energy_r_end", "energy_in", "energy_cv", "signal_fraction", "cos_late", "overlap_late",
    "overlap_chance", "advised_rank", "advised_gap", "motion", "weight_erank_ratio",
    "pruned_ratio", "is_lrc",
)  # fmt: skip
_ROWS = """
    SELECT e.*, s.effective_rank / least(m.rows, m.cols) AS weight_erank_ratio,
           w.rank_pruned / least(m.rows, m.cols) AS pruned_ratio, w.is_lrc
    FROM emergence e JOIN matrix m USING (matrix_id) LEFT JOIN welore w USING (matrix_id)
         LEFT JOIN spectrum_info s ON s.matrix_id = m.matrix_id AND s.kind = 'weight'
    WHERE e.run = ? AND m.checkpoint_id = ?
    ORDER BY stack NULLS FIRST, e.layer NULLS FIRST, type, expert, matrix, source, batch_id
"""
_SOURCES = """
    SELECT source, batch_id, max(n_steps) AS n_steps, min(step_first) AS step_first,
           max(step_last) AS step_last, median(stable_rank_first) AS stable_rank_first,
           median(stable_rank_max) AS stable_rank_max, median(stable_rank_end) AS stable_rank_end,
           median(energy_r_end) AS energy_r_end, median(cos_adjacent) AS cos_adjacent,
           median(cos_late) AS cos_late, median(overlap_late) AS overlap_late,
           any_value(caution) AS caution
    FROM emergence JOIN matrix USING (matrix_id)
    WHERE run = ? AND checkpoint_id = ? GROUP BY ALL ORDER BY source, batch_id
"""
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
_COLUMN_NOTES = {
    "cos_late": "cos, overlap: means within the second half; chance: that of random subspaces.",
    "advised_gap": "gap: longest that loses at most 5 % of what is captured one step later (GaLore,"
    " arXiv 2403.03507).",
    "pruned_ratio": "erank W/k, pruned, LRC: weights at the end (WeLore, arXiv 2407.11239).",
}
_WORDS = {
    "stable_rank_end": "stable rank at the end",
    "cos_all": "mean cosine",
    "weight_erank_ratio": "erank W/k",
    "pruned_ratio": "WeLore's pruned share",
}


def run_of(store: Store, checkpoint: dict[str, Any]) -> tuple[str, int]:
    """The followed run a checkpoint belongs to and its last checkpoint.

    Raises UsageError where none was followed.
    """
    run = checkpoint["run"] or checkpoint["name"]
    query = "SELECT 1 FROM duckdb_tables() WHERE table_name = 'emergence'"
    rows = []
    if store.sql(query).num_rows:
        rows = store.sql(
            "SELECT checkpoint_id FROM emergence JOIN matrix USING (matrix_id)"
            " JOIN checkpoint c USING (checkpoint_id) WHERE emergence.run = ?"
            " ORDER BY c.checkpoint_id = ? DESC, step DESC LIMIT 1",
            [run, checkpoint["checkpoint_id"]],
        ).to_pylist()
    if not rows:
        raise UsageError(
            f"nothing was followed of the run {run}",
            path=store.db,
            hint="it needs several steps, optimizer.pt or recorded gradients; scan it again",
        )
    return run, rows[0]["checkpoint_id"]


def emergence_rows(store: Store, run: str, checkpoint_id: int) -> list[dict[str, Any]]:
    """One row a matrix and source, with the rank of the weights at the end."""
    return store.sql(_ROWS, [run, checkpoint_id]).to_pylist()


def matrix_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a matrix: the best source, with the advice on gaps that only the minibatch gives."""
    chosen = preferred(rows)
    minibatch = {r["matrix"]: r for r in rows if (r["source"], r["batch_id"]) == ("grad", "train")}
    shown = []
    for row in rows:
        if (row["source"], row["batch_id"]) != chosen:
            continue
        lags = minibatch.get(row["matrix"], row)
        row = row | {name: lags[name] for name in ("advised_gap", "motion")}
        shown.append({name: row[name] for name in _SHOWN})
    places = [(row["layer"], row["type"]) for row in shown]
    unique = len(set(places)) == len(places)
    hidden = {"matrix"} if unique else {"layer", "type"}
    hidden |= {name for name in _SHOWN if all(row[name] is None for row in shown)}
    if "energy_in" not in hidden:  # of the same steps as the energies beside it
        hidden |= {"energy_r_end"}
    return [{name: row[name] for name in row if name not in hidden} for row in shown]


def preferred(rows: list[dict[str, Any]]) -> tuple[str, str | None]:
    """Source and batch that speak for the run."""
    there = {(row["source"], row["batch_id"]) for row in rows}
    return next((one for one in _PREFERRED if one in there), ("grad", None))


def source_rows(store: Store, run: str, checkpoint_id: int) -> list[dict[str, Any]]:
    """One row a source: medians over the matrices, and what the source cannot say."""
    return store.sql(_SOURCES, [run, checkpoint_id]).to_pylist()


def matrix_note(rows: list[dict[str, Any]], shown: list[dict[str, Any]]) -> str:
    """How to read the table of matrices, column by column as far as there is one."""
    source, batch = preferred(rows)
    own = [r for r in rows if (r["source"], r["batch_id"]) == (source, batch)]
    first, last = own[0]["step_first"], own[0]["step_last"]
    words = {
        "probe": "one fixed batch", "saved": "the saved gradients", "train": "the minibatches",
        None: source,
    }[batch]  # fmt: skip
    there = set(shown[0]) if shown else set()
    told = [
        f"From {words}, {max(r['n_steps'] for r in own)} steps from {first} to {last}.",
        "sr: stable rank at the first step, its maximum, the last.",
    ]
    if "energy_cv" in there:
        told.append(
            f"E: share of energy in {own[0]['r']} directions, in the batch they come from and,"
            " cross-validated, in the expected gradient; signal: cosine of two independent"
            " batches, the noise ceiling, below 0.1 of which cross-validated energies mean little:"
            " all over the second half of the steps."
        )
    else:
        told.append(f"E: share of energy in {own[0]['r']} directions at the last step.")
    if "advised_rank" in there:
        measured = any(row["energy_out"] is not None for row in own)
        told.append(
            "rank: least that holds 90 % of another batch."
            if measured
            else "rank: least that holds 90 % of the batch it comes from, which is optimistic."
        )
    told += [text for name, text in _COLUMN_NOTES.items() if name in there]
    return " ".join(told)


def run_note(store: Store, run: str, checkpoint_id: int, rows: list[dict[str, Any]]) -> str:
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


def _advice(rows: list[dict[str, Any]]) -> str:
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
