"""Singular values of a matrix before and after tuning, of its update, and what bounds them."""

from __future__ import annotations

from typing import Any

from analyzer.store.reading import Store
from analyzer.views.cells import role_order
from analyzer.views.pairing import pairs
from analyzer.views.view import View, thinned

BASE, TUNED, DELTA = "base", "tuned", "ΔW"
SPECTRUM, FLOOR, EDGE, FIT = "singular values", "storage floor", "noise edge", "tail fit"
SOURCE = (
    "Clauset, Shalizi & Newman 2009, arXiv 0706.1062 (tail); Marchenko & Pastur 1967, "
    "Ma 2012, Bernoulli 18 (edge)"
)
METHOD = (
    "Singular values against rank, with their error bound as a band. Dashed: the fitted power law "
    "of σ² from xmin on, as σ = √(xmin·(k/n_tail)^(−1/(α−1))). Dotted: the 99 % Tracy-Widom edge "
    "of the random bulk. Dash-dotted: below it, rounding of the storage."
)
GRID_POINTS = 150  # of a line in a small panel


def parts_of(store: Store, first: str, second: str, matrix: str) -> dict[str, tuple[int, str]]:
    """Part (base, tuned, ΔW) → (matrix_id, kind) of one matrix of `second` against `first`.

    ΔW only where `second` was scanned against `first`; no base where it has no such matrix.
    """
    both = pairs(store, first, second)
    if matrix not in both.named:
        return {}
    number = both.named[matrix]
    partner = both.partner(number)
    parts = {BASE: (partner, "weight")} if partner is not None else {}
    parts[TUNED] = (number, "weight")
    if both.is_update:
        parts[DELTA] = (number, "delta")
    return parts


def spectra(store: Store, first: str, second: str, matrix: str) -> View:
    """Spectra of base, tuned and ΔW of one matrix, and the lines that explain them.

    Columns: `part` (base, tuned, ΔW), `curve` (singular values, storage floor, noise edge, tail
    fit), `k`, `sigma`, `low`, `high` (within the error bound; NULL for the other curves; `low`
    NULL where the bound reaches 0). At most about 2,000 points a line.
    """
    parts = parts_of(store, first, second, matrix)
    names = list(parts)
    table = store.sql(
        f"""
        WITH p AS (SELECT unnest(?::VARCHAR[]) AS part, unnest(?::BIGINT[]) AS matrix_id,
                          unnest(?::VARCHAR[]) AS kind),
        ranked AS (
            SELECT part, k, sigma, max(k) OVER (PARTITION BY part) AS n, error_bound
            FROM p JOIN spectrum USING (matrix_id, kind)
            LEFT JOIN spectrum_info USING (matrix_id, kind) WHERE sigma > 0),
        line AS (
            SELECT part, max(k) AS n, min(sigma) AS least FROM ranked GROUP BY part)
        SELECT part, '{SPECTRUM}' AS curve, k::DOUBLE AS k, sigma,
               CASE WHEN sigma > error_bound THEN sigma - error_bound END AS low,
               sigma + error_bound AS high
        FROM ranked WHERE {thinned("k", "n")}
        UNION ALL
        SELECT part, '{FLOOR}', e.k, storage_floor, NULL, NULL
        FROM p JOIN spectrum_info USING (matrix_id, kind) JOIN line USING (part),
             (SELECT unnest([1, 0]) AS one) g, LATERAL (SELECT if(one = 1, 1.0, n) AS k) e
        WHERE storage_floor > 0
        UNION ALL
        SELECT part, '{EDGE}', e.k, sqrt(edge_tw99), NULL, NULL
        FROM p JOIN tail USING (matrix_id, kind) JOIN line USING (part),
             (SELECT unnest([1, 0]) AS one) g, LATERAL (SELECT if(one = 1, 1.0, n) AS k) e
        WHERE edge_tw99 > 0
        UNION ALL
        SELECT part, '{FIT}', e.k, sqrt(xmin * pow(e.k / n_tail, -1 / (alpha - 1))), NULL, NULL
        FROM p JOIN tail USING (matrix_id, kind),
             (SELECT unnest([1, 0]) AS one) g, LATERAL (SELECT if(one = 1, 1.0, n_tail) AS k) e
        WHERE alpha > 1 AND xmin > 0 AND n_tail > 1
        ORDER BY part, curve, k
        """,
        [names, [number for number, _ in parts.values()], [kind for _, kind in parts.values()]],
    )
    return View(
        "spectra",
        f"Singular values: {matrix}",
        table,
        METHOD,
        SOURCE,
        {"base": first, "tuned": second},
    )


def lowest(view: View) -> float | None:
    """Where the σ axis of `spectra` should end: below the floor where values reach down to it.

    A floor far below every value is not worth the decades between.
    """
    rows = view.rows()
    values = [row["sigma"] for row in rows if row["curve"] == SPECTRUM]
    floors = [row["sigma"] for row in rows if row["curve"] == FLOOR]
    if not values:
        return None
    least, floor = min(values), min(floors, default=0.0)
    if floor > least:
        return floor / 10
    return floor / 2 if 10 * floor >= least else least / 2


def grid(store: Store, second: str, first: str, layers: int = 3) -> View:
    """Spectra of every role at a few depths, for a page of small panels.

    Columns: `role`, `layer`, `part`, `k`, `sigma`; about 150 points a line. `layers` depths are
    spread evenly from the first to the last; of several matrices of one place the first.
    """
    both = pairs(store, first, second)
    shown = _spread(store, both.second, layers)
    kinds = {BASE: "weight", TUNED: "weight"} | ({DELTA: "delta"} if both.is_update else {})
    partner = dict(zip(both.second, both.first, strict=True))
    lines = [
        (row["role"], row["layer"], part, partner[number] if part == BASE else number, kind)
        for row in shown
        for number in (row["matrix_id"],)
        for part, kind in kinds.items()
    ]
    columns: list[list[Any]] = [list(c) for c in zip(*lines, strict=True)] or [[], [], [], [], []]
    table = store.sql(
        f"""
        WITH p AS (
            SELECT unnest(?::VARCHAR[]) AS role, unnest(?::BIGINT[]) AS layer,
                   unnest(?::VARCHAR[]) AS part, unnest(?::BIGINT[]) AS matrix_id,
                   unnest(?::VARCHAR[]) AS kind),
        ranked AS (
            SELECT p.*, k, sigma, max(k) OVER (PARTITION BY role, layer, part) AS n
            FROM p JOIN spectrum USING (matrix_id, kind) WHERE sigma > 0)
        SELECT role, layer, part, k, sigma FROM ranked WHERE {thinned("k", "n", GRID_POINTS)}
        ORDER BY role, layer, part, k
        """,
        columns,
    )
    return View(
        "spectra_grid",
        f"Singular values of {second}",
        table,
        "Singular values against rank, by role and layer.",
        parameters={"base": first, "tuned": second},
    )


def _spread(store: Store, numbers: tuple[int, ...], layers: int) -> list[dict[str, Any]]:
    """One matrix per role at `layers` evenly spread depths: role, layer, matrix_id."""
    rows = store.sql(
        """
        SELECT role, layer, min(matrix_id) AS matrix_id FROM matrix
        WHERE matrix_id IN (SELECT unnest(?::BIGINT[])) AND layer IS NOT NULL
        GROUP BY ALL ORDER BY layer
        """,
        [list(numbers)],
    ).to_pylist()
    depths = sorted({row["layer"] for row in rows})
    last, steps = len(depths) - 1, max(layers - 1, 1)
    chosen = {depths[round(i * last / steps)] for i in range(layers)} if depths else set()
    found = [row for row in rows if row["layer"] in chosen]
    return sorted(found, key=lambda row: (role_order(row["role"]), row["layer"]))
