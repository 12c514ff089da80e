"""What a functional Tucker fit predicts, where, how surely, and what was scanned there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from analyzer.store.reading import Store
from analyzer.views.tucker import SOURCE
from analyzer.views.view import MOST_POINTS, View

Along = Literal["depth", "step"]
WIDTH = 1.959964  # standard deviations on either side that hold 95 % of a normal law
INTERVAL = (
    "mean ± 1.96 sd of an observation, meant to hold 95 in 100 within the model: ranks and kernels "
    "are not in it. Beyond the scanned depths and steps it is optimistic."
)


def roles(store: Store, fit_id: int) -> list[str]:
    """Roles that a fit has predictions of."""
    return _values(store, "role", fit_id)


def places(store: Store, fit_id: int, role: str, along: Along) -> list[float]:
    """Depths or steps at which a role has predictions, scanned ones first, the last of each first.

    A place is scanned where a spectrum was.
    """
    column = _column(along)
    query = f"""
        SELECT {column} FROM tucker_prediction WHERE fit_id = ? AND role = ?
        GROUP BY 1 ORDER BY count(observed) = 0, 1 DESC
    """
    return store.sql(query, [fit_id, role]).column(0).to_pylist()


def quantiles(store: Store, fit_id: int) -> list[float]:
    """Quantiles of the singular values that a fit is over, the largest value's first."""
    return _values(store, "quantile", fit_id)


def surface(store: Store, fit_id: int, role: str, along: Along, at: float | None) -> View:
    """Posterior mean over `along` × quantile: `x`, `quantile`, `mean`, `lo`, `hi`, `observed`, …

    `at` is the step of a surface along depth and the depth of one along step.
    """
    table = _predicted(store, fit_id, role, along, at, None)
    return View(
        f"tucker_surface_{along}",
        f"Posterior mean of log σ over {along} and quantile",
        table,
        INTERVAL,
        SOURCE,
        _fixed(fit_id, role, along, at),
    )


def slices(
    store: Store, fit_id: int, role: str, along: Along, at: float | None, chosen: Sequence[float]
) -> View:
    """The surface cut at the `chosen` quantiles: one line with its interval each."""
    table = _predicted(store, fit_id, role, along, at, chosen)
    return View(
        f"tucker_slices_{along}",
        f"Singular values along {along}: posterior with 95 % interval, and what was scanned",
        table,
        INTERVAL,
        SOURCE,
        _fixed(fit_id, role, along, at),
    )


def predicted_against_scanned(store: Store, fit_id: int, points: int = MOST_POINTS) -> View:
    """`observed`, `mean`, `lo`, `hi`, `z` of at most `points` scanned places, spread evenly.

    The share within the interval, in the parameters, is that of all of them.
    """
    table = store.sql(
        f"""
        WITH p AS (
            SELECT role, depth, step, quantile, observed, mean, sd,
                   row_number() OVER (ORDER BY role, depth, step, quantile) AS i,
                   count(*) OVER () AS n
            FROM tucker_prediction WHERE fit_id = ? AND observed IS NOT NULL)
        SELECT role, depth, step, quantile, observed, mean,
               mean - {WIDTH} * sd AS lo, mean + {WIDTH} * sd AS hi, (observed - mean) / sd AS z,
               abs(observed - mean) <= {WIDTH} * sd AS inside
        FROM p WHERE (i * ?) // n <> ((i - 1) * ?) // n ORDER BY i
        """,
        [fit_id, points, points],
    )
    inside = store.sql(
        f"""
        SELECT count(*), avg((abs(observed - mean) <= {WIDTH} * sd)::INT)
        FROM tucker_prediction WHERE fit_id = ? AND observed IS NOT NULL
        """,
        [fit_id],
    ).to_pylist()[0]
    n, share = inside.values()
    known: dict[str, Any] = {"fit": fit_id, "values": n}
    if share is not None:
        known["share within 95 % interval"] = f"{share:.3f}"
    return View(
        "tucker_predicted",
        "Predicted against scanned singular values",
        table,
        "In sample, with the residual process: the fit has seen these values. z is their distance "
        "from the mean in standard deviations of an observation.",
        SOURCE,
        known,
    )


def noise_by_quantile(store: Store, fit_id: int) -> View:
    """By quantile: `residual` (root mean square), median `sd`, `sd_function`, `coverage`, `n`."""
    table = store.sql(
        f"""
        SELECT quantile, sqrt(avg((observed - mean) ** 2)) AS residual, median(sd) AS sd,
               median(sd_function) AS sd_function,
               avg((abs(observed - mean) <= {WIDTH} * sd)::INT) AS coverage, count(*) AS n
        FROM tucker_prediction WHERE fit_id = ? AND observed IS NOT NULL
        GROUP BY quantile ORDER BY quantile
        """,
        [fit_id],
    )
    return View(
        "tucker_noise",
        "Noise against residual, by quantile",
        table,
        "Root mean square of observed - mean, beside the medians of the standard deviations of an "
        "observation and of the function alone. Every quantile has its own noise. In sample: "
        "residuals well above the noise mean that the fit misses something there.",
        SOURCE,
        {"fit": fit_id},
    )


def _predicted(
    store: Store,
    fit_id: int,
    role: str,
    along: Along,
    at: float | None,
    chosen: Sequence[float] | None,
) -> Any:
    x, other = _column(along), _column("step" if along == "depth" else "depth")
    return store.sql(
        f"""
        SELECT {x} AS x, quantile, mean, mean - {WIDTH} * sd AS lo, mean + {WIDTH} * sd AS hi,
               sd, sd_function, observed, extrapolated,
               CASE WHEN observed IS NOT NULL THEN 'scanned' WHEN extrapolated THEN 'extrapolated'
                    ELSE 'between scans' END AS place
        FROM tucker_prediction
        WHERE fit_id = ? AND role = ? AND ({other} = ? OR ? IS NULL)
              AND (quantile = ANY(?) OR ?)
        ORDER BY quantile, x
        """,
        [fit_id, role, at, at, list(chosen or ()), chosen is None],
    )


def _column(along: Along) -> str:
    """The column's name, for SQL: never anything else."""
    return {"depth": "depth", "step": "step"}[along]


def _fixed(fit_id: int, role: str, along: Along, at: float | None) -> dict[str, Any]:
    fixed: dict[str, Any] = {"fit": fit_id, "role": role}
    if at is not None:
        fixed["step" if along == "depth" else "depth"] = float(at)
    return fixed


def _values(store: Store, column: Literal["role", "quantile"], fit_id: int) -> list[Any]:
    query = f"SELECT DISTINCT {column} FROM tucker_prediction WHERE fit_id = ? ORDER BY 1"
    return store.sql(query, [fit_id]).column(0).to_pylist()
