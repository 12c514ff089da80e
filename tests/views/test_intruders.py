"""Intruder views against numpy on the rows that were written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analyzer.analyses.tables import TABLES
from analyzer.store.connection import create, writer
from analyzer.store.reading import Store, connect
from analyzer.views import intruders, intruders_strength, intruders_vectors

K, STEPS = 6, (10, 20, 40)
PLACES = (
    ("h.0.attn.q_proj.weight", 0, "attn_q", None), ("h.0.mlp.experts.0.up", 0, "expert_up", 0),
    ("h.0.mlp.experts.1.up", 0, "expert_up", 1), ("embed.weight", None, "embed", None),
)  # fmt: skip
NAMES = [f"run/checkpoint-{step}" for step in STEPS]


def vectors(rng: np.random.Generator, number: int) -> list[dict[str, Any]]:
    """K vectors of both sides; the last is at rounding level of the first."""
    found = []
    for side in ("left", "right"):
        sigma = np.sort(rng.uniform(1, 2, K))[::-1]
        sigma[-1] = 1e-16
        for j in range(K):
            found.append(
                {"matrix_id": number, "side": side, "j": j + 1, "sigma": sigma[j],
                 "maxcos": rng.uniform(), "maxcos_err": rng.uniform(0, 0.1),
                 "argmax_base": int(rng.integers(1, 9))}
            )  # fmt: skip
    return found


@pytest.fixture
def rows() -> dict[str, list[dict[str, Any]]]:
    rng = np.random.default_rng(5)
    found: dict[str, list[dict[str, Any]]] = {
        "checkpoint": [
            {"checkpoint_id": 1, "name": "base", "kind": "base", "base_checkpoint_id": None,
             "run": None, "step": None}
        ],
        "matrix": [], "intruder": [], "intruder_vector": [], "intruder_cosine": [],
        "intruder_track": [],
    }  # fmt: skip
    # an earlier folder of the same names as the last step, which no view may count
    for c, name in enumerate([NAMES[-1], *NAMES]):
        found["checkpoint"].append(
            {"checkpoint_id": c + 2, "name": name, "kind": "adapter", "base_checkpoint_id": 1,
             "run": "run" if c else None, "step": ([40, *STEPS])[c]}
        )  # fmt: skip
        for m, (place, layer, role, expert) in enumerate(PLACES):
            number = 100 * c + m
            found["matrix"].append(
                {"matrix_id": number, "checkpoint_id": c + 2, "name": place, "layer": layer,
                 "role": role, "expert": expert, "rows": 8, "cols": 12, "status": "ok"}
            )  # fmt: skip
            found["intruder_vector"] += vectors(rng, number)
            for side in ("left", "right"):
                found["intruder"].append(
                    {"matrix_id": number, "side": side, "k": K, "epsilon": 0.4,
                     "n_intruders": int(rng.integers(0, 4)), "status": "ok",
                     "delta_spectral_norm": rng.uniform(), "theta_star": rng.uniform(),
                     "critical_multiplier": rng.uniform(0.5, 4), "critical_limit": 64.0,
                     "delta_effective_rank": rng.uniform(1, 9), "delta_fro_ratio": rng.uniform()}
                )  # fmt: skip
            found["intruder_cosine"] += [
                {"matrix_id": number, "side": "left", "i": i, "j": j, "cosine": rng.uniform()}
                for i in range(1, K + 1) for j in range(1, K + 1)
            ]  # fmt: skip
    return found


@pytest.fixture
def store(make_store: Callable[..., Path], rows: dict[str, list[dict[str, Any]]]) -> Store:
    return connect(make_store(**{table: members for table, members in rows.items() if members}))


def of(
    rows: dict[str, list[dict[str, Any]]], name: str, side: str, k: int = K
) -> list[dict[str, Any]]:
    """Vectors of the newest checkpoint of a name, with the matrix they belong to."""
    number = max(c["checkpoint_id"] for c in rows["checkpoint"] if c["name"] == name)
    places = {m["matrix_id"]: m for m in rows["matrix"] if m["checkpoint_id"] == number}
    return [
        v | {"role": places[v["matrix_id"]]["role"], "name": places[v["matrix_id"]]["name"]}
        for v in rows["intruder_vector"]
        if v["matrix_id"] in places and v["side"] == side and v["j"] <= k
    ]


def count(found: list[dict[str, Any]], epsilon: float) -> int:
    return sum(v["maxcos"] < epsilon and v["sigma"] > 1e-10 for v in found)


@pytest.mark.parametrize("side", ["left", "right"])
def test_counts_against_epsilon_and_k(
    store: Store, rows: dict[str, list[dict[str, Any]]], side: str
) -> None:
    asked = [NAMES[2], NAMES[0]]
    view = intruders.count_against_epsilon(store, asked, side, 4)
    expected = [
        (name, e / 20, count(of(rows, name, side, 4), e / 20)) for name in asked for e in range(21)
    ]
    got = zip(*(view.column(c) for c in ("checkpoint", "epsilon", "n_intruders")), strict=True)
    assert list(got) == expected
    assert set(view.column("n_judged")) == {4 * len(PLACES)}
    view = intruders.count_against_k(store, asked, side, 0.55)
    got = zip(*(view.column(c) for c in ("checkpoint", "k", "n_intruders")), strict=True)
    assert list(got) == [
        (name, k, count(of(rows, name, side, k), 0.55)) for name in asked for k in range(1, K + 1)
    ]


def test_totals_with_open_decisions_and_energy(
    store: Store, rows: dict[str, list[dict[str, Any]]]
) -> None:
    epsilon, k = 0.6, 5
    (row,) = intruders.totals(store, [NAMES[1]], "left", epsilon, k).rows()
    found = of(rows, NAMES[1], "left", k)
    near = [v for v in found if v["maxcos"] - v["maxcos_err"] < epsilon]
    assert row["n_intruders"] == count(found, epsilon)
    assert row["n_open"] == sum(v["maxcos"] + v["maxcos_err"] >= epsilon for v in near) > 0
    shares = []
    for name, *_ in PLACES:
        own = [v for v in found if v["name"] == name]
        energy = np.array([v["sigma"] ** 2 for v in own])
        shares.append(energy[[v["maxcos"] < epsilon for v in own]].sum() / energy.sum())
    assert row["energy_share"] == pytest.approx(np.mean(shares), rel=1e-12)
    assert row["n_matrices_with"] == np.count_nonzero(shares)


def test_cells_add_up_the_experts_of_a_layer(
    store: Store, rows: dict[str, list[dict[str, Any]]]
) -> None:
    view = intruders.by_place(store, NAMES[0], "right", 0.7, K)
    cells = {row["role"]: row for row in view.rows()}
    assert list(cells) == ["embed", "attn_q", "expert_up"]
    for role, cell in cells.items():
        found = [v for v in of(rows, NAMES[0], "right") if v["role"] == role]
        assert cell["value"] == count(found, 0.7)
    assert cells["expert_up"]["n"] == 2
    assert cells["embed"]["place"] == "none"
    share = intruders.by_place(store, NAMES[0], "right", 0.7, K, "energy_share")
    experts = [v for v in of(rows, NAMES[0], "right") if v["role"] == "expert_up"]
    energy = np.array([v["sigma"] ** 2 for v in experts])
    inside = np.array([v["maxcos"] < 0.7 and v["sigma"] > 1e-10 for v in experts])
    value = next(r["value"] for r in share.rows() if r["role"] == "expert_up")
    assert value == pytest.approx(energy[inside].sum() / energy.sum(), rel=1e-12)


def test_maps_hold_the_cosines_and_mark_whole_columns(
    store: Store, rows: dict[str, list[dict[str, Any]]]
) -> None:
    asked = [(NAMES[2], "embed.weight"), (NAMES[0], "h.0.attn.q_proj.weight")]
    view = intruders_vectors.cosine_maps(store, asked, "left", 0.5)
    assert view.table.num_rows == 2 * K * K
    numbers = {asked[0]: 303, asked[1]: 100}
    written = {(c["matrix_id"], c["i"], c["j"]): c["cosine"] for c in rows["intruder_cosine"]}
    marked = {
        (v["matrix_id"], v["j"]): v["maxcos"] < 0.5 and v["sigma"] > 1e-10
        for v in rows["intruder_vector"] if v["side"] == "left"
    }  # fmt: skip
    for row in view.rows():
        number = numbers[row["checkpoint"], row["matrix"]]
        assert row["cosine"] == written[number, row["i"], row["j"]]
        assert row["is_intruder"] == marked[number, row["j"]]
    assert [view.rows()[n]["matrix"] for n in (0, -1)] == [asked[0][1], asked[1][1]]


def test_largest_cosines_of_one_matrix_and_of_all(
    store: Store, rows: dict[str, list[dict[str, Any]]]
) -> None:
    view = intruders_vectors.maxcos_against_rank(store, [NAMES[0]], "left", 0.5)
    for row in view.rows():
        values = [v["maxcos"] for v in of(rows, NAMES[0], "left") if v["j"] == row["j"]]
        expected = np.quantile(values, [0.25, 0.5, 0.75])
        np.testing.assert_allclose([row["lo"], row["maxcos"], row["hi"]], expected, rtol=1e-12)
    one = intruders_vectors.maxcos_against_rank(store, [NAMES[0]], "left", 0.5, "embed.weight")
    found = [v for v in of(rows, NAMES[0], "left") if v["name"] == "embed.weight"]
    assert one.column("maxcos") == [v["maxcos"] for v in found]
    assert one.column("lo") == [max(v["maxcos"] - v["maxcos_err"], 0) for v in found]


def test_tracks_follow_likeness_and_not_rank(put: Callable[..., None], store: Store) -> None:
    # at step 20 vectors 1 and 2 have changed places and vector 3 is new; at 40 it goes on
    links = [
        (200, 1, 2, 0.99), (200, 2, 1, 0.98), (200, 3, 3, 0.6),
        (300, 1, 1, 0.9), (300, 3, 3, 0.95), (300, 2, 3, 0.3),
    ]  # fmt: skip
    put(
        store.db,
        "intruder_track",
        [
            {"matrix_id": m, "side": "left", "j": j, "previous_matrix_id": m - 100,
             "previous_j": before, "cosine": cosine}
            for m, j, before, cosine in links
        ],
    )  # fmt: skip
    view = intruders_vectors.dynamics(store, "run", PLACES[0][0], "left", 0.5)
    track = {(row["step"], row["j"]): row["track"] for row in view.rows()}
    assert track[20, 1] == track[10, 2] == track[40, 1]
    assert track[20, 2] == track[10, 1]
    assert track[20, 3] not in {track[10, j] for j in range(1, K + 1)}
    assert track[40, 3] == track[20, 3]
    assert track[40, 2] not in {track[20, j] for j in range(1, K + 1)}
    assert view.table.num_rows == 3 * K
    for _, part in view.groups("track"):
        assert set(part["ever_intruder"]) == {any(part["is_intruder"])}
        assert part["cosine"][0] is None


def test_strengths_are_those_of_the_newest_checkpoint(
    store: Store, rows: dict[str, list[dict[str, Any]]]
) -> None:
    numbers = {300 + m for m in range(len(PLACES))}
    written = [i for i in rows["intruder"] if i["matrix_id"] in numbers and i["side"] == "left"]
    view = intruders_strength.predicted_against_strength(store, [NAMES[2]])
    assert sorted(view.column("theta_star")) == sorted(i["theta_star"] for i in written)
    for row in view.rows():
        assert row["expected"] == (row["delta_spectral_norm"] >= row["theta_star"])
        assert row["has_intruders"] == (row["n_intruders"] > 0)
    assert view.parameters == {"k": "6", "epsilon": "0.4", "side": "left"}
    ranks = intruders_strength.update_ranks(store, [NAMES[2]]).rows()
    inside = [i["delta_effective_rank"] for i in written if i["matrix_id"] != 303]
    assert [r["layer"] for r in ranks] == [0]
    expected = [min(inside), np.median(inside), max(inside)]
    np.testing.assert_allclose(
        [ranks[0][c] for c in ("lo", "effective_rank", "hi")], expected, rtol=1e-12
    )


def test_multipliers_that_were_not_found_are_counted(store: Store) -> None:
    with writer(store.db) as connection:
        connection.execute(
            "UPDATE intruder SET critical_multiplier = NULL WHERE matrix_id = 300 AND side = 'left'"
        )
    view = intruders_strength.critical_multipliers(store, [NAMES[2]])
    assert view.column("critical_multiplier").count(None) == 1
    assert "1 of 4" in view.method


def test_a_store_from_before_cosines_and_tracks(tmp_path: Path) -> None:
    db = tmp_path / "old.duckdb"
    old = [t for t in TABLES if t.TABLE not in ("intruder_cosine", "intruder_track")]
    create(db, old)
    assert intruders_vectors.cosine_maps(connect(db), [("a", "b")]).is_empty
    assert intruders_vectors.dynamics(connect(db), "run", "m").is_empty


def test_an_empty_store_gives_empty_tables(empty: Store) -> None:
    for view in (
        intruders.count_against_epsilon(empty, ["a"]), intruders.count_against_k(empty, ["a"]),
        intruders.totals(empty, ["a"]), intruders.by_place(empty, "a"),
        intruders_vectors.cosine_maps(empty, [("a", "b")]),
        intruders_vectors.maxcos_against_rank(empty, ["a"]),
        intruders_vectors.dynamics(empty, "run", "m"),
        intruders_strength.predicted_against_strength(empty, ["a"]),
        intruders_strength.critical_multipliers(empty, ["a"]),
        intruders_strength.update_ranks(empty, ["a"]),
    ):  # fmt: skip
        assert view.is_empty, view.name
    assert intruders.scanned(empty) == intruders.Scanned(10, 0.5)
    assert intruders.most_first(empty, ["a"]) == []
    assert intruders_vectors.judged_matrices(empty, ["a"]) == []


def test_names_stand_in_no_query(store: Store) -> None:
    assert intruders.totals(store, ["'; DROP TABLE matrix; --"]).is_empty
    assert intruders_vectors.maxcos_against_rank(store, NAMES, "left", 0.5, "x' OR '1'='1").is_empty


def test_labels_tell_panels_apart() -> None:
    long = "model.decoder.layers.11.self_attn.q_proj.weight"
    label = intruders_vectors.panel_label
    assert label([("a", long), ("b", long)], ("b", long)) == "b"
    assert label([("a", long), ("a", "other")], ("a", long)) == "…layers.11.self_attn.q_proj"
