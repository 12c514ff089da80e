"""Weight manifolds as an analysis of the scan: rows against direct computations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

import analyzer
from analyzer.cli import cli
from analyzer.models.manifold.fit import fit_manifold
from analyzer.models.manifold.groups import permutation_groups
from analyzer.models.manifold.smoothness import group_smoothness

transformers: Any = pytest.importorskip("transformers")


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """base, and a run tuned from it by small random steps."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2,
    )  # fmt: skip
    root = tmp_path / "models"
    model = transformers.LlamaForCausalLM(config)
    model.save_pretrained(root / "base")
    for step in (10, 20):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.01 * torch.randn_like(parameter)
        model.save_pretrained(root / "run" / f"checkpoint-{step}")
    return root


def scan(root: Path, **more: Any) -> analyzer.ScanSummary:
    return analyzer.scan(root, base=root / "base", analyses=["manifold"], **more)


def test_groups_and_orders_are_those_of_the_weights(models: Path, rows) -> None:
    summary = scan(models)
    assert summary.problems == () and "manifold" not in summary.not_run
    store = analyzer.connect(summary.db)
    base = analyzer.open_checkpoint(models / "base")
    groups, _ = permutation_groups(base)
    found = {
        row["group"]: row
        for row in rows(
            store,
            "SELECT g.* FROM manifold_group g JOIN checkpoint c USING (checkpoint_id)"
            " WHERE c.name = 'base'",
        )
    }
    assert set(found) == {group.name for group in groups}
    for group in groups:
        direct = group_smoothness(base.read, group, seed=0)
        row = found[group.name]
        assert (row["n"], row["d"], row["kind"]) == (direct.n, direct.d, direct.kind)
        assert row["tv_after"] == pytest.approx(direct.tv_after, rel=1e-12)
        assert row["smoothness"] == direct.smoothness
        order = rows(
            store,
            'SELECT idx FROM manifold_order WHERE checkpoint_id = ? AND "group" = ? ORDER BY pos',
            row["checkpoint_id"],
            group.name,
        )
        assert [one["idx"] for one in order] == list(direct.order)


def test_fits_are_those_along_the_orders(models: Path, rows) -> None:
    store = analyzer.connect(scan(models).db)
    base = analyzer.open_checkpoint(models / "base")
    groups, _ = permutation_groups(base)
    orders = {g.name: group_smoothness(base.read, g, seed=0).order for g in groups}
    direct = {fit.tensor: fit for fit in fit_manifold(base, groups, orders)}
    found = rows(
        store,
        "SELECT f.* FROM manifold_fit f JOIN checkpoint c USING (checkpoint_id)"
        " WHERE c.name = 'base'",
    )
    assert {row["tensor"] for row in found} == set(direct)
    for row in found:
        assert row["rel_fro"] == pytest.approx(direct[row["tensor"]].rel_fro, rel=1e-12)
        assert row["svd_rel_fro"] == pytest.approx(direct[row["tensor"]].svd_rel_fro, rel=1e-12)


def test_geometry_is_that_of_the_flat_weights(models: Path, rows) -> None:
    store = analyzer.connect(scan(models).db)
    names = ("base", "run/checkpoint-10", "run/checkpoint-20")
    flat = {
        name: np.concatenate(
            [t.double().flatten() for _, t in sorted(load_file(models / name / "model.safetensors")
                                                     .items())]
        )
        for name in names
    }  # fmt: skip
    found = rows(
        store,
        "SELECT a.name AS a, b.name AS b, distance, cosine_from_base FROM checkpoint_geometry g"
        " JOIN checkpoint a ON a.checkpoint_id = g.a JOIN checkpoint b ON b.checkpoint_id = g.b",
    )
    assert len(found) == 3
    for row in found:
        apart = np.linalg.norm(flat[row["a"]] - flat[row["b"]])
        assert row["distance"] == pytest.approx(apart, rel=1e-9)
    shares = rows(store, "SELECT DISTINCT component, explained FROM checkpoint_embedding")
    assert sum(row["explained"] for row in shares) == pytest.approx(1.0)
    refused = rows(store, "SELECT d, status FROM intrinsic_dimension")
    assert all(row["d"] is None and row["status"] != "ok" for row in refused)


def test_nothing_is_repeated_and_force_repeats(models: Path, rows) -> None:
    first = scan(models)
    assert first.n_computed > 0
    again = scan(models)
    assert (again.n_computed, again.n_stored) == (0, first.n_computed)
    forced = scan(models, force=True)
    assert forced.n_computed == first.n_computed
    store = analyzer.connect(first.db)
    (row,) = rows(store, 'SELECT count(*) n, count(DISTINCT (checkpoint_id, "group")) m'
                  " FROM manifold_group")  # fmt: skip
    assert row["n"] == row["m"]


def test_by_default_it_is_not_run(models: Path) -> None:
    summary = analyzer.scan(models, base=models / "base")
    assert "ask" in summary.not_run["manifold"]


def test_a_bad_tensor_costs_its_groups_only(models: Path, rows) -> None:
    path = models / "base" / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.0.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(tensors, path, metadata={"format": "pt"})
    summary = scan(models)
    assert any("up_proj" in problem and "NaN" in problem for problem in summary.problems)
    store = analyzer.connect(summary.db)
    found = rows(
        store,
        'SELECT "group" FROM manifold_group JOIN checkpoint USING (checkpoint_id)'
        " WHERE name = 'base'",
    )
    names = {row["group"] for row in found}
    assert "mlp_1" in names and "mlp_0" not in names


def test_unknown_architectures_are_said_so(models: Path) -> None:
    for folder in ("base", "run/checkpoint-10", "run/checkpoint-20"):
        (models / folder / "config.json").write_text('{"model_type": "nobody-knows"}')
    summary = scan(models)
    assert summary.problems == ()
    assert any("no permutation groups" in warning for warning in summary.warnings)
    assert summary.n_computed == 1  # the geometry needs no architecture


def test_sample_loads_and_widening_changes_nothing(models: Path, tmp_path: Path) -> None:
    out = tmp_path / "wide"
    done = CliRunner().invoke(
        cli, ["manifold", "sample", str(models / "base"), "-o", str(out), "--width", "mlp=40"]
    )
    assert done.exit_code == 0, done.output
    tokens = torch.arange(8)[None]
    before, after = (
        transformers.LlamaForCausalLM.from_pretrained(path).eval()(tokens).logits
        for path in (models / "base", out)
    )
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["sample", "{base}", "-o", "{new}", "--width", "mlp"], "GROUP=N"),
        (["sample", "{base}", "-o", "{new}", "--width", "mlp=0"], "mlp"),
        (["sample", "{base}", "-o", "{base}", "--width", "mlp=8"], "exists already"),
        (["sample", "{new}", "-o", "{new}2", "--width", "mlp=8"], "no such file"),
        (["merge", "{base}", "-o", "{new}", "--method", "slerp"], "two models"),
        (["merge", "{base}", "{base}", "-o", "{new}", "--method", "opcm"], "--base"),
        (["path", "{base}", "{base}", "--eval", "nothing.py:f"], "FILE.py:FUNCTION"),
        (["embed", "{base}"], "at least 2"),
    ],
)
def test_bad_input_is_one_line(
    models: Path, tmp_path: Path, arguments: list[str], what: str
) -> None:
    places = {"base": str(models / "base"), "new": str(tmp_path / "new")}
    with pytest.raises(analyzer.WorkbenchError, match=what) as caught:
        CliRunner().invoke(
            cli,
            ["manifold", *(argument.format(**places) for argument in arguments)],
            catch_exceptions=False,
        )
    assert "\n" not in str(caught.value)


def test_merge_and_embed(models: Path, tmp_path: Path) -> None:
    steps = [str(models / "run" / f"checkpoint-{step}") for step in (10, 20)]
    out = tmp_path / "merged"
    done = CliRunner().invoke(
        cli,
        ["manifold", "merge", *steps, "-o", str(out), "--method", "lerp", "-t", "0.5", "-q"],
    )
    assert done.exit_code == 0, done.output
    a, b, mean = (load_file(Path(p) / "model.safetensors") for p in (*steps, str(out)))
    for name, tensor in mean.items():
        torch.testing.assert_close(tensor, (a[name] + b[name]) / 2)
    shown = CliRunner().invoke(cli, ["manifold", "embed", str(models), "-q"])
    assert shown.exit_code == 0 and "random walk" in shown.output


def test_a_sample_is_known_to_the_store(models: Path, tmp_path: Path, rows) -> None:
    db = scan(models).db
    arguments = ["manifold", "sample", str(models / "base"), "-o", str(tmp_path / "narrow")]
    done = CliRunner().invoke(cli, [*arguments, "--width", "mlp=12", "--db", str(db)])
    assert done.exit_code == 0, done.output
    found = rows(analyzer.connect(db), "SELECT * FROM manifold_sample")
    assert {row["group"] for row in found} == {"mlp_0", "mlp_1"}
    assert all((row["n"], row["m"], row["gamma_width"]) == (24, 12, 0.5) for row in found)
    assert transformers.LlamaForCausalLM.from_pretrained(tmp_path / "narrow").num_parameters() > 0
