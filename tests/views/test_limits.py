"""Views of heads against the threshold, against numpy and plain Python."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest

from analyzer.store.reading import Store, connect
from analyzer.views import limits, limits_summary, limits_sweeps
from analyzer.views.limits_words import head_words

LENGTH, ALPHA, RANK = 64, 8.0, 4
LIMIT = math.sqrt(math.log(LENGTH))
NAME = "lora/checkpoint-2"
Rows = list[dict[str, Any]]


def checkpoints() -> Rows:
    return [
        {"checkpoint_id": 1, "name": "base", "path": "/x/base", "kind": "base"},
        {"checkpoint_id": 2, "name": "lora/checkpoint-1", "path": "/x/l1", "kind": "adapter",
         "run": "lora", "step": 1},
        {"checkpoint_id": 3, "name": NAME, "path": "/x/l2", "kind": "adapter", "run": "lora",
         "step": 2},
    ]  # fmt: skip


@pytest.fixture
def heads() -> Rows:
    """Two layers of three heads of each checkpoint, measured and bounded."""
    rng = np.random.default_rng(11)
    rows: Rows = []
    for source, number, layer, head in itertools.product(
        ("activations", "data_free", "spherical"), (1, 2, 3), (0, 10), range(3)
    ):
        gamma = {f"gamma_{n}": rng.uniform(0.5, 9.0) for n in ("q", "k", "dq", "q_base", "k_base",
                                                               "dk", "as", "logit")}  # fmt: skip
        if source == "spherical":
            gamma["gamma_logit"] = None
        verdict = ("certified", "effective", "outside")[int(rng.integers(3))]
        rows.append(
            gamma
            | {
                "checkpoint_id": number, "matrix_id": 100 * number + layer, "layer": layer,
                "module": f"h.{layer}.attn", "head": head, "source": source, "L": LENGTH,
                "threshold": LIMIT, "c": 1.0, "causal": True, "width_over_log": 4.0, "d_h": 16,
                "verdict": None if source == "spherical" else verdict,
                "ratio_as": gamma["gamma_as"] / LIMIT,
                "ratio_logit": None if source == "spherical" else gamma["gamma_logit"] / LIMIT,
                "rem_ratio": rng.uniform() if source == "activations" else None,
                "ipr": rng.uniform() if source == "activations" else None,
                "rank_exponent": rng.uniform(), "headroom": rng.uniform(), "n_tokens": 128,
                "n_samples": 2, "activations_of": "base", "log10_features": 3.0,
            }
        )  # fmt: skip
    return rows


@pytest.fixture
def made(make_store: Callable[..., Path], heads: Rows) -> Store:
    return connect(make_store(checkpoint=checkpoints(), lora_limits=heads))


def of(rows: Rows, source: str, number: int = 3) -> Rows:
    return [r for r in rows if r["source"] == source and r["checkpoint_id"] == number]


def test_what_can_be_chosen(made: Store) -> None:
    assert limits.checkpoints(made) == [NAME, "base", "lora/checkpoint-1"]
    assert limits.sources(made, NAME) == ["activations", "data_free", "spherical"]
    assert limits.places(made, NAME, "activations") == ["0", "10"]


def test_the_map_has_a_cell_a_head(made: Store, heads: Rows) -> None:
    view = limits.head_map(made, NAME, "data_free")
    expected = of(heads, "data_free")
    assert [(r["place"], r["head"], r["ratio_logit"], r["ratio_as"]) for r in view.rows()] == [
        (str(r["layer"]), r["head"], r["ratio_logit"], r["ratio_as"]) for r in expected
    ]
    assert view.parameters == {"checkpoint": NAME, "source": "data_free", "L": LENGTH}


def test_layers_of_two_stacks_are_told_apart_by_module(
    put: Callable[..., None], made: Store, heads: Rows
) -> None:
    more = [
        r | {"module": "decoder." + r["module"], "stack": "decoder"}
        for r in of(heads, "data_free", 1)
    ]
    put(made.db, "lora_limits", [r for r in more if r["layer"] == 0])
    assert limits.places(made, "base", "data_free") == ["h.0.attn", "h.10.attn", "decoder.h.0.attn"]


def test_norms_are_the_largest_of_a_layer(made: Store, heads: Rows) -> None:
    view = limits.norms(made, NAME, "activations")
    columns = {("queries", "base"): "gamma_q_base", ("queries", "update alone"): "gamma_dq",
               ("queries", "adapted"): "gamma_q", ("keys", "base"): "gamma_k_base",
               ("keys", "update alone"): "gamma_dk", ("keys", "adapted"): "gamma_k"}  # fmt: skip
    assert view.table.num_rows == 12
    for row in view.rows():
        own = [r for r in of(heads, "activations") if str(r["layer"]) == row["place"]]
        assert row["value"] == max(r[columns[row["side"], row["part"]]] for r in own)
    assert view.parameters["threshold"] == pytest.approx(LIMIT)


def test_the_summary_is_of_all_heads(made: Store, heads: Rows) -> None:
    view = limits_summary.summary(made, "data_free")
    assert view.column("checkpoint") == ["base", "lora/checkpoint-1", NAME]
    row, own = view.rows()[-1], of(heads, "data_free")
    for name in ("gamma_q", "gamma_k", "gamma_dq"):
        assert row[f"{name}_median"] == pytest.approx(median(r[name] for r in own))
        assert row[f"{name}_max"] == max(r[name] for r in own)
    for name in ("ratio_as", "ratio_logit", "rank_exponent"):
        assert row[name] == pytest.approx(median(r[name] for r in own))
    assert row["min_headroom"] == min(r["headroom"] for r in own)
    for verdict in ("certified", "effective", "borderline", "outside", "undecided"):
        assert row[verdict] == sum(r["verdict"] == verdict for r in own)


def test_bounds_stand_beside_what_was_measured(made: Store, heads: Rows) -> None:
    columns = {"queries": "gamma_q", "keys": "gamma_k", "√max|S|": "gamma_logit"}
    view = limits_summary.bounds(made, NAME)
    assert view.table.num_rows == 18
    for row in view.rows():
        for name, source in (("measured", "activations"), ("bound", "data_free")):
            (own,) = (
                r for r in of(heads, source)
                if (r["layer"], r["head"]) == (row["layer"], row["head"])
            )  # fmt: skip
            assert row[name] == own[columns[row["norm"]]]


@pytest.fixture
def swept(put: Callable[..., None], made: Store) -> Rows:
    rng = np.random.default_rng(2)
    rows = []
    for layer, head, length in itertools.product((0, 10), range(3), (2, 8, 64)):
        gamma = rng.uniform(0.5, 3.0)
        rows.append(
            {"matrix_id": 300 + layer, "head": head, "L": length, "gamma_logit": gamma,
             "ratio_logit": gamma / math.sqrt(math.log(length)), "ratio_as": rng.uniform(),
             "ratio_q": rng.uniform()}
        )  # fmt: skip
    put(made.db, "lora_limits_sweep", rows)
    return rows


@pytest.mark.parametrize("ratio", limits_sweeps.RATIOS)
def test_lengths_by_head_and_by_layer(made: Store, swept: Rows, ratio: str) -> None:
    view = limits_sweeps.length_sweep(made, NAME, "10", ratio)
    assert [(r["line"], r["L"], r["ratio"]) for r in view.rows()] == [
        (f"head {r['head']}", r["L"], r[ratio]) for r in swept if r["matrix_id"] == 310
    ]
    view = limits_sweeps.length_sweep(made, NAME, limits_sweeps.ALL, ratio)
    assert view.table.num_rows == 6
    for row in view.rows():
        matrix_id = 300 + int(row["line"].removeprefix("layer "))
        own = [r[ratio] for r in swept if (r["matrix_id"], r["L"]) == (matrix_id, row["L"])]
        assert (row["low"], row["high"]) == (min(own), max(own))
        assert row["ratio"] == pytest.approx(median(own))


def test_an_unknown_ratio_is_refused(made: Store) -> None:
    with pytest.raises(ValueError, match="ratio must be one of"):
        limits_sweeps.length_sweep(made, NAME, "0", "ratio_x")


def test_the_phase_curve_is_the_threshold(made: Store, heads: Rows, swept: Rows) -> None:
    view = limits_sweeps.phase(made, NAME, "activations")
    kinds = dict(view.groups("kind"))
    curve = kinds["threshold"]
    assert curve["norm"] == pytest.approx(np.sqrt(np.log(curve["L"])))
    assert curve["L"][0] == pytest.approx(2.0) and curve["L"][-1] == pytest.approx(16 * LENGTH)
    assert kinds["heads"]["norm"] == [r["gamma_logit"] for r in of(heads, "activations")]
    for i, length in enumerate((2, 8, 64)):
        own = [r["gamma_logit"] for r in swept if r["L"] == length]
        assert kinds["swept"]["norm"][i] == pytest.approx(median(own))
        assert (kinds["swept"]["low"][i], kinds["swept"]["high"][i]) == (min(own), max(own))
    spherical = dict(limits_sweeps.phase(made, NAME, "spherical").groups("kind"))
    assert spherical["heads"]["norm"] == [r["gamma_as"] for r in of(heads, "spherical")]


def adapted(seed: int, scale: float) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """The row of a random head, with its base queries Q0 and X B A by alpha, (tokens, width)."""
    rng = np.random.default_rng(seed)
    Q0, U = scale * rng.uniform(-1, 1, (20, 6)), rng.uniform(-1, 1, (20, 6)) / 30
    with np.errstate(divide="ignore"):
        ends = np.stack([(-LIMIT - Q0) / U, (LIMIT - Q0) / U])
    low, high = ends.min(axis=0).max(), ends.max(axis=0).min()
    within = bool(low <= high)
    passes = within and low <= 0.0 <= high
    row = {
        "gamma_q_base": np.abs(Q0).max(), "gamma_dq": ALPHA * np.abs(U).max(),
        "gamma_q": np.abs(Q0 + ALPHA * U).max(), "lora_alpha": ALPHA, "r": RANK,
        "scaling": ALPHA / RANK, "alpha_unbounded": False,
        "scaling_low": low / RANK if within else None,
        "scaling_high": high / RANK if within else None,
        "alpha_max": high if passes else None, "headroom": high / ALPHA if passes else None,
    }  # fmt: skip
    return {k: float(v) if isinstance(v, np.floating) else v for k, v in row.items()}, Q0, U


@pytest.mark.parametrize(("seed", "scale"), list(itertools.product(range(4), (0.5, 2.0, 2.5))))
def test_what_is_left_open_of_alpha_holds_the_truth(
    make_store: Callable[..., Path], seed: int, scale: float
) -> None:
    """Against max|Q0 + alpha·U| itself, at every alpha of the curve."""
    row, Q0, U = adapted(seed, scale)
    place = {"checkpoint_id": 3, "matrix_id": 300, "layer": 0, "module": "h.0.attn", "head": 0,
             "source": "activations", "L": LENGTH, "threshold": LIMIT, "c": 1.0}  # fmt: skip
    store = connect(make_store(checkpoint=checkpoints(), lora_limits=[row | place]))
    view = limits_sweeps.alpha_curve(store, NAME, "0", 0)
    alphas = np.array(view.column("alpha"))
    truth = np.array([np.abs(Q0 + a * U).max() / LIMIT for a in alphas])
    lower, upper = np.array(view.column("lower")), np.array(view.column("upper"))
    assert np.all(lower <= truth + 1e-9) and np.all(truth <= upper + 1e-9)
    known = [0.0, ALPHA]
    if row["scaling_high"] is not None:
        low, high = row["scaling_low"] * RANK, row["scaling_high"] * RANK
        known += [x for x in (low, high) if 0.0 <= x <= alphas[-1]]
        assert view.column("low")[0] == pytest.approx(low)
        inside = (alphas >= low) & (alphas <= high)
        assert np.array_equal(inside, truth <= 1.0 + 1e-12)
    for alpha in known:
        i = int(np.argmin(np.abs(alphas - alpha)))
        assert alphas[i] == pytest.approx(alpha, abs=1e-9)
        assert lower[i] == pytest.approx(truth[i]) and upper[i] == pytest.approx(truth[i])
    (bar,) = limits_sweeps.alpha_intervals(store, NAME).rows()
    state = "base over" if truth[0] > 1 else "over" if row["gamma_q"] > LIMIT else "within"
    assert bar["state"] == state and bar["headroom"] == row["headroom"]
    if row["scaling_high"] is not None and row["scaling_high"] >= 0.0:
        assert bar["high"] == pytest.approx(high / ALPHA)
        assert bar["low"] == pytest.approx(max(low, 0.0) / ALPHA)
    else:
        assert bar["high"] is None


def test_updates_that_are_not_linear_in_alpha_have_no_curve(
    put: Callable[..., None], made: Store
) -> None:
    row, _, _ = adapted(0, 0.5)
    place = {"checkpoint_id": 2, "matrix_id": 200, "layer": 5, "module": "h.5.attn", "head": 0,
             "source": "activations", "L": LENGTH, "threshold": LIMIT, "c": 1.0}  # fmt: skip
    put(made.db, "lora_limits", [row | place | {"alpha_unbounded": None}])
    assert limits_sweeps.alpha_curve(made, "lora/checkpoint-1", "5", 0).is_empty
    assert limits_sweeps.alpha_intervals(made, "lora/checkpoint-1").is_empty


def test_the_hypercube_is_that_of_its_matrix(made: Store, heads: Rows) -> None:
    """Against the softmax of all 2^m sign vectors itself: L = 64, m = 6."""
    view = limits_summary.condensation(made, NAME)
    kinds = dict(view.groups("kind"))
    assert kinds["heads"]["ipr"] == [r["ipr"] for r in of(heads, "activations")]
    corners = np.array(list(itertools.product((-1.0, 1.0), repeat=6)))
    curve = kinds["hypercube"]
    for i in range(0, len(curve["ipr"]), 7):
        # the ρ at which the spread of the logits is that of the curve's point
        unit = math.log(2.0) * (corners @ corners.T)  # Γ²/m = ρ² ln 2
        spread = np.sqrt(unit.var(axis=1).mean()) / math.sqrt(2.0 * math.log(LENGTH))
        S = unit * (curve["rem_ratio"][i] / spread)
        F = np.exp(S - S.max(axis=1, keepdims=True))
        F /= F.sum(axis=1, keepdims=True)
        assert curve["ipr"][i] == pytest.approx((F**2).sum(axis=1).mean())
    even = np.tril(np.ones((LENGTH, LENGTH)))
    even /= even.sum(axis=1, keepdims=True)
    assert view.parameters["uniform"] == pytest.approx((even**2).sum(axis=1).mean())


def test_words_count_the_verdicts(made: Store, heads: Rows) -> None:
    words = head_words(made, NAME, "activations")
    own = of(heads, "activations")
    assert words[0].startswith("Measured on 128 tokens of base in 2 sequences")
    for verdict in ("certified", "effective", "outside"):
        n = sum(r["verdict"] == verdict for r in own)
        assert (f"{n} {verdict} (" in words[1]) == (n > 0)
    sure = sum(r["verdict"] in ("certified", "effective") for r in of(heads, "data_free"))
    assert any(f"{sure} of 6 heads below" in paragraph for paragraph in words)


def test_empty_stores_and_unknown_names_give_empty_tables(made: Store, empty: Store) -> None:
    assert limits.checkpoints(empty) == [] and limits.sources(empty, NAME) == []
    for store, name in ((empty, NAME), (made, "' OR 1 --")):
        assert head_words(store, name, "activations") == []
        assert all(
            view.is_empty
            for view in (
                limits.head_map(store, name, "activations"),
                limits.norms(store, name, "activations"),
                limits_sweeps.length_sweep(store, name, limits_sweeps.ALL, "ratio_as"),
                limits_sweeps.phase(store, name, "activations"),
                limits_sweeps.alpha_intervals(store, name),
                limits_sweeps.alpha_curve(store, name, "0", 0),
                limits_summary.bounds(store, name),
                limits_summary.condensation(store, name),
            )
        )
    assert limits_summary.summary(empty, "activations").is_empty
