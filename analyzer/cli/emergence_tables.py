"""The tables of `show RUN --analysis emergence`: gradients of a run, matrix by matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from analyzer.errors import UsageError
from analyzer.views.emergence import source_table
from analyzer.views.emergence_summary import matrix_table
from analyzer.views.emergence_words import preferred, run_note, steps_note

if TYPE_CHECKING:
    from analyzer.store.reading import Store

__all__ = ["emergence_rows", "matrix_note", "matrix_rows", "run_note", "run_of", "source_rows"]

_SHOWN = (
    "matrix", "layer", "type", "stable_rank_first", "stable_rank_max", "stable_rank_end",
    "energy_r_end", "energy_in", "energy_cv", "signal_fraction", "cos_late", "overlap_late",
    "overlap_chance", "advised_rank", "advised_gap", "motion", "weight_erank_ratio",
    "pruned_ratio", "is_lrc",
)  # fmt: skip
_COLUMN_NOTES = {
    "cos_late": "cos, overlap: means within the second half; chance: that of random subspaces.",
    "advised_gap": "gap: longest that loses at most 5 % of what is captured one step later (GaLore,"
    " arXiv 2403.03507).",
    "pruned_ratio": "erank W/k, pruned, LRC: weights at the end (WeLore, arXiv 2407.11239).",
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
    return matrix_table(store, run, checkpoint_id).to_pylist()


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


def source_rows(store: Store, run: str, checkpoint_id: int) -> list[dict[str, Any]]:
    """One row a source: medians over the matrices, and what the source cannot say."""
    return source_table(store, run, checkpoint_id).to_pylist()


def matrix_note(rows: list[dict[str, Any]], shown: list[dict[str, Any]]) -> str:
    """How to read the table of matrices, column by column as far as there is one."""
    source, batch = preferred(rows)
    own = [r for r in rows if (r["source"], r["batch_id"]) == (source, batch)]
    there = set(shown[0]) if shown else set()
    told = [
        steps_note(rows),
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
