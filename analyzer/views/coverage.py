"""Which analyses a store holds, what is missing, and how far a running scan is."""

from __future__ import annotations

from dataclasses import dataclass

from analyzer.checkpoints.names import BLOCK_ROLES
from analyzer.store.reading import Store
from analyzer.views.view import View

# Of each analysis: what a row counts, SQL for how many are there and of how many, and what fills
# the rest. NULL where the store cannot tell how many there could be.
_OK = "SELECT matrix_id FROM matrix WHERE status IN ('ok', 'zero_delta')"
_BLOCKS = ", ".join(f"'{role}'" for role in sorted(BLOCK_ROLES))
_ANALYSES = (
    (
        "tails",
        "matrices",
        "SELECT count(DISTINCT matrix_id) FROM done WHERE analysis = 'tails'",
        f"SELECT count(*) FROM ({_OK})",
        "analyzer scan PATH --analyses tails",
    ),
    (
        "intruders",
        "tuned matrices inside blocks",
        "SELECT count(DISTINCT matrix_id) FROM intruder",
        f"""SELECT count(*) FROM ({_OK}) JOIN matrix USING (matrix_id)
            JOIN checkpoint USING (checkpoint_id) WHERE base_checkpoint_id IS NOT NULL
            AND (role IN ({_BLOCKS}) OR matrix_id IN (SELECT matrix_id FROM intruder))""",
        "analyzer scan PATH --base BASE --analyses intruders",
    ),
    (
        "emergence",
        "matrices followed along runs",
        "SELECT count(DISTINCT (run, matrix)) FROM emergence",
        "SELECT NULL::BIGINT",
        "analyzer scan PATH --analyses emergence",
    ),
    (
        "limits",
        "attention layers",
        "SELECT count(DISTINCT matrix_id) FROM lora_limits",
        "SELECT NULL::BIGINT",
        "analyzer scan PATH --analyses limits",
    ),
    (
        "limits, measured on hidden states",
        "attention layers",
        "SELECT count(DISTINCT matrix_id) FROM done WHERE analysis = 'limits_measured'",
        "SELECT NULL::BIGINT",
        "analyzer scan PATH --analyses limits --calibration TEXT",
    ),
    (
        "tucker",
        "fits",
        "SELECT count(*) FROM tucker_fit",
        "SELECT NULL::BIGINT",
        "analyzer scan PATH --analyses tucker",
    ),
    (
        "manifold",
        "fits",
        "SELECT count(*) FROM manifold_fit",
        "SELECT NULL::BIGINT",
        "analyzer scan PATH --analyses manifold",
    ),
)


def coverage(store: Store) -> View:
    """One row an analysis: `done` of `possible` (NULL: the store cannot tell), and the command."""
    lines = " UNION ALL ".join(
        f"SELECT {i} AS i, ? AS analysis, ? AS counts, ({done}) AS done, ({possible}) AS possible,"
        " ? AS command"
        for i, (_, _, done, possible, _) in enumerate(_ANALYSES)
    )
    words = [word for name, counts, _, _, command in _ANALYSES for word in (name, counts, command)]
    return View(
        "coverage",
        "Which analyses are there",
        store.sql(f"SELECT * EXCLUDE (i) FROM ({lines}) ORDER BY i", words),
        "What is stored is not computed again: the command fills what is missing. `analyzer scan` "
        "says in a line each why an analysis could not run.",
    )


@dataclass(frozen=True, slots=True)
class Running:
    """A scan whose end is not recorded: it runs, or was killed.

    `done` are its marks of finished units and `spectra` matrices with singular values of `matrices`
    readable ones; `work_done` and `work` the same weighted by long·short², the cost of a spectrum.
    """

    scan_id: int
    started_at: str
    device: str
    done: int
    spectra: int
    matrices: int
    work_done: float
    work: float

    @property
    def fraction(self) -> float:
        """Share of the spectra's cost that is done, 0…1."""
        return self.work_done / self.work if self.work else 0.0


def running(store: Store) -> Running | None:
    """The newest scan, if its end is not recorded."""
    found = store.sql(
        f"""
        WITH m AS (
            SELECT matrix_id, greatest(rows, cols)::DOUBLE * least(rows, cols) ** 2 AS cost,
                   matrix_id IN (SELECT matrix_id FROM done WHERE analysis = 'tails') AS has
            FROM matrix WHERE matrix_id IN ({_OK}))
        SELECT scan_id, started_at, device, (SELECT count(*) FROM done) AS done,
               (SELECT count(*) FROM m WHERE has) AS spectra, (SELECT count(*) FROM m) AS matrices,
               (SELECT coalesce(sum(cost), 0) FROM m WHERE has) AS work_done,
               (SELECT coalesce(sum(cost), 0) FROM m) AS work
        FROM scan WHERE scan_id = (SELECT max(scan_id) FROM scan) AND status = 'running'
        """
    ).to_pylist()
    return Running(**found[0]) if found else None


@dataclass(frozen=True, slots=True)
class Seen:
    """A `Running` scan as it was at some time (seconds)."""

    at: float
    done: int
    work_done: float


WATCH = 60.0  # seconds of progress from which on a rate says something
QUIET = 120.0  # seconds without a new result from which on a scan may be dead


def rate(seen: tuple[Seen, ...]) -> float | None:
    """Finished units a second over what was watched; None before there is anything to tell."""
    if len(seen) < 2 or seen[-1].at <= seen[0].at or seen[-1].done == seen[0].done:
        return None
    return (seen[-1].done - seen[0].done) / (seen[-1].at - seen[0].at)


def seconds_left(seen: tuple[Seen, ...], now: Running) -> float | None:
    """Time that the missing spectra take at the watched pace.

    None unless a minute was watched in which spectra were finished: the rest of a scan (gradients,
    attention, fits) has no known size and is not in it.
    """
    if len(seen) < 2 or seen[-1].at - seen[0].at < WATCH or now.work_done >= now.work:
        return None
    moved = seen[-1].work_done - seen[0].work_done
    if moved <= 0:
        return None
    return (now.work - now.work_done) * (seen[-1].at - seen[0].at) / moved
