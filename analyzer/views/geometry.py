"""Where the checkpoints lie in weight space: components, distances, intrinsic dimension."""

from __future__ import annotations

from collections.abc import Sequence

from analyzer.store.reading import Store
from analyzer.views.view import View

MEASURES = ("distance", "relative", "cosine", "cosine_from_mean", "cosine_from_base")
_SAID = {
    "distance": "‖θ_a - θ_b‖₂ over the tensors that all share",
    "relative": "that distance over the geometric mean of the two norms",
    "cosine": "cosine of the weights",
    "cosine_from_mean": "cosine of the differences from the mean of all",
    "cosine_from_base": "cosine of the differences from the base, which has none itself",
}
MOST = 60  # checkpoints on a map: more labels cannot be read
_PLACE = "c.kind <> 'base', c.run, c.step, c.name"


def placed(store: Store) -> list[str]:
    """Names of the checkpoints whose distances are known, base first, runs by step."""
    query = f"""
        SELECT c.name FROM checkpoint c WHERE checkpoint_id IN
            (SELECT a FROM checkpoint_geometry UNION SELECT b FROM checkpoint_geometry)
        ORDER BY {_PLACE}
    """
    return store.sql(query).column(0).to_pylist()


def embedding(store: Store) -> View:
    """One row a checkpoint: `x`, `y` (first two components), `run`, `step`, `kind`, by run."""
    table = store.sql(
        """
        WITH e AS (
            SELECT checkpoint_id, max(score) FILTER (component = 1) AS x,
                   coalesce(max(score) FILTER (component = 2), 0) AS y
            FROM checkpoint_embedding WHERE component <= 2 GROUP BY checkpoint_id)
        SELECT c.name AS checkpoint, coalesce(c.run, c.name) AS run, c.kind, c.step,
               c.run IS NOT NULL AS on_run, x, y
        FROM e JOIN checkpoint c USING (checkpoint_id)
        ORDER BY c.kind <> 'base', c.run, c.step, c.name
        """
    )
    shares = explained(store).column("explained")[:2]
    return View(
        "embedding",
        "Checkpoints in the plane of their first two principal components",
        table,
        "Principal components of the weights about their mean, which are also those of classical "
        "scaling of the distances. Lines follow the steps of a run.",
        "Antognini & Sohl-Dickstein 2018, arXiv 1806.08805",
        {f"component {i + 1}": f"{share:.1%}" for i, share in enumerate(shares)},
    )


def explained(store: Store, most: int = 10) -> View:
    """Share of variance by component, beside that of a random walk of as many steps."""
    table = store.sql(
        """
        SELECT component, max(explained) AS explained, max(random_walk) AS random_walk
        FROM checkpoint_embedding WHERE component <= ? GROUP BY component ORDER BY component
        """,
        [most],
    )
    return View(
        "explained",
        "Variance explained by component, beside a random walk's",
        table,
        "At the random walk's shares there is no low-dimensional drift: a walk without direction "
        "has most of its variance in two components too.",
        "Antognini & Sohl-Dickstein 2018, arXiv 1806.08805",
    )


def distances(store: Store, names: Sequence[str], measure: str = "distance") -> View:
    """Both halves of the matrix among `names` (at most 60): `a`, `b`, `value`, `i`, `j`.

    Raises ValueError for a measure that is not one of `MEASURES`.
    """
    if measure not in MEASURES:
        raise ValueError(f"measure {measure!r}: one of {', '.join(MEASURES)}")
    table = store.sql(
        f"""
        WITH c AS (
            SELECT checkpoint_id AS id, name, row_number() OVER (ORDER BY {_PLACE}) AS i
            FROM checkpoint c WHERE name = ANY(?)),
        g AS (
            SELECT a, b, {measure} AS value FROM checkpoint_geometry UNION ALL
            SELECT b, a, {measure} FROM checkpoint_geometry)
        SELECT p.name AS a, q.name AS b, value, p.i, q.i AS j
        FROM g JOIN c p ON p.id = g.a JOIN c q ON q.id = g.b
        WHERE value IS NOT NULL ORDER BY p.i, q.i
        """,
        [list(names)[:MOST]],
    )
    return View(
        "distances",
        f"{measure.replace('_', ' ').capitalize()} of every pair of checkpoints",
        table,
        f"{_SAID[measure].capitalize()}.",
        "",
        {"measure": measure, "checkpoints": min(len(names), MOST)},
    )


def dimensions(store: Store) -> View:
    """Estimates of the intrinsic dimension, or why there is none."""
    table = store.sql(
        """
        SELECT of, method || coalesce(' (k = ' || k || ')', '') AS method, n, d, lo, hi, status,
               warnings
        FROM intrinsic_dimension ORDER BY of <> 'collection', of, method, k
        """
    )
    return View(
        "dimensions",
        "Intrinsic dimension of the checkpoints",
        table,
        "From the ratios of distances to the nearest neighbours. Checkpoints of one run lie on a "
        "curve, evenly spaced: their dimension is that of the spacing.",
        "Facco et al. 2017, Sci. Rep. 7; Levina & Bickel 2004; MacKay & Ghahramani 2005",
    )
