"""Views of followed runs, against plain Python on the rows that were written."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from analyzer.store.reading import Store, connect
from analyzer.views import emergence, emergence_curves, emergence_maps, emergence_summary
from analyzer.views.emergence_words import run_words

STEPS = (10, 20, 40, 70)
NAMES = ("h.0.q.weight", "h.0.up.weight", "h.1.q.weight", "h.1.up.weight")
Q = NAMES[0]
Rows = list[dict[str, Any]]


def collection(folder: str, first: int) -> dict[str, Rows]:
    """A base and a run `r` of four checkpoints below `folder`, ids from `first` on."""
    base = {"checkpoint_id": first, "name": "base", "path": f"{folder}/base", "kind": "base"}
    steps = [
        {"checkpoint_id": first + 1 + i, "name": f"r/checkpoint-{s}", "kind": "full", "run": "r",
         "path": f"{folder}/r/checkpoint-{s}", "step": s, "base_checkpoint_id": first}
        for i, s in enumerate(STEPS)
    ]  # fmt: skip
    matrices = [
        {"matrix_id": 10 * c["checkpoint_id"] + j, "checkpoint_id": c["checkpoint_id"],
         "name": name, "layer": int(name[2]), "role": "attn_q" if "q" in name else "mlp_up",
         "rows": 8, "cols": 16, "status": "ok"}
        for c in (base, *steps) for j, name in enumerate(NAMES)
    ]  # fmt: skip
    return {"checkpoint": [base, *steps], "matrix": matrices}


@pytest.fixture
def written() -> dict[str, Rows]:
    """Everything of the run, by table; the last checkpoint's matrices are 50 to 53."""
    rng = np.random.default_rng(7)
    tables = collection("/x", 1)
    tables |= {name: [] for name in ("grad_spectrum", "grad_singular_value", "grad_cosine",
                                     "grad_overlap", "grad_noise", "grad_staleness", "spectrum",
                                     "spectrum_info", "welore", "emergence")}  # fmt: skip
    for j, name in enumerate(NAMES):
        own = {"run": "r", "matrix": name}
        for i, step in enumerate(STEPS):
            at = {"matrix_id": 10 * (2 + i) + j, "step": step} | own
            for source, batch in (("grad", "probe"), ("exp_avg", None)):
                tables["grad_spectrum"].append(
                    at | {"source": source, "batch_id": batch, "stable_rank": rng.uniform(1, 8),
                          "energy_r": rng.uniform(), "r": 2, "block": None}
                )  # fmt: skip
            # a part of a fused matrix must not be taken for the whole
            tables["grad_spectrum"].append(
                at | {"source": "grad", "batch_id": "probe", "stable_rank": 1e9, "energy_r": 1e9,
                      "r": 2, "block": "q"}
            )  # fmt: skip
            for k in range(1, 4):
                tables["grad_singular_value"].append(
                    {"matrix_id": at["matrix_id"], "step": step, "run": "r", "source": "grad",
                     "batch_id": "probe", "k": k, "sigma": rng.uniform()}
                )  # fmt: skip
            for kind in ("exp_avg", "weight"):
                tables["spectrum"] += [
                    {"matrix_id": at["matrix_id"], "kind": kind, "k": k, "sigma": rng.uniform()}
                    for k in range(1, 131)
                ]
            fraction = rng.uniform(-0.1, 0.5)
            tables["grad_noise"].append(
                at | {"signal_fraction": fraction, "n_tokens": 64, "r": 2,
                      "energy_in": rng.uniform(), "energy_out": rng.uniform(),
                      "energy_cv": rng.uniform() if fraction > 0.1 else 1e9}
            )  # fmt: skip
            for other in STEPS[i + 1 :]:
                pair = own | {"matrix_id": 50 + j, "source": "grad", "batch_id": "probe",
                              "step_a": step, "step_b": other}  # fmt: skip
                tables["grad_cosine"].append(pair | {"cosine": rng.uniform(-1, 1), "err": 0.01})
                tables["grad_overlap"].append(
                    pair | {"source_b": "grad", "overlap": rng.uniform(), "chance": 0.25, "r": 2}
                )
        tables["spectrum"] += [
            {"matrix_id": 10 + j, "kind": "weight", "k": k, "sigma": 5.0 / k} for k in range(1, 9)
        ]
        tables["grad_staleness"] += [
            own | {"matrix_id": 50 + j, "batch_id": "train", "lag": lag, "n": 3,
                   "captured": rng.uniform(), "overlap": rng.uniform()} for lag in (0, 1, 8)
        ]  # fmt: skip
        tables["welore"].append({"matrix_id": 50 + j, "rank_pruned": j + 1, "is_lrc": j > 1})
        tables["spectrum_info"].append(
            {"matrix_id": 50 + j, "kind": "weight", "effective_rank": rng.uniform(1, 8)}
        )
        for source, batch in (("grad", "probe"), ("grad", "train"), ("exp_avg", None)):
            tables["emergence"].append(
                own | {"matrix_id": 50 + j, "type": "attn_q" if "q" in name else "mlp_up",
                       "layer": int(name[2]), "source": source, "batch_id": batch, "n_steps": 4,
                       "step_first": 10, "step_last": 70, "caution": f"of {source}", "r": 2,
                       "stable_rank_end": rng.uniform(1, 8), "cos_all": rng.uniform(-1, 1),
                       "advised_gap": 5 if batch == "train" else None,
                       "advised_gap_basis": f"{batch}", "motion": None, "flags": ""}
            )  # fmt: skip
    return tables


@pytest.fixture
def made(
    make_store: Callable[..., Path], put: Callable[..., None], written: dict[str, Rows]
) -> Store:
    """The run, and one of the same name in another collection that must not be mixed in."""
    db = make_store(**written)
    stranger = collection("/elsewhere", 101)
    row = {"run": "r", "matrix": Q, "source": "grad", "batch_id": "probe"}
    for table in ("checkpoint", "matrix"):
        put(db, table, stranger[table])
    put(db, "grad_spectrum", [row | {"matrix_id": 1020, "step": 10, "stable_rank": 1e9}])
    value = {"run": "r", "source": "grad", "batch_id": "probe", "matrix_id": 1020, "step": 10}
    put(db, "grad_singular_value", [value | {"k": 1, "sigma": 1e9}])
    return connect(db)


def at(rows: Rows, **wanted: Any) -> Rows:
    return [r for r in rows if all(r[name] == value for name, value in wanted.items())]


def test_what_can_be_chosen(made: Store) -> None:
    assert emergence.runs(made) == ["r"]
    assert emergence.sources(made, "r") == ["grad/probe", "grad/train", "exp_avg"]
    assert emergence.matrices(made, "r", "exp_avg") == list(NAMES)
    assert emergence.last_checkpoint(made, "r") == 5
    assert emergence.caution(made, "r", "exp_avg") == "of exp_avg"


def test_spectra_of_sketches_and_of_whole_spectra(made: Store, written: dict[str, Rows]) -> None:
    view = emergence_maps.gradient_spectrum_map(made, "r", "grad/probe", Q)
    expected = [r for r in written["grad_singular_value"] if r["matrix_id"] % 10 == 0]
    assert view.rows() == [{n: r[n] for n in ("step", "k", "sigma")} for r in expected]
    view = emergence_maps.gradient_spectrum_map(made, "r", "exp_avg", Q)
    assert view.table.num_rows == 100 * len(STEPS)
    for i, step in enumerate(STEPS):
        whole = at(written["spectrum"], matrix_id=10 * (2 + i), kind="exp_avg")
        assert [r["sigma"] for r in at(view.rows(), step=step)] == [r["sigma"] for r in whole[:100]]


def test_the_weights_start_at_the_base(made: Store) -> None:
    view = emergence_maps.weight_spectrum_map(made, "r", Q)
    assert sorted(set(view.column("step"))) == [0, *STEPS]
    assert [r["sigma"] for r in at(view.rows(), step=0)] == [5.0 / k for k in range(1, 9)]


@pytest.mark.parametrize(
    ("view_of", "name", "table"),
    [
        (emergence_maps.cosine_map, "cosine", "grad_cosine"),
        (emergence_maps.overlap_map, "overlap", "grad_overlap"),
    ],
)
def test_maps_between_steps_are_symmetric(
    made: Store, written: dict[str, Rows], view_of: Any, name: str, table: str
) -> None:
    view = view_of(made, "r", "grad/probe", Q)
    cells = {(r["step_a"], r["step_b"]): r[name] for r in view.rows()}
    expected = {(s, s): 1.0 for s in STEPS}
    for r in at(written[table], matrix=Q):
        expected |= {(r["step_a"], r["step_b"]): r[name], (r["step_b"], r["step_a"]): r[name]}
    assert cells == expected and view.table.num_rows == len(STEPS) ** 2


def test_overlaps_with_the_step_before_the_first_and_the_last(
    made: Store, written: dict[str, Rows]
) -> None:
    view = emergence_maps.overlap_curves(made, "r", "grad/probe", Q)
    pair = {(r["step_a"], r["step_b"]): r["overlap"] for r in at(written["grad_overlap"], matrix=Q)}
    curves = {
        name: list(zip(part["step"], part["overlap"], strict=True))
        for name, part in view.groups("held_to")
    }
    assert curves[emergence_maps.PREVIOUS] == [
        (b, pair[a, b]) for a, b in itertools.pairwise(STEPS)
    ]
    assert curves[emergence_maps.FIRST] == [(s, pair[10, s]) for s in STEPS[1:]]
    assert curves[emergence_maps.LAST] == [(s, pair[s, 70]) for s in STEPS[:-1]]
    assert view.parameters["chance"] == 0.25 and view.parameters["r"] == 2


def test_maps_of_long_runs_are_thinned_and_keep_both_ends(make_store: Callable[..., Path]) -> None:
    steps = list(range(0, 2000, 10))
    row = {"matrix_id": 50, "run": "r", "matrix": Q, "source": "grad", "batch_id": "train"}
    cosines = [
        row | {"step_a": a, "step_b": b, "cosine": 0.0, "err": 0.0}
        for i, a in enumerate(steps)
        for b in steps[i + 1 :]
    ]
    db = make_store(**collection("/x", 1), emergence=[row], grad_cosine=cosines)
    started = time.perf_counter()
    view = emergence_maps.cosine_map(connect(db), "r", "grad/train", Q)
    shown = sorted(set(view.column("step_a")))
    assert time.perf_counter() - started < 2.0
    assert shown[0] == 0 and shown[-1] == 1990
    assert 0.8 * emergence_maps.STEPS <= len(shown) <= emergence_maps.STEPS + 1
    assert view.table.num_rows == len(shown) ** 2
    gaps = np.diff(shown)
    assert gaps.max() <= 2 * gaps.min()


@pytest.mark.parametrize(
    ("statistic", "column"), [("stable rank", "stable_rank"), ("energy", "energy_r")]
)
def test_curves_are_medians_over_a_role(
    made: Store, written: dict[str, Rows], statistic: str, column: str
) -> None:
    view = emergence_curves.rank_curves(made, "r", "grad/probe", statistic)
    assert view.table.num_rows == 2 * len(STEPS)
    for row in view.rows():
        names = [n for n in NAMES if ("q" in n) == (row["role"] == "attn_q")]
        values = [
            r[column] for r in written["grad_spectrum"]
            if (r["step"], r["source"], r["block"]) == (row["step"], "grad", None)
            and r["matrix"] in names
        ]  # fmt: skip
        assert row["n"] == 2 and row["median"] == pytest.approx(median(values))
        assert row["low"] == pytest.approx(np.quantile(values, 0.25))
        assert row["high"] == pytest.approx(np.quantile(values, 0.75))
        (first,) = at(view.rows(), role=row["role"], step=10)
        assert row["first"] == first["median"]


def test_an_unknown_statistic_is_refused(made: Store) -> None:
    with pytest.raises(ValueError, match="statistic must be one of"):
        emergence_curves.rank_curves(made, "r", "grad/probe", "rank")


def test_the_noise_ceiling_leaves_out_what_is_mostly_noise(
    made: Store, written: dict[str, Rows]
) -> None:
    view = emergence_curves.noise_ceiling(made, "r")
    for row in view.rows():
        values = [
            r[row["measure"]] for r in at(written["grad_noise"], step=row["step"])
            if row["measure"] != "energy_cv" or r["signal_fraction"] > 0.1
        ]  # fmt: skip
        assert row["n"] == len(values) and row["median"] == pytest.approx(median(values))
    noisy = [r for r in written["grad_noise"] if r["signal_fraction"] <= 0.1]
    assert noisy and max(view.column("high")) <= 1.0
    fractions = emergence_curves.signal_fraction(made, "r")
    assert fractions.parameters["tokens a batch"] == 64
    for row in fractions.rows():
        found = at(written["grad_noise"], step=row["step"])
        wanted = [
            r["signal_fraction"] for r in found
            if ("q" in r["matrix"]) == (row["role"] == "attn_q")
        ]  # fmt: skip
        assert row["median"] == pytest.approx(median(wanted))


def test_staleness_by_role_and_lag(made: Store, written: dict[str, Rows]) -> None:
    view = emergence_curves.staleness(made, "r")
    assert view.table.num_rows == 2 * 3
    for row in view.rows():
        values = [
            r["captured"] for r in at(written["grad_staleness"], lag=row["lag"])
            if ("q" in r["matrix"]) == (row["role"] == "attn_q")
        ]  # fmt: skip
        assert row["median"] == pytest.approx(median(values)) and row["n_pairs"] == 6


def test_gaps_are_those_of_the_minibatch(made: Store) -> None:
    for source, gap, basis in (("grad/probe", 5, "train"), ("exp_avg", None, "None")):
        view = emergence_summary.advice(made, "r", source)
        assert view.column("matrix") == list(NAMES)
        assert view.column("advised_gap") == [gap] * 4
        assert view.column("advised_gap_basis") == [basis] * 4
        assert view.column("pruned_ratio") == [(j + 1) / 8 for j in range(4)]
        assert view.column("is_lrc") == [False, False, True, True]


def test_the_scatter_is_what_the_correlation_is_of(
    put: Callable[..., None], made: Store, written: dict[str, Rows]
) -> None:
    xs = {r["matrix"]: r["cos_all"] for r in written["emergence"] if r["source"] == "exp_avg"}
    ys = [r["effective_rank"] / 8 for r in written["spectrum_info"]]
    rho, p = spearmanr([xs[name] for name in NAMES], ys)
    row = {"checkpoint_id": 5, "run": "r", "source": "exp_avg", "batch_id": None, "x": "cos_all",
           "y": "weight_erank_ratio", "method": "spearman", "group": "all", "n": 4,
           "rho": float(rho), "p": float(p)}  # fmt: skip
    put(made.db, "emergence_correlation", [row, row | {"method": "pearson", "rho": 9.0}])
    view = emergence_summary.correlation_scatter(
        made, "r", "exp_avg", "cos_all", "weight_erank_ratio"
    )
    points = {r["matrix"]: (r["x"], r["y"]) for r in view.rows()}
    assert points == {n: (xs[n], pytest.approx(y)) for n, y in zip(NAMES, ys, strict=True)}
    again = spearmanr(view.column("x"), view.column("y"))
    assert view.parameters["rho"] == pytest.approx(again.statistic)
    assert (view.parameters["p"], view.parameters["n"]) == (float(p), 4)
    assert emergence_summary.correlations(made, "r", "exp_avg").column("rho") == [float(rho)]
    other = emergence_summary.correlation_scatter(made, "r", "exp_avg", "1; DROP", "pruned_ratio")
    assert other.is_empty and "rho" not in other.parameters


def test_memory_in_bytes_of_one_rank(put: Callable[..., None], made: Store) -> None:
    row = {"checkpoint_id": 5, "run": "r", "gradient": 1, "bf16_gigabytes": 1.0}
    sizes = [("full", "exact", None, 100, 200), ("lora", "exact", 4, 110, 20),
             ("galore", "exact", 4, 100, 12), ("galore", "paper", 4, 100, 15),
             ("lora", "paper", 4, 110, 20), ("galore", "exact", 8, 100, 99)]  # fmt: skip
    put(made.db, "galore_memory", [
        row | {"method": m, "convention": c, "rank": r, "weights": w, "optimizer": o}
        for m, c, r, w, o in sizes
    ])  # fmt: skip
    assert emergence_summary.ranks(made, "r") == [4, 8]
    view = emergence_summary.memory(made, "r", 4)
    bars = {(r["method"], r["convention"], r["part"]): r["bytes"] for r in view.rows()}
    assert bars == {
        (m, c, part): 2 * size
        for m, c, r, w, o in sizes
        if r in (4, None) and (m, c) != ("lora", "paper")
        for part, size in (("weights", w), ("optimizer", o))
    }


def test_empty_stores_and_unknown_names_give_empty_tables(made: Store, empty: Store) -> None:
    assert emergence.runs(empty) == []
    assert run_words(empty, "r") == ""
    for store, run, matrix in ((empty, "r", Q), (made, "no such run", Q), (made, "r", "' OR 1")):
        views = [
            emergence_maps.gradient_spectrum_map(store, run, "grad/probe", matrix),
            emergence_maps.weight_spectrum_map(store, run, matrix),
            emergence_maps.cosine_map(store, run, "grad/probe", matrix),
            emergence_maps.overlap_map(store, run, "grad/probe", matrix),
            emergence_maps.overlap_curves(store, run, "grad/probe", matrix),
        ]
        if store is empty or run != "r":
            views += [
                emergence_curves.rank_curves(store, run, "grad/probe", "energy"),
                emergence_curves.signal_fraction(store, run),
                emergence_curves.noise_ceiling(store, run),
                emergence_curves.staleness(store, run),
                emergence_summary.advice(store, run, "grad/probe"),
                emergence_summary.correlations(store, run, "grad/probe"),
                emergence_summary.memory(store, run, 4),
                emergence.source_summary(store, run),
            ]
        assert all(view.is_empty for view in views)
