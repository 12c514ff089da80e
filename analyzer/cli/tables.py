"""The tables of `ls`, `show` and `compare`: queries on the store whose rows a person can read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from analyzer.views.verdicts import intruder_verdict, tail_verdict

if TYPE_CHECKING:
    from analyzer.store.reading import Store

WEIGHT_NOTE = (
    "alpha: exponent of the eigenvalue tail, with its 95 % interval (Clauset et al. 2009). "
    "noise: share of random matrices of this shape with a smaller alpha. rank: singular values "
    "above twice the storage noise. kept: WeLore rank at half the total rank (arXiv 2407.11239). "
    "Verdicts read the spectrum; they prove nothing about training."
)
UPDATE_NOTE = (
    "intruders: of the k leading left singular vectors, those without a base vector of |cosine| ≥ "
    "epsilon (Shuttleworth et al., arXiv 2410.21228); right: the same in input space. θ*: strength "
    "at which a random component of ΔW would show. ×critical: smallest multiple of the update that "
    "has an intruder."
)
MOST_NAMES = 12  # in a message about a name that is not there
ALONE_NOTE = (
    "The updates alone: what they mean to the weights needs the base (`analyzer scan --base`). "
    "rank: singular values of ΔW above rounding."
)
PAIR_NOTE = "Both checkpoints' own numbers side by side; neither was scanned as the other's base."
ALONE_WORDS = {
    "ok": "", "zero_delta": "the update is zero", "new_module": "a whole weight, not an update",
    "no_base": "depends on the base",
}  # fmt: skip


_CHECKPOINT = (
    "kind", "step", "n_params", "n_matrices", "n_failed", "n_intruders", "n_compared",
    "delta_fro_ratio", "delta_effective_rank", "median_alpha",
)  # fmt: skip


def checkpoint_rows(store: Store) -> list[dict[str, Any]]:
    """One row a checkpoint: matrices, intruders, size of the update, median alpha."""
    from analyzer.views.collection import checkpoints

    return [
        {"checkpoint": row["name"]} | {column: row[column] for column in _CHECKPOINT}
        for row in checkpoints(store).rows()
    ]


def layer_rows(store: Store, checkpoint: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per layer and role of a tuned checkpoint: intruders, update, verdict in words."""
    rows = store.sql(
        """
        SELECT m.name, stack, layer, role, expert, l.n_intruders, l.n_uncertain,
               r.n_intruders AS n_intruders_right, l.k, l.epsilon, v.maxcos AS min_maxcos,
               l.delta_fro_ratio, l.delta_spectral_norm, l.theta_star, l.critical_multiplier,
               l.delta_effective_rank, m.status
        FROM matrix m
        LEFT JOIN intruder l ON l.matrix_id = m.matrix_id AND l.side = 'left'
        LEFT JOIN intruder r ON r.matrix_id = m.matrix_id AND r.side = 'right'
        LEFT JOIN (SELECT matrix_id, min(maxcos) AS maxcos FROM intruder_vector
                   WHERE side = 'left' GROUP BY ALL) v ON v.matrix_id = m.matrix_id
        WHERE m.checkpoint_id = ? AND (l.matrix_id IS NOT NULL OR m.status <> 'ok')
        ORDER BY stack NULLS FIRST, layer NULLS FIRST, role, expert, m.name
        """,
        [checkpoint["checkpoint_id"]],
    ).to_pylist()
    return [row | {"verdict": intruder_verdict(row)} for row in rows]


def alone_rows(store: Store, checkpoint: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per layer and role of an adapter without a base: the spectrum of ΔW."""
    rows = store.sql(
        """
        SELECT m.name, stack, layer, role, expert,
               CASE WHEN m.rows > 0 THEN m.rows || '×' || m.cols END AS shape,
               s.fro_norm AS delta_fro, s.spectral_norm AS delta_spectral_norm, s.stable_rank,
               s.effective_rank AS delta_effective_rank, s.numerical_rank, m.status
        FROM matrix m
        LEFT JOIN spectrum_info s ON s.matrix_id = m.matrix_id AND s.kind = 'delta'
        WHERE m.checkpoint_id = ?
        ORDER BY stack NULLS FIRST, layer NULLS FIRST, role, expert, m.name
        """,
        [checkpoint["checkpoint_id"]],
    ).to_pylist()
    return [row | {"verdict": ALONE_WORDS.get(row["status"], row["status"])} for row in rows]


def update_summary(store: Store, checkpoint: dict[str, Any]) -> str:
    """The intruders of a tuned checkpoint in one sentence, with what was asked."""
    (row,) = store.sql(
        """
        SELECT sum(n_intruders)::BIGINT AS n, sum(k)::BIGINT AS judged, count(*) AS matrices,
               count(*) FILTER (n_intruders > 0) AS hit, sum(n_uncertain)::BIGINT AS uncertain,
               sum(n_robust)::BIGINT AS robust, max(k) AS k, max(epsilon) AS epsilon
        FROM intruder JOIN matrix USING (matrix_id) WHERE checkpoint_id = ? AND side = 'left'
        """,
        [checkpoint["checkpoint_id"]],
    ).to_pylist()
    return (
        f"{row['n']} intruder dimensions in {row['hit']} of {row['matrices']} matrices "
        f"(k = {row['k']}, epsilon = {row['epsilon']:g}, left vectors, {row['judged']} judged); "
        f"{row['robust']} robust against clusters, {row['uncertain']} undecided."
    )


def weight_rows(store: Store, checkpoint: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per layer and role of a checkpoint's own weights: tail, rank, phase."""
    rows = store.sql(
        """
        SELECT m.name, stack, layer, role, expert, m.rows || '×' || m.cols AS shape,
               t.alpha, t.alpha_lo, t.alpha_hi, t.n_tail, t.ks_d, t.null_q, s.stable_rank,
               s.effective_rank, s.numerical_rank, w.rank_kept, t.num_spikes, t.phase,
               t.status AS tail_status, m.status
        FROM matrix m
        LEFT JOIN tail t ON t.matrix_id = m.matrix_id AND t.kind = 'weight'
        LEFT JOIN spectrum_info s ON s.matrix_id = m.matrix_id AND s.kind = 'weight'
        LEFT JOIN welore w ON w.matrix_id = m.matrix_id
        WHERE m.checkpoint_id = ?
        ORDER BY stack NULLS FIRST, layer NULLS FIRST, role, expert, m.name
        """,
        [checkpoint["checkpoint_id"]],
    ).to_pylist()
    return [row | {"verdict": tail_verdict(row)} for row in rows]


def paired_rows(
    store: Store, first: dict[str, Any], second: dict[str, Any]
) -> list[dict[str, Any]]:
    """Tail exponents, stable ranks and intruder counts of two checkpoints, matched by name."""
    from analyzer.checkpoints.matching import match_names

    sides = [
        {row["name"]: row for row in store.sql(_PAIRED, [c["checkpoint_id"]]).to_pylist()}
        for c in (first, second)
    ]
    partner = match_names(list(sides[0]), list(sides[1]))
    return [
        _pair(sides[0][partner[name]], row) for name, row in sides[1].items() if name in partner
    ]


_PAIRED = """
    SELECT m.name, stack, layer, role, expert, alpha, alpha_lo, alpha_hi, stable_rank, n_intruders
    FROM matrix m
    LEFT JOIN tail t ON t.matrix_id = m.matrix_id AND t.kind = 'weight'
    LEFT JOIN spectrum_info s ON s.matrix_id = m.matrix_id AND s.kind = 'weight'
    LEFT JOIN intruder i ON i.matrix_id = m.matrix_id AND i.side = 'left'
    WHERE m.checkpoint_id = ?
    ORDER BY stack NULLS FIRST, layer NULLS FIRST, role, expert, m.name
"""


def _pair(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    place = {name: b[name] for name in ("name", "stack", "layer", "role", "expert")}
    apart = None
    if a["alpha"] is not None and b["alpha"] is not None:
        apart = a["alpha_hi"] < b["alpha_lo"] or b["alpha_hi"] < a["alpha_lo"]
    numbers = {
        f"{column}_{side}": row[column]
        for column in ("alpha", "stable_rank", "n_intruders")
        for side, row in (("a", a), ("b", b))
    }
    return place | numbers | {"intervals_apart": apart}


def resolve(store: Store, name: str) -> dict[str, Any]:
    """The checkpoint called `name`, or the last step of the run called so.

    Raises UsageError naming the nearest names and the checkpoints that exist.
    """
    from analyzer.errors import UsageError, printable

    known = store.sql("SELECT * FROM checkpoint ORDER BY run, step, name").to_pylist()
    exact = [c for c in known if name in (c["name"], c["path"], printable(c["name"]))]
    partial = [c for c in known if c["run"] == name or Path(c["name"]).parts[:1] == (name,)]
    found = exact or sorted(partial, key=lambda c: c["step"] or 0)
    if not found:
        hint = _meant(name, [c["name"] for c in known], {c["run"] for c in known} - {None})
        raise UsageError(f"no checkpoint named {name}", path=store.db, hint=hint)
    return found[-1]


def _meant(name: str, names: list[str], runs: set[str]) -> str:
    """What a misspelt name was meant to be, and the names that there are."""
    from difflib import get_close_matches

    lowered = {known.lower(): known for known in (*names, *sorted(runs))}
    close = get_close_matches(name.lower(), lowered, n=1, cutoff=0.5)
    ends = [known for known in names if name and Path(known).name == name]
    nearest = ends[:3] or [lowered[match] for match in close]
    asked = f"did you mean {' or '.join(nearest)}? " if nearest else ""
    if not names:
        return f"{asked}the store holds none"
    more = f" and {len(names) - MOST_NAMES} more: `analyzer ls`" if len(names) > MOST_NAMES else ""
    return f"{asked}there are {', '.join(names[:MOST_NAMES])}{more}"


def has_updates(store: Store, checkpoint: dict[str, Any]) -> bool:
    """Whether the checkpoint was compared with a base."""
    query = "SELECT 1 FROM intruder JOIN matrix USING (matrix_id) WHERE checkpoint_id = ? LIMIT 1"
    return store.sql(query, [checkpoint["checkpoint_id"]]).num_rows > 0


def for_people(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows without what the verdict says already and without columns that are empty everywhere.

    The tensor's name is shown only where layer and role do not tell the rows apart.
    """
    places = [tuple(row.get(c) for c in ("stack", "layer", "role", "expert")) for row in rows]
    hidden = {"k", "epsilon", "status", "tail_status", "phase"}
    hidden |= {"name"} if len(set(places)) == len(places) else {"stack", "layer", "role", "expert"}
    hidden |= {c for c in ("stack", "expert") if len({row.get(c) for row in rows} - {None}) < 2}
    hidden |= {"n_uncertain"} if not any(row.get("n_uncertain") for row in rows) else set()
    return [{c: value for c, value in row.items() if c not in hidden} for row in rows]
