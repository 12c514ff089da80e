"""The tail of one spectrum: eigenvalues with fit, bulk and noise, and the choice of xmin."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.stats import chi2

from analyzer.store.reading import Store
from analyzer.views.collection import base_of
from analyzer.views.pairing import CHECKPOINT, pairs
from analyzer.views.tails import CSN, NOISE
from analyzer.views.view import MOST_POINTS, View, thinned
from theory.power_law import scan_curve
from theory.random_matrix import mp_cdf

Array = NDArray[np.float64]
Row = dict[str, Any]

MOST_VALUES = 4096  # whose scan takes well below a second; it grows with the square
_CURVE_POINTS = 200

_CURVES = pa.schema(
    [("curve", pa.string()), ("x", pa.float64()), ("y", pa.float64()), ("y_hi", pa.float64())]
)
_SCAN = pa.schema(
    [(name, pa.float64()) for name in ("xmin", "alpha", "lo", "hi", "ks_d")]
    + [("n_tail", pa.int64())]
)
_SHOWN = (
    "alpha", "alpha_lo", "alpha_hi", "xmin", "n_tail", "ks_d", "gof_p", "verdict", "phase",
    "edge_tw99", "null_q",
)  # fmt: skip

_MATRIX = f"""
    SELECT m.matrix_id, m.rows, m.cols, c.kind = 'base' AS is_base
    FROM matrix m JOIN checkpoint c USING (checkpoint_id)
    WHERE checkpoint_id = {CHECKPOINT} AND m.name = ?
"""


def eigenvalues(store: Store, checkpoint: str, matrix: str, kind: str = "weight") -> View:
    """Share `y` of eigenvalues λ = σ² that are at least `x`, as curves.

    `curve`: base, tuned or update (observed), fit (power law above xmin), bulk (Marchenko-Pastur
    with the fitted noise and the spikes above it), noise (from `y` to `y_hi`: power laws from the
    same xmin with the exponents of the central 95 % of random matrices of the shape). The fit's
    numbers are in `parameters`.
    """
    found = store.sql(_MATRIX, [checkpoint, matrix]).to_pylist()
    rows: list[Row] = []
    fit: Row = {}
    if found:
        place = found[0]
        own = "base" if place["is_base"] else "tuned"
        before = _before(store, checkpoint, place["matrix_id"]) if kind == "weight" else None
        if before is not None:
            rows += _observed(store, before, kind, "base")
        rows += _observed(store, place["matrix_id"], kind, own if kind == "weight" else "update")
        fit = _fit(store, place["matrix_id"], kind)
        rows += _curves(fit, place, _largest(rows))
    return View(
        "tail_fit",
        f"Eigenvalue tail of {matrix}",
        pa.Table.from_pylist(rows, schema=_CURVES),
        "Share of eigenvalues λ = σ² at or above x, with the power law fitted above xmin, the "
        "Marchenko-Pastur bulk and the 99 % Tracy-Widom edge. Band: exponents of the central 95 % "
        "of random matrices of this shape, drawn from the same xmin.",
        f"{CSN}; {NOISE}",
        {"checkpoint": checkpoint, "matrix": matrix, "kind": kind}
        | {name: fit[name] for name in _SHOWN if fit.get(name) is not None},
    )


def xmin_scan(store: Store, checkpoint: str, matrix: str, kind: str = "weight") -> View:
    """D and α with its 95 % interval for every start `xmin` of the tail.

    Empty for more than `MOST_VALUES` eigenvalues, or where no tail was fitted.
    """
    found = store.sql(_MATRIX, [checkpoint, matrix]).to_pylist()
    fit = _fit(store, found[0]["matrix_id"], kind) if found else {}
    rows: list[Row] = []
    if fit.get("alpha") is not None and fit["n_evals"] <= MOST_VALUES:
        # as the scan does, those above the noise of storage
        sigma = store.sql(
            "SELECT sigma FROM spectrum WHERE matrix_id = ? AND kind = ? AND k <= ? ORDER BY k",
            [fit["matrix_id"], kind, fit["n_evals"]],
        )["sigma"].to_numpy()
        rows = _scan(sigma)
    return View(
        "xmin_scan",
        f"Where the tail of {matrix} starts",
        pa.Table.from_pylist(rows, schema=_SCAN),
        "For every start xmin: exponent α with its 95 % interval given xmin, and Kolmogorov-"
        "Smirnov distance D of the tail to its fit. The fit takes the smallest D.",
        f"{CSN}, section 3.3",
        {"checkpoint": checkpoint, "matrix": matrix, "kind": kind}
        | {name: fit[name] for name in ("xmin", "alpha", "ks_d") if fit.get(name) is not None},
    )


def kinds(store: Store, checkpoint: str, matrix: str) -> list[str]:
    """Kinds of spectra of a matrix that have a tail row, the weight first."""
    found = store.sql(
        "SELECT t.kind FROM tail t JOIN matrix m USING (matrix_id) "
        f"WHERE checkpoint_id = {CHECKPOINT} AND m.name = ? ORDER BY t.kind <> 'weight', t.kind",
        [checkpoint, matrix],
    )
    return found.column(0).to_pylist()


def shown_range(view: View) -> tuple[tuple[float, float], tuple[float, float]]:
    """Ends of both logarithmic axes: all but the smallest observed eigenvalues, their shares."""
    rows = [row for row in view.rows() if row["curve"] in ("base", "tuned", "update")]
    x, y = [row["x"] for row in rows] or [1.0], [row["y"] for row in rows] or [1.0]
    return (max(min(x), 1e-6 * max(x)) / 1.3, 1.3 * max(x)), (min(y) / 1.6, 1.4)


def most_alpha(view: View) -> float:
    """Top of the α axis: the last few starts have a handful of values and any exponent."""
    alpha = [row["alpha"] for row in view.rows() if row["n_tail"] >= 10] or view.column("alpha")
    return 1.3 * max([*alpha, view.parameters["alpha"]])


def _before(store: Store, checkpoint: str, matrix_id: int) -> int | None:
    """The same matrix in the checkpoint's base."""
    base = base_of(store, checkpoint)
    return None if base is None else pairs(store, base, checkpoint).partner(matrix_id)


def _observed(store: Store, matrix_id: int, kind: str, curve: str) -> list[Row]:
    return store.sql(
        f"""
        WITH s AS (SELECT k, sigma, count(*) OVER () AS n FROM spectrum
                   WHERE matrix_id = ? AND kind = ?)
        SELECT ? AS curve, sigma * sigma AS x, k / n AS y, NULL AS y_hi
        FROM s WHERE sigma * sigma > 0 AND {thinned("k", "n")} ORDER BY k
        """,
        [matrix_id, kind, curve],
    ).to_pylist()


def _fit(store: Store, matrix_id: int, kind: str) -> Row:
    """The tail row, with the central 95 % of the null's exponents; empty without one."""
    found = store.sql(
        """
        SELECT t.*, n.noise_lo, n.noise_hi,
               (SELECT count(*) FROM spectrum s
                WHERE s.matrix_id = t.matrix_id AND s.kind = t.kind) AS n_values
        FROM tail t JOIN matrix m USING (matrix_id)
        LEFT JOIN (SELECT short_side, long_side, seed, quantile_cont(alpha, 0.025) AS noise_lo,
                          quantile_cont(alpha, 0.975) AS noise_hi
                   FROM tail_null GROUP BY ALL) n
            ON n.short_side = least(m.rows, m.cols) AND n.long_side = greatest(m.rows, m.cols)
               AND n.seed = t.seed AND t.null_q IS NOT NULL
        WHERE t.matrix_id = ? AND t.kind = ?
        """,
        [matrix_id, kind],
    ).to_pylist()
    return found[0] if found else {}


def _largest(rows: list[Row]) -> float:
    return max((row["x"] for row in rows), default=0.0)


def _curves(fit: Row, place: Row, largest: float) -> Iterator[Row]:
    if fit.get("alpha") is None or not fit["xmin"] or not fit["n_values"]:
        return
    x = np.geomspace(fit["xmin"], largest, 60)
    share = fit["n_tail"] / fit["n_values"]
    if fit["noise_lo"] is not None:
        upper, lower = (_power_law(x, fit["xmin"], share, fit[q]) for q in ("noise_lo", "noise_hi"))
        yield from _rows("noise", x, lower, upper)
    if fit["sigma_bulk"] and fit["bulk_max"]:
        yield from _bulk(fit, place)
    yield from _rows("fit", x, _power_law(x, fit["xmin"], share, fit["alpha"]))


def _power_law(x: Array, xmin: float, share: float, alpha: float) -> Array:
    return share * (x / xmin) ** (1.0 - alpha)


def _bulk(fit: Row, place: Row) -> Iterator[Row]:
    """Marchenko-Pastur survival of the bulk below its spikes (theory.bulk_fit), over all values."""
    spikes = fit["num_spikes"]
    m, n = fit["n_evals"] - spikes, max(place["rows"], place["cols"]) - spikes
    start = max(fit["bulk_min"] or 0.0, 1e-4 * fit["bulk_max"])
    x = np.geomspace(start, fit["bulk_max"], _CURVE_POINTS)
    above = m * (1.0 - mp_cdf(x, m / n, fit["sigma_bulk"] ** 2 * n))
    yield from _rows("bulk", x, (spikes + above) / fit["n_values"])


def _rows(curve: str, x: Array, y: Array, y_hi: Array | None = None) -> Iterator[Row]:
    upper = [None] * x.size if y_hi is None else y_hi.tolist()
    for one, low, high in zip(x.tolist(), y.tolist(), upper, strict=True):
        yield {"curve": curve, "x": one, "y": low, "y_hi": high}


def _scan(sigma: Array) -> list[Row]:
    """Every start, thinned evenly; relative to λ₁ so that no square overflows."""
    largest = float(sigma[0])
    curve = scan_curve((sigma / largest) ** 2)
    step = max(1, -(-curve.xmins.size // MOST_POINTS))
    chosen = np.arange(0, curve.xmins.size, step)
    alpha = curve.alphas[chosen]
    starts = curve.xmins[chosen]
    n = sigma.size - np.searchsorted(np.sort((sigma / largest) ** 2), starts, side="left")
    # 2T(α-1) ~ χ² with 2(n-1) degrees of freedom, T = n/(α-1) of the fit
    ends = (chi2.ppf(q, 2 * (n - 1)) / (2 * n) for q in (0.025, 0.975))
    low, high = (1.0 + (alpha - 1.0) * end for end in ends)
    columns = (starts * largest**2, alpha, low, high, curve.ks_ds[chosen], n)
    names = ("xmin", "alpha", "lo", "hi", "ks_d", "n_tail")
    return [
        dict(zip(names, values, strict=True))
        for values in zip(*(column.tolist() for column in columns), strict=True)
    ]
