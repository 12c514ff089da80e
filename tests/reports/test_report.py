"""A report from a store: PDF/A, LaTeX, the same bytes twice, and every odd store."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from analyzer.cli import cli
from analyzer.errors import MissingExtra, UsageError
from analyzer.store.reading import connect
from reports import pdf
from reports.assemble import assemble
from reports.build import build
from reports.document import Report
from reports.scope import pair, trajectory, whole

HOSTILE = "#emph[x] $y_{ \\input{z} <img src=x onerror=alert(1)> *b* @key %"


def scan_row(**more: object) -> dict[str, object]:
    return {
        "scan_id": 1, "started_at": "2026-01-02T03:04:05+00:00",
        "ended_at": "2026-01-02T04:05:06+00:00", "argv": "analyzer scan x", "config_json": "{}",
        "package_version": "0.1.0", "torch_version": "2.13.0", "device": "cpu", "status": "ok",
    } | more  # fmt: skip


def checkpoint_row(number: int, name: str, **more: object) -> dict[str, object]:
    return {
        "checkpoint_id": number, "name": name, "path": f"/x/{number}", "kind": "full",
        "format": "safetensors", "n_params": 6, "identity_sha256": "ab" * 32, "fingerprint": "",
    } | more  # fmt: skip


def matrix_row(number: int, checkpoint: int, name: str, **more: object) -> dict[str, object]:
    return {
        "matrix_id": number, "checkpoint_id": checkpoint, "name": name, "layer": 0,
        "role": "mlp_up", "rows": 3, "cols": 2, "dtype": "F32", "lossy": False,
        "content_sha256": "cd" * 32, "status": "ok",
    } | more  # fmt: skip


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(a) for a in arguments])


@pytest.fixture(scope="session")
def made(demo_db: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, Path]:
    """The demo's report: report.pdf and paper/ in a folder."""
    folder = tmp_path_factory.mktemp("report")
    store = connect(demo_db)
    report = build(
        store, whole(store), folder / "report.pdf", latex=folder / "paper", title="A title & more"
    )
    return report, folder


def test_every_analysis_has_its_section(made: tuple[Report, Path]) -> None:
    keys = [section.key for section in made[0].sections]
    assert keys == [
        "collection", "spectra", "intruders", "tails", "emergence", "limits", "tucker",
        "manifold", "appendix",
    ]  # fmt: skip
    for section in made[0].sections:
        for table in section.tables:
            assert table.caption and not table.view.is_empty
        for picture in section.pictures:
            assert picture.caption and not picture.view.is_empty
    names = [p.name for s in made[0].sections for p in s.pictures]
    assert len(names) == len(set(names))


def test_the_pdf_is_archivable(made: tuple[Report, Path]) -> None:
    content = (made[1] / "report.pdf").read_bytes()
    assert content.startswith(b"%PDF-1.7")
    assert b"<pdfaid:part>2</pdfaid:part>" in content
    assert b"<pdfaid:conformance>B</pdfaid:conformance>" in content
    if shutil.which("pdffonts"):
        fonts = subprocess.run(
            ["pdffonts", made[1] / "report.pdf"], capture_output=True, text=True, check=True
        ).stdout.splitlines()[2:]
        assert fonts and not any("Type 3" in line for line in fonts)
        assert all(re.search(r"yes yes", line) for line in fonts)  # embedded, subset


def test_two_runs_write_the_same_bytes(
    made: tuple[Report, Path], demo_db: Path, tmp_path: Path
) -> None:
    store = connect(demo_db)
    again, paper = tmp_path / "again.pdf", tmp_path / "paper"
    build(store, whole(store), again, latex=paper, title="A title & more")
    assert again.read_bytes() == (made[1] / "report.pdf").read_bytes()
    assert files(paper) == files(made[1] / "paper")


def test_the_latex_tree_has_everything(made: tuple[Report, Path]) -> None:
    report, folder = made
    found = files(folder / "paper")
    for section in report.sections:
        for table in section.tables:
            assert f"tables/{table.name}.tex" in found
            rows = list(csv.reader(io.StringIO(found[f"data/{table.name}.csv"].decode())))
            assert len(rows) == table.view.table.num_rows + 1
        for picture in section.pictures:
            assert found[f"figures/{picture.name}.pdf"].startswith(b"%PDF")
    macros = found["macros.tex"].decode()
    names = re.findall(r"\\newcommand\{\\([a-zA-Z]+)\}", macros)
    assert len(names) == len(set(names)) > 4
    bib = found["references.bib"].decode()
    assert all(re.search(rf"^@\w+{{{key},", bib, re.M) for key in report.cites)
    assert json.loads(found["provenance.json"])["store"]


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="needs pdflatex")
def test_main_tex_compiles(made: tuple[Report, Path], tmp_path: Path) -> None:
    paper = Path(shutil.copytree(made[1] / "paper", tmp_path / "paper"))
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "main.tex"]
    done = subprocess.run(command, cwd=paper, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:].decode(errors="replace")


def test_the_headline_numbers_are_those_of_the_store(
    made: tuple[Report, Path], demo_db: Path
) -> None:
    """Counted again, in another query."""
    numbers = {n.name: n.value for s in made[0].sections for n in s.numbers}
    store = connect(demo_db)
    (count,) = store.sql("SELECT count(*) FROM checkpoint").column(0).to_pylist()
    assert numbers["nCheckpoints"] == str(count)
    (intruders,) = (
        store.sql(
            """
        SELECT sum(n_intruders)::BIGINT FROM intruder JOIN matrix USING (matrix_id)
        JOIN checkpoint c USING (checkpoint_id) WHERE side = 'left' AND step =
            (SELECT max(step) FROM checkpoint d WHERE d.run = c.run)
        """
        )
        .column(0)
        .to_pylist()
    )
    assert numbers["nIntruders"] == str(intruders)


def test_one_pair_one_run_and_chosen_sections(demo_db: Path) -> None:
    store = connect(demo_db)
    of_pair = assemble(store, pair(store, "base", "lora-r8"), "x", ["intruders"])
    assert [s.key for s in of_pair.sections] == ["collection", "intruders"]
    rows = of_pair.sections[0].tables[0].view.column("name")
    assert len(rows) == 2 and rows[0] == "base" and rows[1].startswith("lora-r8/")
    of_run = assemble(store, trajectory(store, "full"), "x", [])
    names = of_run.sections[0].tables[0].view.column("name")
    assert all(name == "base" or name.startswith("full/") for name in names)
    with pytest.raises(UsageError, match="no run named nope"):
        trajectory(store, "nope")
    with pytest.raises(UsageError, match="no checkpoint named nope"):
        pair(store, "base", "nope")
    with pytest.raises(UsageError, match="no section named nope"):
        assemble(store, whole(store), "x", ["nope"])


def test_hostile_names_stay_letters(make_store: Callable[..., Path], tmp_path: Path) -> None:
    db = make_store(
        scan=[scan_row(argv=HOSTILE)],
        checkpoint=[checkpoint_row(1, HOSTILE, kind="base")],
        matrix=[matrix_row(1, 1, HOSTILE, status="nonfinite", detail=HOSTILE)],
    )
    store = connect(db)
    build(store, whole(store), tmp_path / "r.pdf", latex=tmp_path / "paper", title=HOSTILE)
    if shutil.which("pdftotext"):
        printed = subprocess.run(
            ["pdftotext", "-layout", tmp_path / "r.pdf", "-"], capture_output=True, text=True,
            check=True,
        ).stdout  # fmt: skip
        seen = re.sub(r"[\s\u200b\u2010-]", "", printed)
        assert re.sub(r"[\s-]", "", HOSTILE) in seen
    if shutil.which("pdflatex"):
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "main.tex"]
        done = subprocess.run(command, cwd=tmp_path / "paper", capture_output=True, check=False)
        assert done.returncode == 0, done.stdout[-2000:].decode(errors="replace")


def test_a_store_with_failures_only_says_why(
    make_store: Callable[..., Path], tmp_path: Path
) -> None:
    db = make_store(
        scan=[scan_row()],
        checkpoint=[checkpoint_row(1, "base", kind="base")],
        matrix=[matrix_row(1, 1, "w", status="nonfinite", detail="3 values are NaN")],
    )
    store = connect(db)
    report = build(store, whole(store), tmp_path / "r.pdf", title="x")
    problems = next(s for s in report.sections if s.key == "problems")
    assert problems.tables[0].cells() == [["base", "w", "nonfinite", "3 values are NaN"]]


def test_three_thousand_matrices_are_cut_to_a_readable_appendix(
    make_store: Callable[..., Path], tmp_path: Path
) -> None:
    db = make_store(
        scan=[scan_row()],
        checkpoint=[checkpoint_row(1, "base", kind="base")],
        matrix=[matrix_row(n, 1, f"layers.{n}.w", layer=n) for n in range(3000)],
    )
    store = connect(db)
    report = build(store, whole(store), tmp_path / "r.pdf", latex=tmp_path / "p", title="x")
    table = report.sections[-1].tables[0]
    data = pdf.as_data(report, {})["sections"][-1]["tables"][0]
    assert (len(data["rows"]), data["omitted"]) == (500, 2500)
    written = (tmp_path / "p" / "tables" / f"{table.name}.tex").read_text()
    assert written.count("layers.") == 500
    assert len((tmp_path / "p" / "data" / f"{table.name}.csv").read_text().splitlines()) == 3001


def test_an_empty_store_is_an_error(make_store: Callable[..., Path], tmp_path: Path) -> None:
    db = make_store()
    done = run("report", "--db", db, "-o", tmp_path / "r.pdf")
    assert isinstance(done.exception, UsageError) and "no checkpoint" in str(done.exception)
    assert not (tmp_path / "r.pdf").exists()


def test_targets_that_cannot_be_written(demo_db: Path, tmp_path: Path) -> None:
    store = connect(demo_db)
    for target in (tmp_path, tmp_path / "missing" / "r.pdf"):
        with pytest.raises(UsageError):
            build(store, whole(store), target, title="x", include=["collection"])
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("mine")
    with pytest.raises(UsageError, match="something else"):
        build(
            store, whole(store), tmp_path / "r.pdf", latex=tmp_path / "other", title="x",
            include=["collection"],
        )  # fmt: skip
    assert (tmp_path / "other" / "thesis.tex").read_text() == "mine"


def test_without_typst_the_error_names_it(
    demo_db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "typst", None)
    store = connect(demo_db)
    with pytest.raises(MissingExtra, match="pip install typst"):
        build(store, whole(store), tmp_path / "r.pdf", title="x", include=["collection"])


def test_the_command(demo_db: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.pdf"
    done = run("report", "--db", demo_db, "-o", out, "--include", "collection")
    assert done.exit_code == 0 and done.stdout.strip() == str(out) and out.stat().st_size > 1000
    both = run("report", "--db", demo_db, "-o", out, "--compare", "base", "full",
               "--trajectory", "full")  # fmt: skip
    assert isinstance(both.exception, UsageError)
