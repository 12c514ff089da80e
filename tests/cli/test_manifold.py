"""`analyzer manifold` as a user types it, on tiny models that transformers wrote."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from click.testing import Result
from safetensors.torch import load_file, save_file
from torch import nn

from analyzer.checkpoints.checkpoint import open_checkpoint
from analyzer.cli.manifold import manifold
from analyzer.errors import WorkbenchError
from analyzer.models.manifold.align import match_weights
from analyzer.models.manifold.groups import apply_orders, permutation_groups
from theory import opcm

GROUP = "manifold"
Run, Refused = Callable[..., Result], Callable[..., WorkbenchError]
Rows = Callable[..., list[dict[str, Any]]]
CONFIG = transformers.LlamaConfig(
    hidden_size=16, intermediate_size=24, num_hidden_layers=2, vocab_size=40,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=16,
)  # fmt: skip
NORMED = {
    "tensors": {
        "0.weight": ">h -", "0.bias": ">h", "3.weight": "- <h", "3.bias": "-",
        r"1\.(weight|bias|running_mean|running_var)": ">h", "1.num_batches_tracked": "",
    }
}  # fmt: skip


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base, and a and b near it."""
    root = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(CONFIG).double()
    model.save_pretrained(root / "base")
    own = {name: value.clone() for name, value in model.state_dict().items()}
    for name in ("a", "b"):
        near = {k: v + 0.2 * v.std() * torch.randn_like(v) for k, v in own.items()}
        model.load_state_dict(near)
        model.save_pretrained(root / name)
    return root


def test_every_command_is_there(run: Run) -> None:
    expected = ["align", "embed", "fit", "heads", "merge", "path", "sample", "scan"]
    assert sorted(manifold.commands) == expected
    for name in expected:
        done = run(name, "--help")
        assert done.exit_code == 0 and manifold.commands[name].help


def test_fit_shows_groups_and_tensors(run: Run, rows: Rows, models: Path) -> None:
    found = {row["tensor"]: row for row in rows("fit", models / "base", "--budget", "0.4", "-q")}
    assert "model.layers.1.mlp.up_proj.weight" in found
    for row in found.values():
        assert row["stored"] <= 0.4 * row["weights"]
        assert row["svd_rel_fro"] >= 0.0 and row["sv_rel"] <= row["rel_fro"] + 1e-12
    shown = run("fit", models / "base", "-q").stdout
    assert "mlp_0" in shown and "SVD" in shown and "smoothness: 1 - ratio/chance" in shown


def test_fit_by_implicit_networks(run: Run, rows: Rows, models: Path) -> None:
    given = ("fit", models / "base", "--basis", "inr", "--hidden", 2, "--steps", 2, "-q")
    found = rows(*given)
    assert {row["basis"] for row in found} <= {"inr", "dct"}
    sizes = {row["stored"] for row in found if row["basis"] == "inr"}
    assert all(size > 24 for size in sizes)
    diverged = [row["tensor"] for row in found if row["basis"] == "dct"]
    assert diverged  # nobody learns in two steps
    shown = " ".join(run(*given).stdout.split())
    assert f"{len(diverged)} diverged and are shown as dct, the first {diverged[0]}." in shown


def test_heads_are_those_of_the_products(run: Run, rows: Rows, models: Path) -> None:
    found = rows("heads", models / "base")
    assert [(row["layer"], row["head"], row["key_head"]) for row in found[:5]] == [
        (0, 0, 0), (0, 1, 0), (0, 2, 1), (0, 3, 1), (1, 0, 0),
    ]  # fmt: skip
    w = weights(models / "base")
    q, k = (w[f"model.layers.1.self_attn.{p}_proj.weight"].numpy() for p in "qk")
    expected = np.linalg.svd(q[8:12].T @ k[4:8], compute_uv=False)[:4]
    np.testing.assert_allclose(found[6]["qk"], expected, rtol=1e-5)
    shown = run("heads", models / "base").stdout
    assert "QK erank" in shown and "no output shows" in shown


def test_aligned_copies_are_the_original(rows: Rows, models: Path, tmp_path: Path) -> None:
    base = open_checkpoint(models / "base")
    groups, _ = permutation_groups(base)
    rng = np.random.default_rng(0)
    own = weights(models / "base")
    moved = apply_orders(own, groups, {g.name: rng.permutation(g.size) for g in groups})
    (tmp_path / "moved").mkdir()
    config = (models / "base" / "config.json").read_text()
    (tmp_path / "moved" / "config.json").write_text(config)
    save_file({k: v.contiguous() for k, v in moved.items()}, tmp_path / "moved/model.safetensors")
    found = rows("align", models / "base", tmp_path / "moved", "-o", tmp_path / "out", "-q")
    assert found[0]["module"] == "all" and found[0]["after"] == 0.0 < found[0]["before"]
    assert all(torch.equal(value, own[key]) for key, value in weights(tmp_path / "out").items())


@pytest.mark.parametrize("method", ["lerp", "slerp", "karcher", "opcm", "dimat"])
def test_merges(rows: Rows, models: Path, tmp_path: Path, method: str) -> None:
    out = tmp_path / "out"
    given = () if method == "dimat" else ("--base", models / "base")
    (row,) = rows("merge", models / "a", models / "b", *given, "-o", out, "--method", method, "-q")
    assert row["method"] == method and row["models"] == 2
    base, a, b, made = (weights(p) for p in (models / "base", models / "a", models / "b", out))
    name = "model.layers.0.mlp.up_proj.weight"
    if method == "lerp":
        expected = (a[name] + b[name]) / 2
    elif method == "opcm":
        deltas = ({k: (x[k] - base[k]).numpy() for k in base} for x in (a, b))
        state = opcm.step(opcm.start(next(deltas)), next(deltas))
        assert row["scale"] == pytest.approx(state.scale)
        expected = base[name] + torch.from_numpy(state.merged[name])
    elif method == "dimat":
        first, second = (open_checkpoint(models / one) for one in "ab")
        groups, _ = permutation_groups(first)
        moved = apply_orders(b, groups, match_weights(first, second, groups).orders)
        expected = (a[name] + moved[name]) / 2
    else:  # along the bisector of the two differences, at the mean of their lengths
        c = [float(text) for text in row["coefficients"].split(", ")]
        expected = base[name] + c[0] * (a[name] - base[name]) + c[1] * (b[name] - base[name])
        assert min(c) > 0.5  # the differences are almost orthogonal
        torch.testing.assert_close(made[name], expected, rtol=0, atol=1e-4)  # digits shown
        expected = made[name]
    torch.testing.assert_close(made[name], expected)
    transformers.LlamaForCausalLM.from_pretrained(out)


def test_path_and_its_barrier(
    run: Run,
    rows: Rows,
    refused: Refused,
    models: Path,
    tmp_path: Path,
) -> None:
    (tmp_path / "loss.py").write_text(
        "def loss(state):\n"
        "    return {'loss': float(state['model.norm.weight'].double().sum()), 'acc': 0.5}\n"
        "def number(state):\n    return 1\n"
    )
    given = ("path", models / "a", models / "b", "--points", 5, "-q", "--eval")
    found = rows(*given, f"{tmp_path / 'loss.py'}:loss")
    ends = [float(weights(models / one)["model.norm.weight"].sum()) for one in "ab"]
    expected = np.linspace(*ends, 5)
    np.testing.assert_allclose([row["loss"] for row in found], expected)
    assert [row["acc"] for row in found] == [0.5] * 5
    shown = run(*given, f"{tmp_path / 'loss.py'}:number")
    assert shown.exit_code == 0 and "Barrier: 0 above the line" in shown.stdout
    assert "no function nobody" in str(refused(*given, f"{tmp_path / 'loss.py'}:nobody"))


def test_samples_judged_and_with_statistics_of_their_own(
    rows: Rows,
    refused: Refused,
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))
    (tmp_path / "net").mkdir()
    save_file(net.state_dict(), tmp_path / "net" / "model.safetensors")
    (tmp_path / "spec.json").write_text(json.dumps(NORMED))
    (tmp_path / "user.py").write_text(
        "def loss(state):\n"
        "    assert state['1.running_mean'].tolist() == [7.0] * 3\n"
        "    return 1.0\n"
        "def statistics(state):\n"
        "    return {'1.running_mean': state['0.bias'] * 0 + 7}\n"
    )
    user = tmp_path / "user.py"
    found = rows(
        "sample", tmp_path / "net", "-o", tmp_path / "out", "--width", "h=3", "--groups",
        tmp_path / "spec.json", "--eval", f"{user}:loss", "--statistics", f"{user}:statistics",
    )  # fmt: skip
    assert [(row["group"], row["n"], row["m"]) for row in found] == [("h", 6, 3)]
    made = weights(tmp_path / "out")
    assert made["1.running_mean"].tolist() == [7.0] * 3 and made["0.weight"].shape == (3, 4)
    error = refused(
        "sample", tmp_path / "net", "-o", tmp_path / "no", "--width", "h=3", "--groups",
        tmp_path / "spec.json", "--statistics", "nothing.py",
    )  # fmt: skip
    assert "--statistics nothing.py" in str(error) and not (tmp_path / "no").exists()


def test_embed_and_refusals(
    rows: Rows,
    refused: Refused,
    models: Path,
    tmp_path: Path,
) -> None:
    found = rows("embed", models, "-q")
    assert {row["checkpoint"] for row in found} == {"base", "a", "b"}
    scores = np.array([[row["PC 1"], row["PC 2"]] for row in found])
    np.testing.assert_allclose(scores.sum(axis=0), 0, atol=1e-10)
    a, b, out = models / "a", models / "b", tmp_path / "new"
    assert "--base" in str(refused("merge", a, b, "-o", out, "--method", "opcm"))
    assert "two models" in str(refused("merge", a, "-o", out, "--method", "lerp"))
    assert "exists already" in str(refused("align", a, b, "-o", models / "base"))
    assert "alpha" in str(refused("merge", a, b, "--base", models / "base", "-o", out,
                                  "--method", "opcm", "--alpha", 1))  # fmt: skip
    assert not out.exists()
