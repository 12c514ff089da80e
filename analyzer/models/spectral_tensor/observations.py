"""Log singular values at quantiles of every spectrum of a run, with their place in it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import duckdb
import numpy as np
from numpy.typing import NDArray

from analyzer.errors import UsageError

Array = NDArray[np.float64]
Mode = Literal["depth", "step", "role", "matrix", "quantile"]
MODES: tuple[Mode, ...] = ("depth", "step", "role", "matrix", "quantile")

N_QUANTILES = 24
SMALLEST = 1e-12  # below it, the logarithm of a singular value is that of rounding

# Of a run, its steps and the base it started from as step 0; of a checkpoint alone, itself. Experts
# have no place of their own in depth.
_PLACES = """
    SELECT coalesce(m.stack, '') AS stack, m.role, m.layer,
           CASE WHEN c.checkpoint_id = ? THEN 0 ELSE coalesce(c.step, 0) END AS step,
           m.matrix_id, m.content_sha256
    FROM matrix m JOIN checkpoint c USING (checkpoint_id) JOIN spectrum i USING (matrix_id)
    WHERE i.kind = ? AND i.k = 1 AND m.layer IS NOT NULL AND m.expert IS NULL
          AND c.checkpoint_id IN (SELECT unnest(?))
          AND (? OR list_has_any(?, [m.role, m.stack || '.' || m.role]))
    ORDER BY 1, 2, 3, 4, 5
"""
_SPECTRA = f"""
    SELECT p.*, list(s.sigma ORDER BY s.k)
    FROM ({_PLACES}) p JOIN spectrum s USING (matrix_id) WHERE s.kind = ?
    GROUP BY ALL ORDER BY 1, 2, 3, 4, 5
"""


# The folder that was scanned is what the name, relative to it, leaves of the path.
_RUNS = """
    SELECT coalesce(run, name), left(path, greatest(length(path) - length(name), 0)), run IS NULL,
           list(checkpoint_id ORDER BY step), any_value(base_checkpoint_id), any_value(kind),
           bool_or(coalesce(step, 1) = 0)
    FROM checkpoint GROUP BY 1, 2, 3 ORDER BY min(checkpoint_id)
"""


@dataclass(frozen=True, slots=True)
class Observations:
    """N values at N places; `role` numbers the entries of `roles`, `matrix` depth and role at once.

    `step` and `depth` (the block's number) are as stored; a model sees log(1 + step).
    """

    run: str
    kind: str
    depth: Array  # (N,)
    step: Array
    role: Array
    quantile: Array
    values: Array  # log σ
    roles: tuple[str, ...]
    n_scans: int  # spectra
    inputs_sha256: str

    @property
    def matrix(self) -> Array:
        """(N,) a number for each pair of depth and role."""
        return self.matrix_at(self.depth, self.role)

    def matrix_at(self, depth: Array, role: Array) -> Array:
        """The number of a pair; -1 between two blocks, where no matrix is."""
        return np.where(depth % 1 == 0, depth * len(self.roles) + role, -1.0)

    def column(self, mode: Mode) -> Array:
        """What a model sees of a mode."""
        values = getattr(self, mode)
        return np.log1p(values) if mode == "step" else values

    def indexes(self, modes: Sequence[Mode]) -> Array:
        """(N, K)."""
        return np.column_stack([self.column(mode) for mode in modes])

    def where(self, kept: NDArray[np.bool_]) -> Observations:
        """Some of the values."""
        return Observations(
            self.run, self.kind, self.depth[kept], self.step[kept], self.role[kept],
            self.quantile[kept], self.values[kept], self.roles, self.n_scans, self.inputs_sha256,
        )  # fmt: skip

    def varying(self, modes: Sequence[Mode]) -> tuple[Mode, ...]:
        """Those with more than one index: a mode that is always the same says nothing."""
        return tuple(mode for mode in modes if np.unique(getattr(self, mode)).size > 1)


@dataclass(frozen=True, slots=True)
class RunOfStore:
    """Checkpoints that belong together: the steps of a run, or one checkpoint alone."""

    name: str
    checkpoint_ids: tuple[int, ...]
    base_id: int | None  # the checkpoint at step 0


def runs_of(connection: duckdb.DuckDBPyConnection) -> list[RunOfStore]:
    """Every run of the store, with its base unless it has a step 0 of its own, and every checkpoint
    that belongs to none.

    Of runs of one name in several scanned folders, those after the first are told by their path.
    """
    found = connection.execute(_RUNS).fetchall()
    runs: dict[str, RunOfStore] = {}
    for name, root, alone, numbers, base_id, kind, has_start in found:
        if alone and kind == "adapter":
            continue
        tuned_from = None if alone or has_start or kind == "adapter" else base_id
        ids = tuple(numbers) + ((tuned_from,) if tuned_from is not None else ())
        own = name if name not in runs else f"{root}{name}"
        runs[own] = RunOfStore(own, ids, tuned_from)
    return [runs[name] for name in sorted(runs)]


def observe_spectra(
    connection: duckdb.DuckDBPyConnection,
    run: RunOfStore,
    *,
    kind: str = "weight",
    roles: Sequence[str] = (),
    n_quantiles: int = N_QUANTILES,
) -> Observations:
    """Every spectrum of a run at `n_quantiles` quantiles (j + ½)/n, largest value first.

    Roles of a network of several stacks are named stack.role; `roles` may be given without. Raises
    UsageError where there is none.
    """
    found = connection.execute(_SPECTRA, [*_asked(run, kind, roles), kind]).fetchall()
    if not found:
        what = f" with role {', '.join(roles)}" if roles else ""
        raise UsageError(
            f"no {kind} spectrum of {run.name}{what}", hint="see `analyzer ls`, then scan for tails"
        )
    several = len({stack for stack, *_ in found}) > 1 or any("." in role for role in roles)
    names = [f"{stack}.{role}" if several else role for stack, role, *_ in found]
    labels = tuple(sorted(set(names)))
    quantiles = (np.arange(n_quantiles) + 0.5) / n_quantiles
    count = len(found)
    return Observations(
        run=run.name,
        kind=kind,
        depth=np.repeat([float(row[2]) for row in found], n_quantiles),
        step=np.repeat([float(row[3]) for row in found], n_quantiles),
        role=np.repeat([float(labels.index(name)) for name in names], n_quantiles),
        quantile=np.tile(quantiles, count),
        values=np.concatenate([log_quantiles(np.array(row[-1]), quantiles) for row in found]),
        roles=labels,
        n_scans=count,
        inputs_sha256=_digest([row[:-1] for row in found]),
    )


def inputs_of(connection: duckdb.DuckDBPyConnection, run: RunOfStore) -> str:
    """`Observations.inputs_sha256` of a run's weights, without reading a spectrum."""
    return _digest(connection.execute(_PLACES, _asked(run, "weight", ())).fetchall())


def _asked(run: RunOfStore, kind: str, roles: Sequence[str]) -> list[Any]:
    return [run.base_id or -1, kind, list(run.checkpoint_ids), not roles, list(roles)]


def _digest(places: Sequence[tuple[Any, ...]]) -> str:
    """Hash over places and contents; numbers of matrices only where they have no hash."""
    digest = hashlib.sha256()
    for stack, role, layer, step, matrix_id, content in places:
        digest.update(f"{stack}.{role}.{layer}:{step}:{content or matrix_id}\n".encode())
    return digest.hexdigest()


def log_quantiles(sigma: Array, quantiles: Array) -> Array:
    """log σ at quantiles of the singular values (n,), descending: linear between positions."""
    position = np.clip(quantiles * sigma.size - 0.5, 0, sigma.size - 1)
    return np.interp(position, np.arange(sigma.size), np.log(np.maximum(sigma, SMALLEST)))
