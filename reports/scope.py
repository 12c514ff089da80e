"""Which checkpoints a report is about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from analyzer.errors import UsageError
from analyzer.store.reading import Store
from analyzer.views import collection

MOST_COMPARED = 8  # checkpoints in one figure: more lines cannot be told apart


@dataclass(frozen=True, slots=True)
class Scope:
    """`base`, the `tuned` checkpoints compared with it, and `run` where only one is followed.

    `shown` are the checkpoints that one figure compares: the last step of every run, and those
    outside runs.
    """

    base: str | None
    tuned: tuple[str, ...]
    shown: tuple[str, ...]
    run: str | None = None

    @property
    def focus(self) -> tuple[str, ...]:
        """Checkpoints worth a figure of their own: of a run that is followed the last step."""
        return self.shown[-1:] if self.run is not None else self.shown

    @property
    def names(self) -> tuple[str, ...]:
        return (*((self.base,) if self.base else ()), *self.tuned)


def whole(store: Store) -> Scope:
    """Everything in the store."""
    rows = collection.checkpoints(store).rows()
    base = next((row["name"] for row in rows if row["kind"] == "base"), None)
    tuned = [row for row in rows if row["name"] != base]
    return Scope(base, tuple(row["name"] for row in tuned), _last_steps(tuned))


def pair(store: Store, base: str, tuned: str) -> Scope:
    """One base and one tuned checkpoint, or the last step of the run called so."""
    rows = collection.checkpoints(store).rows()
    found = _named(rows, tuned)
    if found["base"] != _named(rows, base)["name"]:
        raise UsageError(f"{found['name']} was not compared with {base}", hint="see `analyzer ls`")
    return Scope(found["base"], (found["name"],), (found["name"],))


def trajectory(store: Store, run: str) -> Scope:
    """The steps of one run. Raises UsageError naming the runs there are."""
    rows = [row for row in collection.checkpoints(store).rows() if row["run"] == run]
    if not rows:
        known = ", ".join(collection.runs(store)) or "the store holds none"
        raise UsageError(f"no run named {run}", path=store.db, hint=f"runs: {known}")
    names = tuple(row["name"] for row in rows)
    return Scope(rows[-1]["base"], names, names[-MOST_COMPARED:], run)


def _last_steps(rows: Sequence[dict]) -> tuple[str, ...]:
    last = {row["run"] or row["name"]: row["name"] for row in rows}  # by step within a run
    return tuple(last.values())[:MOST_COMPARED]


def _named(rows: Sequence[dict], name: str) -> dict:
    found = [row for row in rows if name in (row["name"], row["run"])]
    if not found:
        known = ", ".join(row["name"] for row in rows[:12])
        raise UsageError(f"no checkpoint named {name}", hint=f"there are {known}")
    return found[-1]
