"""`analyzer tucker` as a user types it: a store's spectra, any CSV, one-line errors."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result

import analyzer
from analyzer.errors import WorkbenchError
from analyzer.models.funbat import fit_funbat, load_fit

GROUP = "tucker"
Run, Refused = Callable[..., Result], Callable[..., WorkbenchError]
Rows = Callable[..., list[dict[str, Any]]]


def store(root: Path) -> Path:
    return root / "analyzer.duckdb"


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., Path]:
    """`table(*extra rows)`: y = 5 + sin(a)·b + 0.1 c + noise on a grid, and what is given."""
    rng = np.random.default_rng(0)
    lines = [
        f"{a},{b},{c},{5 + np.sin(a / 2) * b + 0.1 * c + 0.01 * rng.normal():.6f}"
        for a in range(6) for b in range(5) for c in range(4)
    ]  # fmt: skip

    def write(*extra: str, header: str = "a,b,c,y", body: Sequence[str] = lines) -> Path:
        path = tmp_path / "data.csv"
        path.write_text("\n".join([header, *body, *extra]) + "\n")
        return path

    return write


def of(path: Path, *more: object) -> tuple[object, ...]:
    return ("fit", "--csv", path, "--index", "a,b,c", "--value", "y", "-q", "--restarts", 1, *more)


def test_fits_of_the_store_are_shown(run: Run, smooth_run: Path) -> None:
    done = run("fit", "--db", store(smooth_run), "--json")
    assert done.exit_code == 0
    assert "nothing new: the fits of run are stored" in done.stderr
    (row,) = json.loads(done.stdout)["rows"]
    assert row["run"] == "run" and row["modes"] == "depth,step,role,quantile"
    shown = run("fit", "--db", store(smooth_run)).stdout
    assert "linear" in shown and "Where linear is smaller, interpolate." in shown


def test_without_the_mode_role_there_is_a_fit_for_each(rows: Rows, own_smooth_run: Path) -> None:
    db = store(own_smooth_run)
    given = ("fit", "--db", db, "--modes", "depth,step,quantile", "--restarts", 1, "-q")
    found = rows(*given, "--ranks", "2,1,2")
    assert [row["roles"] for row in found] == ["attn_q", "mlp_up"]
    assert {row["modes"] for row in found} == {"depth,step,quantile"}
    assert {row["ranks"] for row in found} == {"2,1,2"}
    (one,) = rows(*given, "--ranks", "1,1,2", "--role", "mlp_up")
    assert one["roles"] == "mlp_up" and one["fit_id"] == 5


def test_predictions_are_shown_and_kept(rows: Rows, own_smooth_run: Path) -> None:
    db = store(own_smooth_run)
    given = ("predict", "--db", db, "--depth", 3, "--step", 55, "--role", "attn_q")
    found = rows(*given)
    assert len(found) == 24 and {row["fit_id"] for row in found} == {2}
    assert all(row["observed"] is None and row["sd"] > 0 for row in found)
    rows(*given)  # kept once
    query = "SELECT * FROM tucker_prediction WHERE depth = 3 AND step = 55 ORDER BY quantile"
    assert analyzer.connect(db).sql(query).to_pylist() == found
    default = rows("predict", "--db", db)
    assert {(row["depth"], row["step"]) for row in default} == {(d, 300.0) for d in (0, 1, 2, 4)}
    assert all(row["observed"] is not None for row in default)


def test_suggestions(rows: Rows, smooth_run: Path) -> None:
    found = rows("suggest", "--db", store(smooth_run), "-q")
    assert {(row["what"], row["value"]) for row in found} == {
        ("depth", 3.0), ("step", 2.0), ("step", 17.0), ("step", 55.0), ("step", 173.0),
    }  # fmt: skip
    assert all(0 <= row["reduction"] < 1 and row["sd"] > 0 for row in found)
    assert found[0]["reduction"] == max(row["reduction"] for row in found) > 0.05


def test_predict_after_the_spectra_changed(refused: Refused, own_smooth_run: Path) -> None:
    db = store(own_smooth_run)
    import duckdb

    with duckdb.connect(db) as connection:
        connection.execute("UPDATE matrix SET content_sha256 = 'other' WHERE matrix_id = 1")
    error = refused("predict", "--db", db)
    assert error.exit_code == 2 and "changed since (fit them again)" in str(error)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "--modes", "depth,width"], "modes depth, width (choose once each from"),
        (["fit", "--modes", "depth"], "leave nothing to fit"),
        (["fit", "--modes", "depth,matrix,quantile"], "leave those out"),
        (["fit", "--ranks", "1,2"], "2 ranks for 4 modes"),
        (["fit", "--ranks", "a,2"], "whole numbers by commas"),
        (["fit", "--ranks", "0,1,1,1"], "ranks: 0 in mode 0"),
        (["fit", "--role", "mlp_gate"], "no weight spectrum of run with role mlp_gate"),
        (["fit", "--kind", "gradient"], "no gradient spectrum of run"),
        (["fit", "--run", "nope"], "no run or checkpoint named nope (there are: base, run)"),
        (["predict", "--fit", "9"], "no such fit"),
        (["predict", "--role", "mlp_gate"], "no role mlp_gate in the fit"),
        (["predict", "--depth", "nan"], "indexes: 48 are not finite"),
        (["suggest", "--fit", "9"], "no such fit"),
    ],
)
def test_what_makes_no_sense_is_told_in_a_line(
    refused: Refused, smooth_run: Path, arguments: list[str], message: str
) -> None:
    quiet = [] if arguments[0] == "predict" else ["-q"]
    error = refused(*arguments, "--db", store(smooth_run), *quiet)
    assert message in str(error) and error.exit_code == 2


@pytest.mark.parametrize("command", ["fit", "predict", "suggest"])
def test_no_store(refused: Refused, tmp_path: Path, command: str) -> None:
    error = refused(command, "--db", tmp_path / "absent.duckdb")
    assert error.exit_code == 4 and "no such store" in str(error)


def test_a_store_without_spectra(refused: Refused, checkpoints: Path) -> None:
    db = analyzer.scan(checkpoints, analyses=["intruders"]).db
    error = refused("fit", "--db", db)
    assert "no weight spectrum of" in str(error) and "scan for tails" in str(error)
    assert "no such fit" in str(refused("predict", "--db", db))


def test_a_csv_is_fitted_saved_and_predicted(run: Run, rows: Rows, table, tmp_path: Path) -> None:
    path, saved = table(), tmp_path / "fit.safetensors"
    (row,) = rows(*of(path, "-o", saved))
    assert row["n_obs"] == 108 and row["n_holdout"] == 12 and row["ranks"] == "(3, 3, 3)"
    assert row["rmse"] < 0.03 < row["mean"] and 0.7 < row["covered"] <= 1
    whole = load_fit(saved)
    assert whole.n_observations == 120 and whole.constant
    asked = tmp_path / "asked.csv"
    asked.write_text("c,a,b\n1,2.5,3\n0,9,1\n")
    found = rows("predict", "--file", saved, "--csv", asked, "--index", "a,b,c")
    assert [(row["a"], row["b"], row["c"]) for row in found] == [(2.5, 3, 1), (9, 1, 0)]
    want = whole.predict([[2.5, 3.0, 1.0], [9.0, 1.0, 0.0]])
    assert [row["mean"] for row in found] == pytest.approx(want.mean.tolist(), rel=1e-12)
    assert [row["sd"] for row in found] == pytest.approx(want.sd.tolist(), rel=1e-12)
    assert [row["extrapolated"] for row in found] == [False, True]
    assert found[0]["mean"] == pytest.approx(5 + np.sin(1.25) * 3 + 0.1, abs=0.05)
    lines = run("predict", "--file", saved, "--csv", asked, "--index", "a,b,c", "--as-csv").stdout
    assert lines.splitlines()[0] == "a,b,c,mean,sd,extrapolated"


def test_a_csv_of_one_product_needs_no_second_rank(rows: Rows, tmp_path: Path) -> None:
    """Subtracting the mean would make one product of rank two; a learned constant does not."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 10, (400, 2)) / 9
    y = (2 + np.sin(5 * x[:, 0])) * (1 + x[:, 1]) + 0.01 * rng.normal(size=400)
    path = tmp_path / "data.csv"
    lines = [f"{a},{b},{value}" for (a, b), value in zip(x, y, strict=True)]
    path.write_text("\n".join(["a,b,y", *lines]))
    given = ("fit", "--csv", path, "--index", "a,b", "--value", "y", "-q", "--ranks", 1)
    (full,) = rows(*given)
    (diagonal,) = rows(*given, "--diagonal", "--no-center")
    (centred,) = rows(*given, "--diagonal")
    assert max(full["rmse"], diagonal["rmse"], centred["rmse"]) < 0.02


def test_the_fit_is_that_of_the_library(run: Run, table, tmp_path: Path) -> None:
    saved = tmp_path / "fit.safetensors"
    run(*of(table(), "-o", saved, "--hold-out", 0, "--ranks", "2,1,2", "--kernel", "matern12"))
    data = np.loadtxt(tmp_path / "data.csv", delimiter=",", skiprows=1)
    from analyzer.models.funbat import Variational

    want = fit_funbat(
        data[:, :3], data[:, 3], [2, 1, 2], "matern12", constant=True,
        inference=Variational(restarts=1),
    )  # fmt: skip
    np.testing.assert_array_equal(
        load_fit(saved).predict(data[:, :3]).mean, want.predict(data[:, :3]).mean
    )


def test_what_a_fit_of_a_csv_warns_of(rows: Rows, table) -> None:
    (row,) = rows(*of(table("1,2,3,nan", "1,2,3,")))
    assert row["n_obs"] == 108 and "2 NaN values were dropped" in row["status"]
    lines = table().read_text().splitlines()[1:]
    (row,) = rows(*of(table(body=lines * 2)))
    assert row["n_obs"] == 216
    data = [line.rsplit(",", 1)[0] for line in lines * 2]
    held = np.random.default_rng(0).choice(240, 24, replace=False)
    kept = {data[n] for n in set(range(240)) - set(held.tolist())}
    count = sum(data[n] in kept for n in held)
    assert f"{count} of 24 held-out rows repeat indexes of fitted ones" in row["status"]


def test_a_mode_of_one_index_is_a_constant(rows: Rows, table) -> None:
    lines = [f"{a},{b},7,{np.sin(a) * b + 0.1 * a}" for a in range(6) for b in range(6)]
    (row,) = rows(*of(table(body=lines)))
    assert row["ranks"] == "(3, 3, 1)"
    (row,) = rows(*of(table(body=lines), "--diagonal"))
    assert row["ranks"] == "(1, 1, 1)"


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("x,1,2,3", "the column a is not numeric"),
        ("1,2,3,inf", "values: 1 are infinite"),
        ("inf,2,3,1", "indexes: 1 are not finite"),
        (",2,3,1", "indexes: 1 are not finite"),
        ("1,2", "cannot be read as CSV"),
    ],
)
def test_rows_that_make_no_sense(refused: Refused, table, extra: str, message: str) -> None:
    path = table(extra)
    error = refused(*of(path, "--hold-out", 0))
    assert message in str(error) and str(path) in str(error) and error.exit_code == 2


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--ranks", "9"], "ranks: 9 in mode 0, which has 6 distinct indexes"),
        (["--ranks", "2,2"], "2 ranks for 3 indexes"),
        (["--ranks", "x"], "whole numbers by commas"),
        (["--kernel", "rbf"], "'rbf' is none of matern12"),
        (["--ranks", "1,2,2", "--diagonal"], "one rank for all modes"),
        (["--value", "z"], "no column z (it has a, b, c, y)"),
        (["--index", "a"], "at least 2 columns"),
        (["--index", ""], "a CSV needs --index"),
        (["-o", "/nowhere/fit.safetensors"], "cannot be written"),
    ],
)
def test_options_that_make_no_sense(refused: Refused, table, more: list[str], message: str) -> None:
    error = refused(*of(table(), *more))
    assert message in str(error) and error.exit_code == 2


def test_tables_that_hold_nothing(refused: Refused, table, tmp_path: Path) -> None:
    assert "at least 2 that are not NaN" in str(refused(*of(table(body=[]))))
    lines = [f"{a},{b},{a + b},3" for a in range(4) for b in range(4)]
    assert "all 14 equal 3" in str(refused(*of(table(body=lines))))
    empty = tmp_path / "empty.csv"
    empty.touch()
    assert "Empty CSV file" in str(refused(*of(empty)))
    assert "cannot be read as CSV" in str(refused(*of(tmp_path / "absent.csv")))


def test_files_of_fits_that_make_no_sense(
    run: Run, refused: Refused, table, tmp_path: Path
) -> None:
    path, saved = table(), tmp_path / "fit.safetensors"
    run(*of(path, "-o", saved, "--hold-out", 0, "--ranks", 1))
    given = ("predict", "--csv", path, "--index")
    assert refused(*given, "a,b,c", "--file", path).exit_code == 3
    assert "no such file" in str(refused(*given, "a,b,c", "--file", tmp_path / "absent"))
    assert "shape (N, 3)" in str(refused(*given, "a,b", "--file", saved))
    assert "needs --csv FILE" in str(refused("predict", "--file", saved))
