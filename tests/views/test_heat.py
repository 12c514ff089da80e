"""Maps by layer and role and lines along runs, against numpy on the rows that were written."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analyzer.errors import UsageError
from analyzer.store.connection import writer
from analyzer.store.reading import Store, connect
from analyzer.views import heat
from analyzer.views.history import history

LEFT, WEIGHT = (("side", "left"),), (("kind", "weight"),)
STEPS = (10, 20, 40)


def checkpoint(number: int, name: str, **more: Any) -> dict[str, Any]:
    return {"checkpoint_id": number, "name": name, "path": f"/x/{name}", "kind": "full"} | more


@pytest.fixture
def names() -> list[tuple[str, int | None, str, int | None]]:
    """(name, layer, role, expert): two layers of attention, four experts, an embedding."""
    found: list[tuple[str, int | None, str, int | None]] = [
        ("embed.weight", None, "embed", None), ("lm_head.weight", None, "unembed", None),
    ]  # fmt: skip
    for layer in (0, 1, 10):
        found.append((f"h.{layer}.attn.q_proj.weight", layer, "attn_q", None))
        found += [
            (f"h.{layer}.mlp.experts.{e}.up_proj.weight", layer, "expert_up", e) for e in range(4)
        ]
    return found


@pytest.fixture
def made(
    put: Callable[..., None],
    make_store: Callable[..., Path],
    names: list[tuple[str, int | None, str, int | None]],
) -> tuple[Store, dict[tuple[str, str], dict[str, float]]]:
    """A base and a run of three steps, whose names have a prefix more; and alpha, ratio by name."""
    db = make_store()
    rng = np.random.default_rng(3)
    put(db, "checkpoint", [checkpoint(1, "base", kind="base")])
    put(
        db,
        "checkpoint",
        [
            checkpoint(2 + i, f"run/checkpoint-{s}", run="run", step=s, base_checkpoint_id=1)
            for i, s in enumerate(STEPS)
        ],
    )
    numbers: dict[tuple[str, str], dict[str, float]] = {}
    matrices, tails, intruders = [], [], []
    for i, owner in enumerate(("base", *(f"run/checkpoint-{s}" for s in STEPS))):
        for j, (name, layer, role, expert) in enumerate(names):
            number = 100 * i + j
            full = name if owner == "base" else f"model.{name}"
            matrices.append(
                {"matrix_id": number, "checkpoint_id": i + 1, "name": full, "layer": layer,
                 "role": role, "expert": expert, "rows": 8, "cols": 8, "status": "ok"}
            )  # fmt: skip
            own = {"alpha": rng.uniform(2, 6), "ratio": rng.uniform(0, 1)}
            numbers[owner, name] = own
            tails += [
                {"matrix_id": number, "kind": "weight", "alpha": own["alpha"]},
                {"matrix_id": number, "kind": "delta", "alpha": -1.0},
            ]
            if owner != "base":
                intruders += [
                    {"matrix_id": number, "side": "left", "delta_fro_ratio": own["ratio"]},
                    {"matrix_id": number, "side": "right", "delta_fro_ratio": 9.0},
                ]
    put(db, "matrix", matrices)
    put(db, "tail", tails)
    put(db, "intruder", intruders)
    return connect(db), numbers


def test_a_cell_is_the_median_of_its_matrices(made, names) -> None:
    store, numbers = made
    view = heat.heat(store, "run/checkpoint-20", "intruder.delta_fro_ratio", LEFT)
    for row in view.rows():
        own = [
            numbers["run/checkpoint-20", name]["ratio"]
            for name, layer, role, _ in names
            if (layer, role) == (row["layer"], row["role"])
        ]
        assert row["n"] == len(own)
        assert row["value"] == pytest.approx(np.median(own))
        assert (row["low"], row["high"]) == (min(own), max(own))
    assert view.table.num_rows == 8


def test_a_change_is_taken_matrix_by_matrix(made, names) -> None:
    """Not of medians: experts change one by one; names differ by a prefix."""
    store, numbers = made
    view = heat.heat(store, "run/checkpoint-40", "tail.alpha", WEIGHT, "base")
    found = {(row["layer"], row["role"]): row["value"] for row in view.rows()}
    for layer, role in found:
        changes = [
            numbers["run/checkpoint-40", name]["alpha"] - numbers["base", name]["alpha"]
            for name, *place, _ in names
            if tuple(place) == (layer, role)
        ]
        assert found[layer, role] == pytest.approx(np.median(changes))
    assert heat.scale(view) == "diverging"


def test_places_and_roles_stand_in_the_order_of_the_network(made) -> None:
    store, _ = made
    view = heat.heat(store, "base", "tail.alpha", WEIGHT)
    assert heat.places(view) == ["none", "0", "1", "10"]
    assert heat.roles(view) == ["embed", "attn_q", "expert_up", "unembed"]


def test_a_wide_range_has_a_logarithmic_scale(made) -> None:
    store, _ = made
    with writer(store.db) as connection:
        connection.execute("UPDATE tail SET alpha = 1000 WHERE matrix_id = 0")
    assert heat.scale(heat.heat(store, "base", "tail.alpha", WEIGHT)) == "log"


def test_values_that_are_not_finite_are_left_out(made) -> None:
    store, _ = made
    with writer(store.db) as connection:
        connection.execute("UPDATE tail SET alpha = 'inf' WHERE matrix_id = 0")
        connection.execute("UPDATE tail SET alpha = 'nan' WHERE matrix_id = 1")
        connection.execute("UPDATE tail SET alpha = NULL WHERE matrix_id = 2")
    view = heat.heat(store, "base", "tail.alpha", WEIGHT)
    assert view.table.num_rows == 5
    assert all(math.isfinite(value) for value in view.column("value"))


@pytest.mark.parametrize(
    "metric",
    ["tail.nothing", "nothing.alpha", "tail.status", "scan.scan_id", 'tail.alpha" --', "", "tail"],
)
def test_only_numbers_of_matrices_are_taken(made, metric: str) -> None:
    with pytest.raises(UsageError, match="no number of matrices"):
        heat.heat(made[0], "base", metric)


def test_a_column_to_be_fixed_must_be_there(made) -> None:
    with pytest.raises(UsageError, match="no column"):
        heat.heat(made[0], "base", "tail.alpha", (('kind" = 1 OR "kind', "weight"),))


def test_numbers_are_offered_where_the_store_has_them(made) -> None:
    store, _ = made
    tables = ("intruder", "tail", "welore")
    on_base = heat.metrics(store, "base", tables)
    assert "tail.alpha" in on_base
    assert not any(name.startswith(("intruder.", "welore.")) for name in on_base)
    assert "intruder.delta_fro_ratio" in heat.metrics(store, "run/checkpoint-10", tables)
    assert heat.kinds(store, "base", "tail", "kind") == ["delta", "weight"]


def test_a_cell_lists_its_matrices(made) -> None:
    found = heat.cell_matrices(made[0], "run/checkpoint-10", None, 1, "expert_up")
    assert found == [f"model.h.1.mlp.experts.{e}.up_proj.weight" for e in range(4)]
    assert heat.cell_matrices(made[0], "base", None, None, "embed") == ["embed.weight"]


def test_a_history_has_the_median_and_quartiles_of_every_step(made, names) -> None:
    store, numbers = made
    view = history(store, ("run",), "tail.alpha", WEIGHT)
    assert view.column("step") == [None, *STEPS]
    for row in view.rows():
        own = [numbers[row["checkpoint"], name]["alpha"] for name, *_ in names]
        assert row["value"] == pytest.approx(np.median(own))
        assert (row["low"], row["high"]) == pytest.approx(np.quantile(own, [0.25, 0.75]).tolist())
        assert row["n"] == len(names)


def test_a_history_of_an_update_has_no_base(made) -> None:
    view = history(made[0], ("run",), "intruder.delta_fro_ratio", LEFT)
    assert view.column("run") == ["run"] * 3


def test_an_empty_store_has_no_cells(empty: Store) -> None:
    assert heat.heat(empty, "x", "tail.alpha", WEIGHT).is_empty
    assert heat.heat(empty, "x", "tail.alpha", WEIGHT, "y").is_empty
    assert history(empty, (), "tail.alpha").is_empty
    assert heat.metrics(empty, "x", ("tail",)) == []
