"""Losses along paths between checkpoints whose every point is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from analyzer.checkpoints.checkpoint import open_checkpoint
from analyzer.errors import AnalysisError, ShapeMismatch, UsageError
from analyzer.models.manifold.paths import loss_path
from theory.paths import slerp


def saved(path, **tensors):
    path.mkdir(parents=True)
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    return open_checkpoint(path)


@pytest.fixture
def ends(tmp_path):
    """Two checkpoints whose weight is t."""
    return [saved(tmp_path / f"{t}", t=torch.tensor([t], dtype=torch.double)) for t in (0.0, 1.0)]


def test_worked_barriers(ends):
    seen = []
    found = loss_path(
        *ends,
        lambda state: {"loss": abs(np.sin(3 * state["t"].item())) + state["t"].item() / 2},
        progress=lambda *at: seen.append(at),
    )
    assert found.barriers.linear == pytest.approx(0.9269349826)
    assert found.barriers.mean == pytest.approx(0.9550926095)
    assert found.t.size == 25 and seen[-1] == (25, 25)
    assert found.accuracies is None and found.accuracy_drop is None and found.warnings == ()
    flat = loss_path(*ends, lambda state: {"loss": ((2 * state["t"].item() - 1) ** 2 - 1) ** 2})
    assert flat.barriers.linear == flat.barriers.mean == 1.0 and flat.barriers.linear_t == 0.5


def test_accuracy_drop(ends):
    found = loss_path(
        *ends, lambda s: {"loss": 0.0, "acc": 1.0 - s["t"].item() * (1 - s["t"].item())}, n_points=5
    )
    np.testing.assert_allclose(found.accuracies, [1.0, 0.8125, 0.75, 0.8125, 1.0])
    assert found.accuracy_drop is not None and found.accuracy_drop.linear == pytest.approx(0.25)


@pytest.mark.parametrize("with_base", [False, True])
def test_spherical_path_turns_about_the_base(tmp_path, with_base):
    rng = np.random.default_rng(0)
    w, x, y = (rng.standard_normal(8) for _ in range(3))
    base, a, b = (
        saved(tmp_path / n, u=torch.tensor(z[:3]), v=torch.tensor(z[3:]), n=torch.tensor(7))
        for n, z in (("base", w), ("a", x), ("b", y))
    )
    points = []

    def evaluate(state):
        assert state["n"] == 7
        points.append(np.concatenate([state["u"].numpy(), state["v"].numpy()]))
        return {"loss": 1.0}

    loss_path(a, b, evaluate, n_points=4, kind="slerp", base=base if with_base else None)
    origin = w if with_base else 0.0
    expected = [origin + slerp(x - origin, y - origin, t) for t in np.linspace(0, 1, 4)]
    np.testing.assert_allclose(points, expected, atol=1e-13)


def test_batch_norms_are_warned_of_and_dtypes_kept(tmp_path):
    a, b = (
        saved(
            tmp_path / f"{n}",
            w=torch.full((2,), n, dtype=torch.bfloat16),
            **{"bn.running_mean": torch.full((2,), n)},
        )
        for n in (0.0, 1.0)
    )

    def evaluate(state):
        assert state["w"].dtype == torch.bfloat16 and state["bn.running_mean"].dtype == torch.float
        return {"loss": float(state["w"].sum())}

    assert "running statistics" in loss_path(a, b, evaluate, n_points=3).warnings[0]


def test_refusals(tmp_path, ends):
    with pytest.raises(UsageError, match="n_points = 1"):
        loss_path(*ends, lambda _: {"loss": 0.0}, n_points=1)
    with pytest.raises(UsageError, match="the key 'loss'"):
        loss_path(*ends, lambda _: {"acc": 0.0})
    with pytest.raises(AnalysisError, match=r"the loss is nan at t = 0\.5"):
        loss_path(*ends, lambda s: {"loss": np.nan if s["t"] == 0.5 else 0.0}, n_points=3)
    with pytest.raises(AnalysisError, match="the loss is inf at t = 1"):
        loss_path(*ends, lambda s: {"loss": np.inf if s["t"] == 1.0 else 0.0}, n_points=3)
    inside = loss_path(*ends, lambda s: {"loss": np.inf if s["t"] == 0.5 else 0.0}, n_points=3)
    assert inside.barriers.linear == np.inf
    with pytest.raises(ShapeMismatch, match=r"t of c: shape \(2,\), \(1,\) in 0\.0"):
        loss_path(ends[0], saved(tmp_path / "c", t=torch.ones(2)), lambda _: {"loss": 0.0})
