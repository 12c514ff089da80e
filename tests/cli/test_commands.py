"""The commands as a user types them: streams, formats, exit codes, start-up."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file

import analyzer
from analyzer.cli import cli


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from analyzer.cli import main; main()"]
    return subprocess.run(
        [*command, *map(str, arguments)], capture_output=True, text=True, timeout=120
    )


@pytest.fixture
def db(checkpoints: Path) -> Path:
    return analyzer.scan(checkpoints).db


@pytest.mark.parametrize("arguments", [["--help"], ["scan", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    heavy = ("torch", "pyarrow", "duckdb", "numpy", "scipy", "matplotlib", "streamlit")
    code = (
        "import sys\nfrom analyzer.cli import cli\n"
        f"try: cli.main({arguments!r})\nexcept SystemExit: pass\n"
        f"print([m for m in {heavy!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_every_command_and_option_has_help() -> None:
    for name, command in cli.commands.items():
        assert command.help, name
        for parameter in command.params:
            if parameter.param_type_name == "option":
                assert getattr(parameter, "help", None), f"{name} {parameter.name}"


def test_a_repeated_scan_needs_no_torch(db: Path) -> None:
    code = (
        "import sys\nimport analyzer\n"
        f"summary = analyzer.scan({str(db.parent)!r})\n"
        "assert summary.n_computed == 0\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


def test_a_repeated_scan_of_a_training_run_needs_no_torch(tmp_path: Path, save_full) -> None:
    """Steps of the optimizer, which it keeps as tensors, are read without it."""
    import torch

    rng = np.random.default_rng(0)
    for step in (5, 10):
        weight = rng.standard_normal((12, 8)).astype(np.float32)
        folder = save_full(tmp_path / f"run/checkpoint-{step}", {"layers.0.mlp.fc1.weight": weight})
        parameter = torch.nn.Parameter(torch.from_numpy(weight))
        optimizer = torch.optim.AdamW([("layers.0.mlp.fc1.weight", parameter)])
        parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        torch.save(optimizer.state_dict(), folder / "optimizer.pt")
    first = analyzer.scan(tmp_path, analyses=["emergence"])
    assert first.n_computed == 1 and not first.problems
    code = (
        "import sys\nimport analyzer\n"
        f"summary = analyzer.scan({str(tmp_path)!r}, analyses=['emergence'])\n"
        "assert summary.n_stored == 1 and not summary.problems\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


def test_scan_prints_pairing_first_and_results_on_stdout(checkpoints: Path) -> None:
    done = run("scan", checkpoints)
    assert done.returncode == 0
    told = done.stderr.splitlines()
    assert told[0].split() == ["base", "base"]
    assert told[1].split() == ["tuned", "full"]
    assert told[2].split()[:2] == ["trajectory", "lora:"]
    assert "lora/checkpoint-20" in done.stdout
    again = run("scan", checkpoints)
    assert "nothing new" in again.stderr


def test_scan_json_is_one_object(checkpoints: Path) -> None:
    done = run("scan", checkpoints, "--json", "-q")
    body = json.loads(done.stdout)
    assert body["schema"] == 1
    assert body["n_checkpoints"] == 4
    assert body["problems"] == []
    assert done.stderr == ""


def test_ls_show_compare(db: Path) -> None:
    listed = json.loads(run("ls", "--db", db, "--json").stdout)["rows"]
    assert [row["checkpoint"] for row in listed] == [
        "base", "lora/checkpoint-10", "lora/checkpoint-20", "full",
    ]  # fmt: skip
    assert listed[2]["n_intruders"] > 0
    shown = json.loads(run("show", "lora", "--db", db, "--json").stdout)["rows"]
    assert len(shown) == 10
    assert all(row["verdict"] for row in shown)
    # a run's name means its last step
    assert sum(row["n_intruders"] for row in shown) == listed[2]["n_intruders"]
    compared = json.loads(run("compare", "base", "full", "--db", db, "--json").stdout)["rows"]
    assert {row["role"] for row in compared} == {
        "embed", "attn_q", "attn_k", "attn_o", "mlp_up", "mlp_down",
    }  # fmt: skip
    (frozen,) = [row for row in compared if row["role"] == "embed"]
    assert frozen["verdict"] == "equal to the base"
    other = run("compare", "full", "lora", "--db", db, "--csv")
    pairs = list(csv.DictReader(io.StringIO(other.stdout)))
    assert len(pairs) == 10
    assert all("alpha_a" in row and row["name"].startswith("model.layers") for row in pairs)
    text = run("show", "base", "--db", db).stdout
    assert "alpha" in text
    assert all(row["name"] for row in shown)
    missing = run("show", "nobody", "--db", db)
    assert missing.returncode == 2
    assert "no checkpoint named nobody" in missing.stderr


def test_show_emergence(db: Path) -> None:
    done = CliRunner().invoke(cli, ["show", "lora", "--analysis", "emergence", "--db", str(db)])
    assert done.exit_code == 0
    assert "Gradients of the run lora" in done.stdout
    assert "delta_init: sums all steps" in " ".join(done.stdout.split())
    asked = ["show", "lora", "--analysis", "emergence", "--db", str(db), "--json"]
    rows = json.loads(CliRunner().invoke(cli, asked).stdout)["rows"]
    assert {(row["source"], row["n_steps"]) for row in rows} == {
        ("delta_init", 2), ("delta_prev", 2),
    }  # fmt: skip
    assert len({row["matrix"] for row in rows}) == 10
    # Both steps hold factors of one seed and rank 2: the same direction, at two strengths.
    assert all(1.0 <= row["stable_rank_end"] <= 2.0 for row in rows)
    assert all(row["cos_all"] == pytest.approx(1.0) for row in rows)


def test_a_rank_read_off_its_own_batch_is_called_optimistic(tmp_path: Path, save_full) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    rng = np.random.default_rng(0)
    for step in (5, 10):
        weight = rng.standard_normal((12, 8)).astype(np.float32)
        folder = save_full(tmp_path / f"run/checkpoint-{step}", {name: weight})
        gradient = np.outer(rng.standard_normal(12), rng.standard_normal(8)).astype(np.float32)
        save_file({name: gradient}, folder / "gradients.safetensors")
    db = analyzer.scan(tmp_path).db
    done = CliRunner().invoke(cli, ["show", "run", "--analysis", "emergence", "--db", str(db)])
    text = " ".join(done.stdout.split())
    assert "90 % of the batch it comes from, which is optimistic" in text
    assert "of another batch" not in text


def test_show_takes_the_analysis_that_is_asked_for(db: Path) -> None:
    def titled(*arguments: str) -> str:
        done = run("show", *arguments, "--db", db)
        return done.stdout + done.stderr

    assert "alpha" in titled("full", "--analysis", "tails")
    assert "intruders" in titled("full", "--analysis", "intruders")
    assert "was not compared with a base" in titled("base", "--analysis", "intruders")
    assert "nothing was followed of the run base" in titled("base", "--analysis", "emergence")


def test_an_adapter_without_a_base_shows_its_update(tmp_path: Path, save_lora) -> None:
    folder = save_lora(tmp_path / "only", scale=0.1)
    db = analyzer.scan(tmp_path).db
    rows = json.loads(run("show", "only", "--db", db, "--json").stdout)["rows"]
    factors = load_file(folder / "adapter_model.safetensors")
    for row in rows:
        stem = f"base_model.model.{row['name'].removesuffix('.weight')}.lora_"
        B, A = (factors[f"{stem}{x}.weight"].astype(float) for x in "BA")
        assert row["delta_fro"] == pytest.approx(2.0 * np.linalg.norm(B @ A), rel=1e-10)
        assert (row["numerical_rank"], row["verdict"]) == (2, "")
    text = run("show", "only", "--db", db).stdout
    assert "needs the base" in text and "undecided" not in text


def test_a_misspelt_name_is_answered_with_the_nearest(db: Path) -> None:
    for name, meant in (
        ("Base", "base"),
        ("ful", "full"),
        ("lora/checkpiont-20", "lora/checkpoint-20"),
        ("checkpoint-10", "lora/checkpoint-10"),
    ):
        told = run("show", name, "--db", db).stderr
        assert f"did you mean {meant}? there are" in told and "more" not in told
    assert "did you mean" not in run("show", "xyz", "--db", db).stderr


def test_names_that_are_left_out_are_counted(tmp_path: Path, save_lora, save_full) -> None:
    for n in range(16):
        save_lora(tmp_path / f"adapter-{n:02d}")
    db = analyzer.scan(tmp_path).db
    told = run("show", "nobody", "--db", db).stderr
    assert "adapter-11 and 4 more: `analyzer ls`" in told and "adapter-12" not in told


def test_a_name_is_understood_as_it_is_printed(tmp_path: Path, save_full, base_weights) -> None:
    save_full(tmp_path / "new\nline [red]x[/red]", base_weights)
    db = analyzer.scan(tmp_path).db
    listed = run("ls", "--db", db).stdout
    assert "new�line [red]x[/red]" in listed
    assert run("show", "new�line [red]x[/red]", "--db", db).returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [["ls"], ["show", "lora"], ["sql", "SELECT * FROM spectrum", "--csv"], ["sql", "FROM spectrum"],
     ["show", "--help"], ["--help"]],
)  # fmt: skip
def test_a_closed_pipe_ends_quietly(db: Path, arguments: list[str]) -> None:
    where = [] if "--help" in arguments else ["--db", str(db)]
    command = [sys.executable, "-c", "from analyzer.cli import main; main()", *arguments, *where]
    read, write = os.pipe()
    os.close(read)  # what `| head` does, without a race
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def test_an_error_for_nobody_ends_quietly(db: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-c", "from analyzer.cli import main; main()", "show", "x"]
    done = subprocess.run([*command, "--db", str(db)], stderr=write, stdout=write, timeout=60)
    os.close(write)
    assert done.returncode == 141


def test_a_closed_output_is_no_error(db: Path) -> None:
    command = f"{sys.executable} -c 'from analyzer.cli import main; main()' ls --db '{db}' >&-"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_database_from_the_environment(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANALYZER_DB", str(db))
    assert json.loads(run("ls", "--json").stdout)["rows"]
    monkeypatch.setenv("ANALYZER_DB", str(db) + ".absent")
    done = run("ls")
    assert done.returncode == 4
    assert "analyzer scan" in done.stderr


def test_sql_json_holds_whatever_the_database_returns(db: Path) -> None:
    query = "SELECT sum(n_params) AS n, 'nan'::DOUBLE AS x, DATE '2026-01-02' AS d FROM checkpoint"
    (row,) = json.loads(run("sql", query, "--db", db, "--json").stdout)["rows"]
    assert isinstance(row["n"], int)
    assert (row["x"], row["d"]) == (None, "2026-01-02")


def test_a_narrow_terminal_cuts_no_number(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    text = run("show", "lora", "--db", db).stdout
    assert "…" not in text
    assert not any(line != line.rstrip() for line in text.splitlines())


def test_sql_reads_only(db: Path, tmp_path: Path) -> None:
    done = run("sql", "SELECT count(*) AS n FROM matrix", "--db", db, "--json")
    assert json.loads(done.stdout)["rows"] == [{"n": 12 + 12 + 10 + 10}]
    for query in ("DROP TABLE matrix", f"COPY matrix TO '{tmp_path / 'x.csv'}'", "SELEC"):
        refused = run("sql", query, "--db", db)
        assert refused.returncode == 2
        assert len(refused.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "x.csv").exists()


@pytest.mark.parametrize("ending", ["csv", "parquet", "json"])
def test_export(db: Path, tmp_path: Path, ending: str) -> None:
    target = tmp_path / f"tail.{ending}"
    assert run("export", "tail", "-o", target, "--db", db).returncode == 0
    want = analyzer.connect(db).table("tail").num_rows
    if ending == "csv":
        assert len(list(csv.DictReader(target.open()))) == want
    elif ending == "parquet":
        assert parquet.read_table(target).num_rows == want
    else:
        assert len(json.loads(target.read_text())["rows"]) == want


def test_export_refuses_what_it_cannot_write(db: Path, tmp_path: Path) -> None:
    for arguments, word in (
        (["nothing", "-o", tmp_path / "a.csv"], "no table named nothing"),
        (["tail", "-o", tmp_path / "a.xlsx"], ".csv, .parquet or .json"),
        (["tail", "-o", tmp_path / "no" / "a.csv"], "cannot be written"),
    ):
        done = run("export", *arguments, "--db", db)
        assert done.returncode == 2
        assert word in done.stderr
    assert list(tmp_path.glob("*.partial")) == []


def test_doctor() -> None:
    body = json.loads(run("doctor", "--json").stdout)
    assert body["ok"] is True
    assert body["torch"]


def test_hostile_names_are_printed_inert(tmp_path: Path, save_full) -> None:
    import numpy as np

    name = "evil\x1b[31m\u202e; drop table matrix; --.weight"
    save_full(tmp_path / "base", {name: np.eye(12, dtype=np.float32)})
    done = run("scan", tmp_path)
    assert done.returncode == 0
    shown = run("sql", "SELECT name FROM matrix", "--db", tmp_path / "analyzer.duckdb")
    assert "drop table" in shown.stdout
    assert "\x1b[31m" not in shown.stdout + done.stdout + done.stderr
    assert "\u202e" not in shown.stdout


def test_usage_errors_exit_2() -> None:
    runner = CliRunner()
    assert runner.invoke(cli, ["scan", "x", "--epsilon", "0"]).exit_code == 2
    done = run("scan", "x", "--nonsense")
    assert done.returncode == 2
