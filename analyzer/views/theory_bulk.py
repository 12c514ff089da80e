"""The Marchenko-Pastur law and its Tracy-Widom edge, and where this store's matrices stand."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pyarrow as pa

from analyzer.store.reading import Store
from analyzer.views.view import View
from theory.random_matrix import mp_density, mp_edges
from theory.tracy_widom import QUANTILES, centre_and_scale, tw1_cdf, tw_edge

SOURCE = "Marchenko & Pastur 1967; Tracy-Widom law with the centring of Ma 2012"
POINTS = 300


def density(aspect: float, n: int) -> View:
    """Density of the eigenvalues λ of WWᵀ/n, W (m, n) of unit variance, m = aspect·n: `x`, `y`."""
    low, high = mp_edges(aspect)
    x = low + (high - low) * 0.5 * (1 - np.cos(np.linspace(0, np.pi, POINTS)))
    m = max(1, round(aspect * n))
    table = pa.table({"x": x, "y": mp_density(x, aspect)})
    known = {
        "m/n": aspect, "n": n, "λ−": f"{low:.4g}", "λ+": f"{high:.4g}",
        "99 % edge": f"{tw_edge(m, n) / n:.4g}",
    }  # fmt: skip
    return View(
        "marchenko_pastur",
        "Eigenvalues of a random matrix",
        table,
        "Limit of large m and n for independent entries of unit variance.",
        "V. Marchenko & L. Pastur 1967",
        known,
    )


def edge_law(aspect: float, n: int) -> View:
    """Law of the largest eigenvalue/n: `x`, `cdf`, `density` (by differences of the cdf)."""
    m = max(1, round(aspect * n))
    centre, scale = centre_and_scale(m, n)
    s, cdf = _standard_law()
    table = pa.table(
        {
            "x": (centre + scale * s) / n,
            "cdf": cdf,
            "density": np.gradient(cdf, (centre + scale * s) / n),
        }
    )
    quantiles = {f"{q:.0%}": f"{tw_edge(m, n, level=q) / n:.4g}" for q in (0.5, 0.95, 0.99)}
    return View(
        "tracy_widom",
        "Largest eigenvalue of a random matrix",
        table,
        f"F₁ as a Fredholm determinant; {len(QUANTILES)} quantiles are tabulated.",
        "Tracy & Widom 1996; Bornemann 2010; Ma 2012",
        {"m": m, "n": n, **quantiles},
    )


@lru_cache(maxsize=1)
def _standard_law() -> tuple[np.ndarray, np.ndarray]:
    """s and F₁(s), the same for every shape."""
    s = np.linspace(-5.0, 4.0, 73)
    return s, np.array([tw1_cdf(float(value)) for value in s])


def own_edges(store: Store, most: int = 2000) -> View:
    """`matrix`, `checkpoint`, `aspect`, λ₁ over its 99 % edge, the base's first."""
    table = store.sql(
        """
        WITH t AS (
            SELECT c.name AS checkpoint, c.kind, m.name AS matrix, m.role, m.rows, m.cols,
                   least(m.rows, m.cols) / greatest(m.rows, m.cols) AS aspect,
                   i.spectral_norm ** 2 / t.edge_tw99 AS ratio, t.num_spikes,
                   hash(m.matrix_id) AS h
            FROM tail t JOIN matrix m USING (matrix_id) JOIN checkpoint c USING (checkpoint_id)
            JOIN spectrum_info i ON i.matrix_id = t.matrix_id AND i.kind = t.kind
            WHERE t.kind = 'weight' AND t.edge_tw99 > 0)
        SELECT * EXCLUDE h FROM t ORDER BY kind <> 'base', h LIMIT ?
        """,
        [most],
    )
    return View(
        "own_edges",
        "This store's matrices: largest eigenvalue over the 99 % edge of their random bulk",
        table,
        "Above 1 the matrix has at least one eigenvalue that a random bulk of its shape and its "
        "fitted variance does not explain. The base's matrices and a sample of the others.",
        SOURCE,
    )
