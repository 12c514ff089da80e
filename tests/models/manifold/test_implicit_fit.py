"""Fits by implicit networks against the weights they generate and the closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from analyzer.checkpoints.checkpoint import open_checkpoint
from analyzer.models.manifold import implicit_fit
from analyzer.models.manifold.fit import fit_manifold
from analyzer.models.manifold.groups import PermutationGroup, Site
from analyzer.models.manifold.implicit_fit import fit_by_networks
from analyzer.models.manifold.inr import design_for, fit_implicit, generate

N = 24
GROUP = PermutationGroup("h", "mlp", N, (Site("bias", 0), Site("down", 1), Site("twin", 1)))


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def smooth(tmp_path):
    """Smooth weights whose units are stored in a random order, and the order back."""
    u, v = (np.arange(N) + 0.5) / N, (np.arange(16) + 0.5) / 16
    W = 1e-3 * (np.sin(2 * np.pi * u)[:, None] * np.cos(np.pi * v) + np.outer(u, v) / 2)
    shuffle = np.random.default_rng(0).permutation(N)
    tensors = {"bias": u[shuffle], "down": W[shuffle].T, "twin": 1e6 * W[shuffle].T}
    save_file({k: torch.tensor(t).contiguous() for k, t in tensors.items()},
              tmp_path / "model.safetensors")  # fmt: skip
    return open_checkpoint(tmp_path), W.T, {"h": np.argsort(shuffle)}


def test_smooth_weights_at_any_scale(smooth):
    checkpoint, W, orders = smooth
    seen = []
    found, twin = fit_by_networks(
        checkpoint, [GROUP], orders, hidden=16, steps=300,
        progress=lambda *at: seen.append(at),
    )  # fmt: skip
    assert (found.tensor, twin.tensor) == ("down", "twin") and seen == [(1, 2), (2, 2)]
    assert found.basis == "inr" and found.permuted and found.weights == W.size
    assert found.rel_fro is not None and found.unpermuted_rel_fro is not None
    assert found.rel_fro < 0.7 * found.unpermuted_rel_fro < 0.7
    assert twin.rel_fro == pytest.approx(found.rel_fro, rel=0.02)  # rounding of the steps
    scale = np.abs(W).max()
    design = design_for({"W": W.shape}, hidden=16)
    fit = fit_implicit({"W": torch.tensor(W / scale)}, design=design, steps=300)
    made = scale * generate(fit.network)["W"].detach().double().numpy()
    assert found.rel_fro == pytest.approx(np.linalg.norm(made - W) / np.linalg.norm(W), rel=1e-6)
    assert found.stored == sum(p.numel() for p in fit.network.parameters()) == fit.inr_params
    s, t = (np.linalg.svd(X, compute_uv=False) for X in (W, made))
    assert found.sv_rel == pytest.approx(np.linalg.norm(s - t) / np.linalg.norm(s), rel=1e-3)
    assert found.svd_rel_fro == 0.0  # more numbers than the matrix has


def test_slices_of_a_stack_have_networks_of_their_own(tmp_path):
    generator = torch.Generator().manual_seed(1)
    W = torch.randn(3, 6, 5, generator=generator, dtype=torch.float64)
    save_file({"w": W}, tmp_path / "model.safetensors")
    groups = [PermutationGroup(f"h{e}", "mlp", 6, (Site("w", 1, index=e),)) for e in range(3)]
    (found,) = fit_by_networks(open_checkpoint(tmp_path), groups, {}, hidden=16, steps=250)
    design = design_for({"W": (6, 5)}, hidden=16)
    assert found.stored == 3 * design.inr_params and not found.permuted
    squares = []
    for slice_ in W:
        scale = slice_.abs().max()
        fit = fit_implicit({"W": slice_ / scale}, design=design, steps=250)
        squares.append(float((scale * generate(fit.network)["W"] - slice_).norm()) ** 2)
    assert found.rel_fro == pytest.approx((sum(squares) ** 0.5) / float(W.norm()), rel=1e-5)


def test_a_diverged_network_gives_way_to_the_closed_form(smooth, monkeypatch):
    checkpoint, _, orders = smooth
    rate = {"learning_rate": 1e20}
    monkeypatch.setattr(
        implicit_fit, "fit_implicit", lambda *a, **more: fit_implicit(*a, **{**more, **rate})
    )
    found = list(fit_by_networks(checkpoint, [GROUP], orders, hidden=1, steps=20))
    closed = list(fit_manifold(checkpoint, [GROUP], orders, budget=found[0].stored_per_weight))
    assert [one.basis for one in found] == ["dct", "dct"]
    count = design_for({"W": (16, N)}, hidden=1).inr_params
    assert all(one.stored <= count for one in found)
    assert [one.rel_fro for one in found] == pytest.approx([one.rel_fro for one in closed])
