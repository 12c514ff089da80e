"""Permutation groups of whole checkpoints, ordered and held against chance, a group at a time."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import duckdb

from analyzer.checkpoints.checkpoint import Checkpoint
from analyzer.checkpoints.discover import Collection
from analyzer.errors import WorkbenchError
from analyzer.models.manifold.groups import PermutationGroup, permutation_groups
from analyzer.models.manifold.smoothness import GroupSmoothness, group_smoothness
from analyzer.models.manifold.tables import ManifoldGroupRow, ManifoldOrderRow
from analyzer.scanning.drafts import Entry, Problem
from analyzer.store.connection import reader, writer
from analyzer.store.writing import insert

CODE_VERSION = 1
Report = Callable[[float, str], None]


@dataclass(frozen=True, slots=True)
class Whole:
    """A checkpoint that holds every weight of a network, its number and its identity."""

    checkpoint: Checkpoint
    checkpoint_id: int
    identity: str


@dataclass(frozen=True, slots=True)
class Mapped:
    """Groups of one checkpoint that are to be ordered."""

    whole: Whole
    groups: tuple[PermutationGroup, ...]


def whole_checkpoints(
    collection: Collection, entries: Sequence[Entry], identities: dict[int, str]
) -> list[Whole]:
    """The base, full checkpoints alone, the last of every run: the steps before resemble it."""
    numbers = {e.checkpoint.name: e.row.checkpoint_id for e in entries}
    last = {steps[-1].name for steps in collection.trajectories.values()}
    stepped = {c.name for steps in collection.trajectories.values() for c in steps}
    return [
        Whole(c, numbers[c.name], identities[numbers[c.name]])
        for c in collection.checkpoints
        if c.kind != "adapter" and c.name in numbers and (c.name in last or c.name not in stepped)
    ]


def map_groups(wholes: Iterable[Whole], problems: list[Problem]) -> list[Mapped]:
    """Groups of each checkpoint whose architecture is known; what is not becomes a warning."""
    found = []
    for whole in wholes:
        try:
            groups, unmapped = permutation_groups(whole.checkpoint)
        except WorkbenchError as error:
            problems.append(_warning(whole, f"no permutation groups: {error.message}"))
            continue
        for first in unmapped[:1]:
            more = f", and {len(unmapped) - 1} more" if len(unmapped) > 1 else ""
            problems.append(_warning(whole, f"left in place: {first}{more}"))
        found.append(Mapped(whole, groups))
    return found


def stored_groups(
    connection: duckdb.DuckDBPyConnection, mapped: Sequence[Mapped], seed: int
) -> set[tuple[int, str]]:
    """(checkpoint_id, group) of what the store has of these very weights."""
    found = connection.execute(
        'SELECT checkpoint_id, "group", inputs_sha256 FROM manifold_group WHERE params = ?',
        [params(seed)],
    ).fetchall()
    identities = {one.whole.checkpoint_id: one.whole.identity for one in mapped}
    return {(number, group) for number, group, sha in found if identities.get(number) == sha}


def order_groups(
    db: Path, mapped: Sequence[Mapped], seed: int, report: Report, *, force: bool
) -> tuple[int, list[Problem]]:
    """Order every group that is not stored, one transaction each; how many, and what failed."""
    with reader(db) as connection:
        done = set() if force else stored_groups(connection, mapped, seed)
    left = [
        (one.whole, group)
        for one in mapped
        for group in one.groups
        if (one.whole.checkpoint_id, group.name) not in done
    ]
    total = sum(_cost(group) for _, group in left) or 1.0
    finished, computed, problems = 0.0, 0, []
    for whole, group in left:
        report(finished / total, f"{whole.checkpoint.name}: ordering {group.name}")
        started = time.perf_counter()
        try:
            found = group_smoothness(whole.checkpoint.read, group, seed=seed)
        except WorkbenchError as error:
            text = f"{whole.checkpoint.name}: {group.name}: {error}"
            problems.append(Problem(group.name, error.status, text, whole.checkpoint_id))
        else:
            _store(db, whole, group, found, seed, time.perf_counter() - started)
            computed += 1
        finished += _cost(group)
    return computed, problems


def params(seed: int) -> str:
    """Everything a group's row depends on besides the weights, as it is stored."""
    return json.dumps({"seed": seed, "version": CODE_VERSION}, sort_keys=True)


def _store(
    db: Path,
    whole: Whole,
    group: PermutationGroup,
    found: GroupSmoothness,
    seed: int,
    seconds: float,
) -> None:
    values = asdict(found)
    order = values.pop("order")
    row = ManifoldGroupRow(
        checkpoint_id=whole.checkpoint_id,
        layer=group.layer,
        precision="float64",
        inputs_sha256=whole.identity,
        params=params(seed),
        seconds=seconds,
        **values,
    )
    orders = [
        ManifoldOrderRow(whole.checkpoint_id, group.name, pos, idx) for pos, idx in enumerate(order)
    ]
    with writer(db) as connection:
        for table in (ManifoldGroupRow, ManifoldOrderRow):
            connection.execute(
                f'DELETE FROM "{table.TABLE}" WHERE checkpoint_id = ? AND "group" = ?',
                [whole.checkpoint_id, group.name],
            )
        insert(connection, [row, *orders])


def _cost(group: PermutationGroup) -> float:
    return float(group.size) ** 2


def _warning(whole: Whole, text: str) -> Problem:
    name = whole.checkpoint.name
    return Problem(name, "warning", f"{name}: {text}", whole.checkpoint_id)
