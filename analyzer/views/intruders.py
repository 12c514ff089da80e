"""Intruder dimensions: counts against ε and k, in total and by place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from analyzer.store.reading import Store
from analyzer.views.cells import NAMES, cells
from analyzer.views.view import View

SOURCE = "Shuttleworth et al. 2024, arXiv 2410.21228, definition 3.1"

# σ at rounding level of σ₁ has no vector of its own, which is therefore no intruder (as in
# analyzer.analyses.intruders): of `v`, vectors of one side, and `m`, their matrices.
DEFINED = (
    f"v.sigma > greatest(m.rows, m.cols) * {float(np.finfo(np.float64).eps)!r} * "
    "max(v.sigma) OVER (PARTITION BY v.matrix_id)"
)

# Of several checkpoints `c` of one name (two folders in one store) the newest.
NEWEST = "c.checkpoint_id IN (SELECT max(checkpoint_id) FROM checkpoint GROUP BY name)"

# The leading vectors of checkpoints ($1) on one side ($2).
_VECTORS = f"""
    v AS (
        SELECT c.name AS checkpoint, c.kind, m.name, stack, layer, role, v.matrix_id, v.j, v.sigma,
               v.maxcos, v.maxcos_err, {DEFINED} AS defined
        FROM intruder_vector v JOIN matrix m USING (matrix_id)
        JOIN checkpoint c USING (checkpoint_id)
        WHERE list_contains($1, c.name) AND {NEWEST} AND v.side = $2)
"""


@dataclass(frozen=True, slots=True)
class Scanned:
    """What the stored intruder rows were computed with: the largest k, and its commonest ε."""

    k: int
    epsilon: float


def scanned(store: Store) -> Scanned:
    """k = 10, ε = 0.5 where there is nothing yet."""
    found = store.sql("SELECT max(k) AS k, mode(epsilon) AS epsilon FROM intruder").to_pylist()[0]
    return Scanned(found["k"] or 10, found["epsilon"] or 0.5)


def most_first(store: Store, checkpoints: Sequence[str]) -> list[str]:
    """Names of those checkpoints that were judged, most stored intruders first."""
    found = store.sql(
        f"""
        SELECT c.name FROM intruder i JOIN matrix m USING (matrix_id)
        JOIN checkpoint c USING (checkpoint_id) WHERE list_contains($1, c.name) AND {NEWEST}
        GROUP BY c.name ORDER BY sum(n_intruders) DESC, list_position($1, c.name)
        """,
        [list(checkpoints)],
    )
    return found.column(0).to_pylist()


def count_against_epsilon(
    store: Store, checkpoints: Sequence[str], side: str = "left", k: int = 10
) -> View:
    """Intruders of whole checkpoints for ε = 0, 0.05 … 1: `checkpoint`, `kind`, `epsilon`, `n`."""
    table = store.sql(
        f"""
        WITH {_VECTORS}
        SELECT checkpoint, kind, e / 20 AS epsilon,
               count(*) FILTER (defined AND maxcos < e / 20)::BIGINT AS n_intruders,
               count(*) AS n_judged
        FROM v, range(21) AS grid(e) WHERE j <= $3
        GROUP BY checkpoint, kind, e ORDER BY list_position($1, checkpoint), e
        """,
        [list(checkpoints), side, k],
    )
    return View(
        "count_against_epsilon",
        "Intruder dimensions against the threshold ε",
        table,
        f"Of the {k} leading {side} singular vectors of every judged matrix, those whose largest "
        "|cosine| with any base vector is below ε.",
        SOURCE,
        {"k": k, "side": side},
    )


def count_against_k(
    store: Store, checkpoints: Sequence[str], side: str = "left", epsilon: float = 0.5
) -> View:
    """Intruders among the k leading vectors: `checkpoint`, `kind`, `k`, `n_intruders`."""
    table = store.sql(
        f"""
        WITH {_VECTORS},
        by_rank AS (
            SELECT checkpoint, kind, j, count(*) AS n,
                   count(*) FILTER (defined AND maxcos < $3) AS found
            FROM v GROUP BY ALL)
        SELECT checkpoint, kind, j AS k,
               (sum(found) OVER ranks)::BIGINT AS n_intruders,
               (sum(n) OVER ranks)::BIGINT AS n_judged
        FROM by_rank WINDOW ranks AS (PARTITION BY checkpoint ORDER BY j)
        ORDER BY list_position($1, checkpoint), k
        """,
        [list(checkpoints), side, epsilon],
    )
    return View(
        "count_against_k",
        "Intruder dimensions against the number of leading vectors k",
        table,
        f"Of the k leading {side} singular vectors of every judged matrix, those whose largest "
        "|cosine| with any base vector is below ε.",
        SOURCE,
        {"epsilon": epsilon, "side": side},
    )


def totals(
    store: Store,
    checkpoints: Sequence[str],
    side: str = "left",
    epsilon: float = 0.5,
    k: int = 10,
) -> View:
    """One row a checkpoint: intruders, in how many matrices, and their share of the energy.

    `n_open` counts decisions that the error bound of the cosine leaves open.
    """
    table = store.sql(
        f"""
        WITH {_VECTORS},
        one AS (
            SELECT checkpoint, matrix_id, count(*) AS n_judged,
                   count(*) FILTER (defined AND maxcos < $3) AS found,
                   count(*) FILTER (defined AND maxcos - maxcos_err < $3
                                    AND maxcos + maxcos_err >= $3) AS n_open,
                   sum(sigma * sigma) FILTER (defined AND maxcos < $3)
                       / nullif(sum(sigma * sigma), 0) AS share
            FROM v WHERE j <= $4 GROUP BY ALL)
        SELECT checkpoint, sum(found)::BIGINT AS n_intruders, sum(n_judged)::BIGINT AS n_judged,
               count(*) FILTER (found > 0) AS n_matrices_with, count(*) AS n_matrices,
               sum(n_open)::BIGINT AS n_open, avg(coalesce(share, 0)) AS energy_share
        FROM one GROUP BY checkpoint ORDER BY list_position($1, checkpoint)
        """,
        [list(checkpoints), side, epsilon, k],
    )
    return View(
        "intruder_totals",
        "Intruder dimensions of whole checkpoints",
        table,
        "energy_share: mean over matrices of Σσ² of the intruders over Σσ² of the k leading "
        "vectors. n_open: vectors whose |cosine| is nearer to ε than its error bound.",
        SOURCE,
        {"epsilon": epsilon, "k": k, "side": side},
    )


def by_place(
    store: Store,
    checkpoint: str,
    side: str = "left",
    epsilon: float = 0.5,
    k: int = 10,
    of: Literal["n_intruders", "energy_share"] = "n_intruders",
) -> View:
    """Intruders of a checkpoint by layer and role: cells as of analyzer.views.heat.

    `value` is their number, or Σσ² of the intruders over Σσ² of the k leading vectors; several
    matrices of a place (experts) are taken together.
    """
    found = store.sql(
        f"""
        WITH {_VECTORS}
        SELECT stack, layer, role, count(DISTINCT matrix_id) AS n, {NAMES},
               count(*) FILTER (defined AND maxcos < $3)::BIGINT AS n_intruders,
               count(*) AS n_judged,
               coalesce(sum(sigma * sigma) FILTER (defined AND maxcos < $3)
                        / nullif(sum(sigma * sigma), 0), 0) AS energy_share,
               CAST(CASE WHEN $5 = 'n_intruders' THEN n_intruders ELSE energy_share END AS DOUBLE)
                   AS value,
               value AS low, value AS high
        FROM v m WHERE j <= $4 GROUP BY stack, layer, role
        """,
        [[checkpoint], side, epsilon, k, of],
    )
    what = "Intruder dimensions" if of == "n_intruders" else "Energy of intruder dimensions"
    return View(
        "intruders_by_place" if of == "n_intruders" else "intruder_energy_by_place",
        f"{what} by layer and role: {checkpoint}",
        cells(found),
        "Number of intruders, summed over the matrices of a cell."
        if of == "n_intruders"
        else "Σσ² of the intruders over Σσ² of the k leading vectors.",
        SOURCE,
        {"epsilon": epsilon, "k": k, "side": side},
    )
