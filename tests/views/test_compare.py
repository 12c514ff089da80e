"""Pairs of checkpoints in numbers and words, against plain Python on the rows that were written."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analyzer.store.reading import Store, connect
from analyzer.views import compare, verdicts
from analyzer.views.pairing import pairs

INTRUDER = {
    "k": 10, "epsilon": 0.5, "n_uncertain": 0, "n_robust": 0, "delta_fro_ratio": 0.1,
    "delta_effective_rank": 4.0, "delta_stable_rank": 2.0, "delta_spectral_norm": 0.3,
    "theta_star": 0.6, "critical_multiplier": 1.2, "critical_limit": 16.0, "status": "ok",
}  # fmt: skip


def matrix(number: int, owner: int, name: str, **more: Any) -> dict[str, Any]:
    return {
        "matrix_id": number, "checkpoint_id": owner, "name": name, "layer": 0, "role": "mlp_up",
        "rows": 8, "cols": 8, "status": "ok", "detail": None,
    } | more  # fmt: skip


@pytest.fixture
def made(
    put: Callable[..., None], make_store: Callable[..., Path]
) -> tuple[Store, list[dict[str, Any]], dict[int, dict[str, Any]]]:
    """base (1), full (2) and adapter (3) of it: six matrices each; intruders, tails by number.

    The full one lacks one matrix of the base, has one of its own, and one of another shape.
    """
    db = make_store()
    kinds = ("base", "full", "adapter")
    put(
        db,
        "checkpoint",
        [
            {"checkpoint_id": i + 1, "name": name, "kind": name, "run": None, "step": None,
             "base_checkpoint_id": 1 if i else None}
            for i, name in enumerate(kinds)
        ],
    )  # fmt: skip
    names = [f"h.{i}.up_proj.weight" for i in range(6)]
    put(db, "matrix", [matrix(i, 1, name, layer=i) for i, name in enumerate(names)])
    put(
        db,
        "matrix",
        [matrix(10 + i, 2, name, layer=i) for i, name in enumerate(names[:4])]
        + [
            matrix(14, 2, names[4], layer=4, cols=9, status="shape_mismatch", detail="8×9"),
            matrix(15, 2, "h.0.down_proj.weight", role="mlp_down"),
        ],
    )
    put(
        db,
        "matrix",
        [
            matrix(20, 3, names[0]),
            matrix(21, 3, "score.weight", rows=0, cols=0, status="new_module", detail="a head"),
        ],
    )
    rng = np.random.default_rng(1)
    intruders = [
        {"matrix_id": n, "side": side, **INTRUDER, "n_intruders": int(rng.integers(0, 3)),
         "delta_fro_ratio": float(rng.uniform())}
        for n in (10, 11, 12, 13, 20) for side in ("left", "right")
    ]  # fmt: skip
    put(db, "intruder", intruders)
    tails = {}
    for n in (*range(6), *range(10, 16), 20):
        alpha = float(rng.uniform(2, 4))
        tails[n] = {"matrix_id": n, "kind": "weight", "alpha": alpha, "alpha_lo": alpha - 0.3,
                    "alpha_hi": alpha + 0.3, "n_tail": 9, "n_evals": 20, "status": "ok",
                    "gof_p": 0.05, "null_q": 0.2, "phase": "heavy_tailed"}  # fmt: skip
    put(db, "tail", list(tails.values()))
    return connect(db), intruders, tails


def test_a_summary_counts_what_is_in_both(made) -> None:
    store, intruders, tails = made
    row = compare.summary(store, "base", "full")
    left = [i for i in intruders if i["side"] == "left" and i["matrix_id"] < 20]
    assert row["n_matrices"] == 5
    assert row["n_intruders"] == sum(i["n_intruders"] for i in left)
    assert row["n_hit"] == sum(i["n_intruders"] > 0 for i in left)
    assert row["judged"] == 40
    ratios = [i["delta_fro_ratio"] for i in left]
    assert row["delta_fro_ratio"] == pytest.approx(statistics.median(ratios))
    assert row["largest_ratio"] == max(ratios)
    changes = [tails[10 + n]["alpha"] - tails[n]["alpha"] for n in range(5)]
    assert row["alpha_change"] == pytest.approx(statistics.median(changes))
    # intervals of ± 0.3 are apart where the exponents are more than 0.6 apart
    assert row["n_apart"] == sum(abs(change) > 0.6 for change in changes)
    said = " ".join(compare.sentences(row))
    assert f"{row['n_intruders']} of 40 leading left singular vectors" in said
    assert "|cosine| ≥ 0.5" in said


def test_strangers_have_no_update(made) -> None:
    store, *_ = made
    row = compare.summary(store, "full", "adapter")
    assert not row["is_update"]
    assert not any("Intruder" in sentence for sentence in compare.sentences(row))
    assert "n_intruders" not in compare.matrices(store, "full", "adapter").table.column_names
    assert compare.sentences(compare.summary(store, "base", "nothing")) == [
        "The two checkpoints share no matrix by name."
    ]


def test_every_matrix_has_its_own_numbers(made) -> None:
    store, intruders, tails = made
    rows = compare.matrices(store, "base", "full").rows()
    assert [row["layer"] for row in rows] == [0, 1, 2, 3, 4]
    by_number = {i["matrix_id"]: i for i in intruders if i["side"] == "left"}
    for n, row in enumerate(rows[:4]):
        assert row["n_intruders"] == by_number[10 + n]["n_intruders"]
        assert row["alpha_base"] == tails[n]["alpha"]
        assert row["alpha_tuned"] == tails[10 + n]["alpha"]
    assert rows[4]["verdict"] == "shape mismatch"


def test_one_sided_matrices_and_shapes_are_told(made) -> None:
    store, *_ = made
    rows = {row["name"]: row for row in compare.unmatched(store, "base", "full").rows()}
    assert {name: row["where"] for name, row in rows.items()} == {
        "h.5.up_proj.weight": "only in base",
        "h.0.down_proj.weight": "only in tuned",
        "h.4.up_proj.weight": "another shape",
    }
    shapes = rows["h.4.up_proj.weight"]
    assert (shapes["shape_base"], shapes["shape_tuned"]) == ("8×8", "8×9")


def test_what_an_adapter_leaves_alone_is_not_missing(made) -> None:
    store, *_ = made
    rows = compare.unmatched(store, "base", "adapter").rows()
    assert [(row["name"], row["status"]) for row in rows] == [("score.weight", "new_module")]


def test_several_checkpoints_stand_in_one_table(made) -> None:
    store, intruders, _ = made
    rows = {r["checkpoint"]: r for r in compare.several(store, ("full", "adapter")).rows()}
    for name, numbers in (("full", range(10, 16)), ("adapter", range(20, 22))):
        for side in ("left", "right"):
            own = [i for i in intruders if i["matrix_id"] in numbers and i["side"] == side]
            total = sum(i["n_intruders"] for i in own)
            assert rows[name][f"n_intruders_{side}"] == total
    only = compare.several(store, ("full",), ("mlp_down",)).rows()
    assert [row["n_matrices"] for row in only] == [1]


def test_ranks_put_the_parts_beside_each_other(put: Callable[..., None], made) -> None:
    store, *_ = made
    put(
        store.db,
        "spectrum_info",
        [
            {"matrix_id": n, "kind": kind, "stable_rank": value}
            for n, kind, value in ((0, "weight", 5.0), (10, "weight", 6.0), (10, "delta", 1.5))
        ],
    )
    view = compare.ranks(store, "base", "full", "h.0.up_proj.weight")
    rows = {row["quantity"]: row for row in view.rows()}
    stable = rows["stable_rank"]
    assert (stable["base"], stable["tuned"], stable["ΔW"]) == (5.0, 6.0, 1.5)
    assert "σ" in stable["meaning"]
    assert rows["fro_norm"]["base"] is None


def test_words_carry_numbers_and_thresholds(put: Callable[..., None], made) -> None:
    store, _, tails = made
    put(
        store.db,
        "intruder_vector",
        [
            {"matrix_id": 10, "side": side, "j": j, "maxcos": cosine}
            for side in ("left", "right")
            for j, cosine in enumerate((0.9, 0.31, 0.7))
        ],
    )
    said = compare.matrix_sentences(store, "base", "full", "h.0.up_proj.weight")
    text = " ".join(said)
    for piece in ("0.310", "|cosine| ≥ 0.5", "σ₁(ΔW) = 0.3 stays below θ* = 0.6", "1.2 × ΔW"):
        assert piece in text
    assert f"alpha = {tails[0]['alpha']:.3g}" in text
    assert "p = 0.05 speaks against a power law (threshold 0.1)" in text
    assert compare.matrix_sentences(store, "base", "full", "no such matrix") == []


@pytest.mark.parametrize(("first", "second", "apart"), [(2.0, 3.0, True), (2.0, 2.5, False)])
def test_a_change_is_claimed_only_where_intervals_are_apart(first, second, apart) -> None:
    rows = [{"alpha": a, "alpha_lo": a - 0.3, "alpha_hi": a + 0.3} for a in (first, second)]
    said = verdicts.change_sentence(*rows)
    assert ("do not overlap" in said) == apart
    assert ("no change is shown" in said) == (not apart)
    assert verdicts.change_sentence(rows[0], rows[1] | {"alpha_lo": None}) == ""


def test_pairs_of_nothing(empty: Store) -> None:
    assert pairs(empty, "a", "b").first == ()
    assert compare.matrices(empty, "a", "b").is_empty
    assert compare.unmatched(empty, "a", "b").is_empty
    assert compare.several(empty, ("a",)).is_empty
    assert compare.summary(empty, "a", "b")["n_matrices"] == 0
