"""Intruder dimensions, vector by vector: cosine maps, largest cosines by rank, dynamics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from analyzer.store.reading import Store
from analyzer.views.intruders import DEFINED, NEWEST
from analyzer.views.view import View

SOURCE = "Shuttleworth et al. 2024, arXiv 2410.21228"
SCAN_AGAIN = "The store was written before these were kept: `analyzer scan PATH` adds them."

_COSINES = pa.schema(
    [
        ("checkpoint", pa.string()), ("matrix", pa.string()), ("i", pa.int64()), ("j", pa.int64()),
        ("cosine", pa.float64()), ("maxcos", pa.float64()), ("argmax_base", pa.int64()),
        ("is_intruder", pa.bool_()),
    ]
)  # fmt: skip
_DYNAMICS = pa.schema(
    [
        ("track", pa.int64()), ("step", pa.int64()), ("j", pa.int64()), ("sigma", pa.float64()),
        ("maxcos", pa.float64()), ("maxcos_err", pa.float64()), ("cosine", pa.float64()),
        ("is_intruder", pa.bool_()), ("ever_intruder", pa.bool_()),
    ]
)  # fmt: skip

# Of orthonormal vectors at most one can have a squared cosine above ½ with a given one, so that
# no two vectors continue the same track.
SAME = math.sqrt(0.5)


def cosine_maps(
    store: Store,
    matrices: Sequence[tuple[str, str]],
    side: str = "left",
    epsilon: float = 0.5,
) -> View:
    """|cosine| of leading tuned (`j`) and base (`i`) vectors of (checkpoint, matrix) pairs.

    `is_intruder` marks the columns j whose largest |cosine| with any base vector, not only with
    the leading ones, is below ε. Empty for a store without table ``intruder_cosine``.
    """
    table = _COSINES.empty_table()
    if "intruder_cosine" in store.tables():
        table = store.sql(
            f"""
            WITH asked AS (
                SELECT unnest($1) AS checkpoint, unnest($2) AS matrix,
                       generate_subscripts($1, 1) AS place)
            SELECT checkpoint, matrix, x.i, x.j, x.cosine, v.maxcos, v.argmax_base,
                   v.maxcos < $4 AND {DEFINED} AS is_intruder
            FROM asked JOIN checkpoint c ON c.name = checkpoint AND {NEWEST}
            JOIN matrix m ON m.checkpoint_id = c.checkpoint_id AND m.name = matrix
            JOIN intruder_cosine x ON x.matrix_id = m.matrix_id AND x.side = $3
            JOIN intruder_vector v
                ON v.matrix_id = x.matrix_id AND v.side = x.side AND v.j = x.j
            ORDER BY place, x.i, x.j
            """,
            [[c for c, _ in matrices], [m for _, m in matrices], side, epsilon],
        )
    return View(
        "intruder_cosines",
        f"Cosines of leading {side} singular vectors, base against tuned",
        table,
        "|cosine| of the leading tuned vectors (columns) with the leading base vectors (rows). "
        "Outlined columns are intruders: no base vector of any rank has |cosine| ≥ ε with them. "
        "An empty column without outline resembles a base vector of a lower rank.",
        SOURCE,
        {"epsilon": epsilon, "side": side},
    )


def most_intruded(
    store: Store, checkpoint: str, side: str = "left", count: int = 6
) -> list[tuple[str, str]]:
    """(checkpoint, matrix) pairs of most stored intruders, for `cosine_maps`."""
    found = store.sql(
        f"""
        SELECT m.name FROM intruder i JOIN matrix m USING (matrix_id)
        JOIN checkpoint c USING (checkpoint_id)
        WHERE c.name = ? AND {NEWEST} AND i.side = ?
        ORDER BY i.n_intruders DESC, i.delta_fro_ratio DESC NULLS LAST, m.name LIMIT ?
        """,
        [checkpoint, side, count],
    )
    return [(checkpoint, name) for name in found.column(0).to_pylist()]


def maxcos_against_rank(
    store: Store,
    checkpoints: Sequence[str],
    side: str = "left",
    epsilon: float = 0.5,
    matrix: str | None = None,
) -> View:
    """Largest |cosine| by rank `j` of the tuned vector, one line a checkpoint.

    Of one matrix with its error bound as `lo` and `hi`; without one, the median over matrices with
    their quartiles. `epsilon` is a line for comparison.
    """
    numbers = (
        "median(maxcos) AS maxcos, quantile_cont(maxcos, 0.25) AS lo, "
        "quantile_cont(maxcos, 0.75) AS hi"
        if matrix is None
        else "min(maxcos) AS maxcos, min(greatest(maxcos - maxcos_err, 0)) AS lo, "
        "max(least(maxcos + maxcos_err, 1)) AS hi"
    )
    table = store.sql(
        f"""
        SELECT c.name AS checkpoint, c.kind, v.j, {numbers}, count(*) AS n_matrices
        FROM intruder_vector v JOIN matrix m USING (matrix_id) JOIN checkpoint c
        USING (checkpoint_id)
        WHERE list_contains($1, c.name) AND {NEWEST} AND v.side = $2 AND ($3 IS NULL OR m.name = $3)
        GROUP BY c.name, c.kind, v.j ORDER BY list_position($1, c.name), v.j
        """,
        [list(checkpoints), side, matrix],
    )
    what = "median over matrices and quartiles" if matrix is None else "with its error bound"
    return View(
        "maxcos_against_rank",
        "Largest |cosine| with any base vector against the rank of the tuned vector",
        table,
        f"{side.capitalize()} singular vectors; {what}.",
        f"{SOURCE}, algorithm 1",
        {"epsilon": epsilon, "side": side} | ({"matrix": matrix} if matrix else {}),
    )


def dynamics(store: Store, run: str, matrix: str, side: str = "left", epsilon: float = 0.5) -> View:
    """Leading vectors of one matrix through a run, followed by likeness and not by rank.

    One row a step and vector: `track` numbers what is followed, `cosine` is the likeness to the
    step before (None where the track begins), `ever_intruder` tells whether any step of the track
    is an intruder. Empty for a store without table ``intruder_track``.
    """
    rows: list[dict[str, Any]] = []
    if "intruder_track" in store.tables():
        found = store.sql(
            f"""
            SELECT c.step, v.matrix_id, v.j, v.sigma, v.maxcos, v.maxcos_err,
                   v.maxcos < $4 AND {DEFINED} AS is_intruder,
                   t.previous_matrix_id, t.previous_j, t.cosine
            FROM checkpoint c JOIN matrix m USING (checkpoint_id)
            JOIN intruder_vector v ON v.matrix_id = m.matrix_id AND v.side = $3
            LEFT JOIN intruder_track t
                ON t.matrix_id = v.matrix_id AND t.side = v.side AND t.j = v.j
            WHERE c.run = $1 AND {NEWEST} AND m.name = $2 ORDER BY c.step, v.j
            """,
            [run, matrix, side, epsilon],
        )
        rows = _tracks(found.to_pylist())
    return View(
        "intruder_dynamics",
        f"Leading vectors of {matrix} through training",
        pa.Table.from_pylist(rows, schema=_DYNAMICS),
        "A vector continues the one of the step before that it resembles most, if their squared "
        "cosine is above ½; else a line begins. Red: an intruder at some step.",
        f"{SOURCE}, figure 5, by vectors instead of ranks",
        {"run": run, "matrix": matrix, "epsilon": epsilon, "side": side},
    )


def _tracks(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows by step with `track` and `ever_intruder` instead of the links."""
    tracks: dict[tuple[int, int], int] = {}
    intruding: set[int] = set()
    begun = 0
    for row in rows:
        before = tracks.get((row.pop("previous_matrix_id"), row.pop("previous_j")))
        if before is None or row["cosine"] <= SAME:
            begun += 1
            row["track"], row["cosine"] = begun, None
        else:
            row["track"] = before
        tracks[row.pop("matrix_id"), row["j"]] = row["track"]
        if row["is_intruder"]:
            intruding.add(row["track"])
    return [row | {"ever_intruder": row["track"] in intruding} for row in rows]


def panel_label(panels: Sequence[tuple[str, str]], panel: tuple[str, str]) -> str:
    """What tells one (checkpoint, matrix) from the others, short enough for a small panel."""
    parts = [panel[n] for n in (0, 1) if len({p[n] for p in panels}) > 1] or [panel[1]]
    return " · ".join(_shortened(part) for part in parts)


def _shortened(name: str, most: int = 30) -> str:
    plain = name.removesuffix(".weight")
    if len(plain) <= most:
        return plain
    end = plain[1 - most :]
    return "…" + (end.partition(".")[2] or end)


def judged_matrices(store: Store, checkpoints: Sequence[str], side: str = "left") -> list[str]:
    """Names of the matrices judged in any of the checkpoints, most stored intruders first."""
    found = store.sql(
        f"""
        SELECT m.name FROM intruder i JOIN matrix m USING (matrix_id)
        JOIN checkpoint c USING (checkpoint_id)
        WHERE list_contains($1, c.name) AND {NEWEST} AND i.side = $2
        GROUP BY m.name ORDER BY sum(i.n_intruders) DESC, m.name
        """,
        [list(checkpoints), side],
    )
    return found.column(0).to_pylist()


def run_matrices(store: Store, run: str, side: str = "left") -> list[str]:
    """Names of the matrices judged in a run, most stored intruders over its steps first."""
    steps = store.sql("SELECT name FROM checkpoint WHERE run = ?", [run])
    return judged_matrices(store, steps.column(0).to_pylist(), side)
