"""The collection at a glance, and how far a scan is, against the rows that were written."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from analyzer.store.reading import Store
from analyzer.views import collection, coverage
from analyzer.views.coverage import Running, Seen


@pytest.fixture
def store(put: Callable[..., None], empty: Store) -> Store:
    """A base, a run of two steps and a single fine-tune; one matrix was refused."""
    db = empty.db
    put(db, "checkpoint", [
        {"checkpoint_id": 1, "name": "base", "kind": "base", "run": None, "step": None,
         "base_checkpoint_id": None},
        {"checkpoint_id": 2, "name": "r/checkpoint-5", "kind": "full", "run": "r", "step": 5,
         "base_checkpoint_id": 1},
        {"checkpoint_id": 3, "name": "r/checkpoint-9", "kind": "full", "run": "r", "step": 9,
         "base_checkpoint_id": 1},
        {"checkpoint_id": 4, "name": "lora", "kind": "adapter", "run": None, "step": None,
         "base_checkpoint_id": 1},
    ])  # fmt: skip
    matrices = [
        {"matrix_id": n, "checkpoint_id": 1 + n // 10, "name": f"w{n % 10}", "role": role,
         "rows": 20, "cols": 10, "status": "ok", "detail": None}
        for n, role in ((0, "mlp_up"), (1, "embed"), (10, "mlp_up"), (11, "embed"), (20, "mlp_up"))
    ]  # fmt: skip
    matrices.append({"matrix_id": 30, "checkpoint_id": 4, "name": "w0", "role": "mlp_up",
                     "rows": 20, "cols": 10, "status": "nonfinite", "detail": "NaN"})  # fmt: skip
    put(db, "matrix", matrices)
    put(db, "done", [{"matrix_id": n, "analysis": "tails", "params": ""} for n in (0, 10)])
    put(db, "intruder", [{"matrix_id": 10, "side": s} for s in ("left", "right")])
    put(db, "scan", [{"scan_id": 1, "started_at": "t1", "device": "cpu", "status": "running"}])
    put(db, "event", [{"level": "warning", "scan_id": 1, "checkpoint_id": 4, "name": "f",
                       "code": "warning", "message": "odd"}])  # fmt: skip
    return empty


def test_pairing_tells_runs_from_single_checkpoints(store: Store) -> None:
    rows = [tuple(row.values()) for row in collection.pairing(store).rows()]
    assert rows == [
        ("base", "lora", "adapter", 0, None, None), ("base", "r", "full", 2, 5, 9),
    ]  # fmt: skip


def test_coverage_counts_what_there_is_and_could_be(store: Store) -> None:
    rows = {row["analysis"]: row for row in coverage.coverage(store).rows()}
    # five readable matrices; of those of tuned checkpoints two inside blocks
    assert (rows["tails"]["done"], rows["tails"]["possible"]) == (2, 5)
    assert (rows["intruders"]["done"], rows["intruders"]["possible"]) == (1, 2)
    assert rows["tucker"]["done"] == 0
    assert all(row["command"].startswith("analyzer scan PATH") for row in rows.values())


def test_problems_are_refused_matrices_and_messages(store: Store) -> None:
    rows = collection.problems(store).rows()
    assert [(row["code"], row["message"]) for row in rows] == [
        ("warning", "odd"), ("nonfinite", "NaN"),
    ]  # fmt: skip


def test_a_running_scan_is_measured_by_cost(store: Store) -> None:
    now = coverage.running(store)
    assert now is not None
    assert (now.done, now.spectra, now.matrices) == (2, 2, 5)
    assert now.work == 5 * 20 * 10**2
    assert now.fraction == pytest.approx(2 / 5)


def test_only_the_newest_scan_can_be_running(put: Callable[..., None], store: Store) -> None:
    put(store.db, "scan", [{"scan_id": 2, "started_at": "t2", "device": "cpu", "status": "ok"}])
    assert coverage.running(store) is None


def test_an_end_is_told_only_after_a_minute_of_progress() -> None:
    now = Running(1, "t", "cpu", 30, 30, 100, 300.0, 900.0)
    early = (Seen(0.0, 10, 100.0), Seen(30.0, 30, 300.0))
    later = (Seen(0.0, 10, 100.0), Seen(100.0, 30, 300.0))
    assert coverage.seconds_left(early, now) is None
    # 200 of work took 100 s and 600 are left
    assert coverage.seconds_left(later, now) == pytest.approx(300.0)
    assert coverage.rate(later) == pytest.approx(0.2)
    still = (Seen(0.0, 10, 300.0), Seen(100.0, 30, 300.0))
    assert coverage.seconds_left(still, now) is None
    assert coverage.rate((Seen(0.0, 10, 0.0), Seen(9.0, 10, 0.0))) is None


def test_nothing_is_left_of_a_finished_spectrum() -> None:
    now = Running(1, "t", "cpu", 30, 100, 100, 900.0, 900.0)
    assert coverage.seconds_left((Seen(0.0, 0, 0.0), Seen(100.0, 30, 900.0)), now) is None


def test_views_of_an_empty_store_are_empty(empty: Store) -> None:
    for view in (collection.checkpoints, collection.pairing, collection.scans, collection.problems):
        assert view(empty).is_empty
    assert coverage.running(empty) is None
    assert {row["done"] for row in coverage.coverage(empty).rows()} == {0}
    assert collection.runs(empty) == collection.roles(empty) == collection.tuned_names(empty) == []
