"""Outliers of a rank-one update: where they appear, and when they resemble no base vector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from analyzer.store.reading import Store
from analyzer.views.view import View
from theory.intruder_law import intruder_probability, intruder_threshold, law_point, median_maxcos
from theory.random_matrix import mp_quantile
from theory.shrinkage import bbp

Array = NDArray[np.float64]
SOURCE = "Benaych-Georges & Nadakuditi 2012; intruders as in arXiv 2410.21228"
SPECTRA = ("random", "1/√i", "1/i", "random with 5 spikes")
SPIKES = (9.0, 7.0, 5.5, 4.5, 3.5)
POINTS = 60
LARGEST = 8.0  # of ρ/s₁ drawn


def spectrum(name: str, size: int) -> Array:
    """`size` singular values, descending: of a square random matrix, or of a power law.

    Raises ValueError for a name that is not one of `SPECTRA`.
    """
    bulk = np.sqrt(mp_quantile((np.arange(size) + 0.5) / size, 1.0))[::-1]
    i = np.arange(1.0, size + 1.0)
    match name:
        case "random":
            return bulk
        case "1/√i":
            return 1.0 / np.sqrt(i)
        case "1/i":
            return 1.0 / i
        case "random with 5 spikes":
            return np.sort(np.concatenate([SPIKES, bulk[: size - len(SPIKES)]]))[::-1]
    raise ValueError(f"spectrum {name!r}: one of {', '.join(SPECTRA)}")


def own_spectrum(store: Store, checkpoint: str, matrix: str) -> tuple[list[float], int, int]:
    """All singular values of one of the store's matrices, descending, its rows and columns.

    No values where the store does not have all min(rows, columns) of them.
    """
    rows = store.sql(
        """
        SELECT list(s.sigma ORDER BY s.k) AS sigma, any_value(m.rows) AS m, any_value(m.cols) AS n
        FROM spectrum s JOIN matrix m USING (matrix_id) JOIN checkpoint c USING (checkpoint_id)
        WHERE c.name = ? AND m.name = ? AND s.kind = 'weight'
        """,
        [checkpoint, matrix],
    ).to_pylist()[0]
    whole = rows["sigma"] is not None and len(rows["sigma"]) == min(rows["m"], rows["n"])
    return (rows["sigma"], rows["m"], rows["n"]) if whole else ([], 0, 0)


def outliers(
    values: ArrayLike, shape: tuple[int, int], epsilon: float, name: str, *, limit: bool = False
) -> View:
    """The law along ρ > s₁: `theta`, `rho`, `alignment`, `maxcos` (median), `p_intruder`.

    `limit` adds the curve of a random matrix of infinite size, which `values` must be of.
    """
    s = np.asarray(values, dtype=np.float64)
    rows: list[dict[str, Any]] = []
    points = POINTS if s.size <= 1024 else POINTS // 3  # every point costs O(s.size)
    for rho in s[0] * (1.0 + np.geomspace(1e-2, LARGEST - 1.0, points)):
        point = law_point(s, *shape, float(rho))
        if point is not None:
            rows.append(
                {
                    "theta": point.theta,
                    "rho": point.rho,
                    "alignment": float(np.sqrt(point.align_left)),
                    "maxcos": median_maxcos(point.rms_cosines),
                    "p_intruder": intruder_probability(point.rms_cosines, epsilon),
                    "limit": bbp(point.theta, 1.0).singular_value if limit else None,
                }
            )
    threshold = intruder_threshold(s, *shape, k=10, epsilon=epsilon)
    return View(
        "outliers",
        "Where a rank-one update puts a singular value, and what its vector resembles",
        pa.Table.from_pylist(rows, schema=_OUTLIERS),
        "W0 + θ a bᵀ with generic unit vectors a, b. θ*: smallest strength at which one of the ten "
        "leading vectors is an intruder at least as likely as not.",
        SOURCE,
        {"spectrum": name, "ε": epsilon, "θ*": None if threshold is None else float(threshold),
         "σ₁(W0)": float(s[0])},
    )  # fmt: skip


def own_outliers(store: Store, checkpoint: str, matrix: str, epsilon: float) -> View | None:
    """`outliers` of one of the store's matrices; None without its whole spectrum, or for W = 0."""
    values, rows, cols = own_spectrum(store, checkpoint, matrix)
    if not values or values[0] <= 0.0:
        return None
    return outliers(values, (rows, cols), epsilon, f"{matrix} of {checkpoint}")


def cosines(law: View) -> View:
    """What an outlier's vector resembles, of `outliers`: its columns without the singular value."""
    return View(
        "outlier_cosines",
        "What its vector resembles",
        law.table.select(["theta", "alignment", "maxcos", "p_intruder"]),
        "|cosine| of the new left singular vector with the update's, and the median of its largest "
        "with any of the base. Where the grey line is below ε, more than half of such vectors are "
        "intruders. Red: ε and θ*.",
        law.source,
        law.parameters,
    )


_OUTLIERS = pa.schema(
    [
        (name, pa.float64())
        for name in ("theta", "rho", "alignment", "maxcos", "p_intruder", "limit")
    ]
)


def at_strength(view: View, theta: float) -> dict[str, float] | None:
    """The law at θ, between the points of `outliers`; None beyond them."""
    known = np.array(view.column("theta"))
    if not known.size or not known.min() <= theta <= known.max():
        return None
    order = np.argsort(known)
    return {"theta": theta} | {
        name: float(np.interp(theta, known[order], np.array(view.column(name))[order]))
        for name in ("rho", "alignment", "maxcos", "p_intruder")
    }


def own_thresholds(store: Store, checkpoints: Sequence[str], side: str = "left") -> View:
    """One row a tuned matrix: θ*, σ₁(ΔW) and the intruders that were found."""
    table = store.sql(
        """
        SELECT c.name AS checkpoint, m.name AS matrix, i.theta_star, i.delta_spectral_norm,
               i.n_intruders, i.n_intruders > 0 AS has_intruder, i.epsilon, i.k
        FROM intruder i JOIN matrix m USING (matrix_id) JOIN checkpoint c USING (checkpoint_id)
        WHERE c.name = ANY(?) AND i.side = ? AND i.theta_star > 0 AND i.delta_spectral_norm > 0
        ORDER BY hash(i.matrix_id) LIMIT 2000
        """,
        [list(checkpoints), side],
    )
    above = [r["delta_spectral_norm"] >= r["theta_star"] for r in table.to_pylist()]
    found = table.column("has_intruder").to_pylist()
    right = sum(a == b for a, b in zip(above, found, strict=True))
    known: dict[str, Any] = {"side": side}
    if found:
        known["agree"] = f"{right} of {len(found)}"
    return View(
        "own_thresholds",
        "This store's updates: strength against the predicted threshold",
        table,
        "Above the line an intruder is expected, for an update whose vectors are generic with "
        "respect to the base's.",
        SOURCE,
        known,
    )
