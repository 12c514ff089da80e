"""Fits of whole checkpoints: errors against dense arithmetic, and what must not be smoothed."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from numpy.linalg import norm
from safetensors.torch import save_file
from scipy.fft import dctn

from analyzer.checkpoints.checkpoint import Checkpoint, open_checkpoint
from analyzer.errors import NonFinite, QuantUnknown, UsageError
from analyzer.models.manifold.fit import fit_manifold
from analyzer.models.manifold.groups import groups_from_yaml, permutation_groups
from analyzer.models.manifold.smoothness import group_smoothness
from theory.resampling.bases import fit_cosines, hyperbolic, sample_cosines

from .groups.conftest import MODELS, randomise

N, M = 32, 24
SPEC = {
    "tensors": {
        "first": ">a -", "bias": ">a", "second": ">b <a", "last": "- <b", "free": "- -",
        "conv": ">b <a - -", "pair": ">b*2 -", "flat": "- <b/4",
    }
}  # fmt: skip


def opened(tmp_path, tensors, spec=SPEC):
    folder = tmp_path / f"net{len(list(tmp_path.iterdir()))}"
    folder.mkdir()
    tensors = {name: torch.as_tensor(tensor) for name, tensor in tensors.items()}
    save_file(tensors, folder / "model.safetensors")
    (folder / "spec.json").write_text(json.dumps(spec))
    checkpoint = open_checkpoint(folder)
    return checkpoint, groups_from_yaml(folder / "spec.json", checkpoint)[0]


def random_net(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {
        "first": (N, 7), "bias": (N,), "second": (M, N), "last": (5, M), "free": (9, 9),
        "conv": (M, N, 3, 3), "pair": (2 * M, 6), "flat": (5, 4 * M),
    }  # fmt: skip
    return {name: rng.standard_normal(shape) for name, shape in shapes.items()}


def fits(checkpoint, groups, orders=None, **options):
    return {f.tensor: f for f in fit_manifold(checkpoint, groups, orders or {}, **options)}


def random_orders(groups, seed=1):
    rng = np.random.default_rng(seed)
    return {group.name: rng.permutation(group.size) for group in groups}


def kept(shape, budget):
    """The largest set (k + 1)(l + 1) ≤ c of at most budget·size orders, one c at a time."""
    product = np.multiply.outer(*(np.arange(1, n + 1) for n in shape))
    levels = [
        c for c in range(1, product.max() + 1) if (product <= c).sum() <= budget * product.size
    ]
    return product <= levels[-1]


@pytest.mark.parametrize("budget", [0.1, 0.44])
def test_errors_of_a_matrix_against_dense_arithmetic(tmp_path, budget):
    """Parseval's error from scipy's transform, spectra and the baseline from a dense SVD."""
    tensors = random_net()
    checkpoint, groups = opened(tmp_path, tensors)
    orders = random_orders(groups)
    fit = fits(checkpoint, groups, orders, budget=budget)["second"]
    W = tensors["second"][orders["b"]][:, orders["a"]]
    mask = kept((M, N), budget)
    unit = dctn(W, norm="ortho")
    assert fit.rel_fro == pytest.approx(norm(unit[~mask]) / norm(W), rel=1e-10)
    as_stored = dctn(tensors["second"], norm="ortho")
    assert fit.unpermuted_rel_fro == pytest.approx(norm(as_stored[~mask]) / norm(W), rel=1e-10)
    phi, psi = (
        np.sqrt(2 / n) * np.cos(np.pi * np.outer(np.arange(n) + 0.5, np.arange(n)) / n)
        for n in (M, N)
    )
    phi[:, 0] /= np.sqrt(2)
    psi[:, 0] /= np.sqrt(2)
    approx = phi @ np.where(mask, unit, 0) @ psi.T
    s, s_fit = (np.linalg.svd(X, compute_uv=False) for X in (W, approx))
    assert fit.sv_rel == pytest.approx(norm(s - s_fit) / norm(s), rel=1e-6)
    assert fit.s1_rel == pytest.approx(abs(s[0] - s_fit[0]) / s[0], rel=1e-6)
    assert fit.sv_rel <= fit.rel_fro
    assert fit.stored == mask.sum() and fit.weights == M * N and fit.permuted
    assert fit.svd_rank == int(mask.sum() / (M + N))
    u, values, v = np.linalg.svd(tensors["second"])
    truncated = (u[:, : fit.svd_rank] * values[: fit.svd_rank]) @ v[: fit.svd_rank]
    assert fit.svd_rel_fro == pytest.approx(norm(tensors["second"] - truncated) / norm(W), rel=1e-8)


def test_taps_and_fused_parts_have_fits_of_their_own(tmp_path):
    tensors = random_net()
    checkpoint, groups = opened(tmp_path, tensors)
    orders = random_orders(groups)
    found = fits(checkpoint, groups, orders, budget=0.3)
    mask = hyperbolic(int(0.3 * M * N), (M, N))
    conv = tensors["conv"][orders["b"]][:, orders["a"]]
    lost = [norm(dctn(conv[:, :, i, j], norm="ortho")[~mask]) for i in range(3) for j in range(3)]
    assert found["conv"].rel_fro == pytest.approx(norm(lost) / norm(conv), rel=1e-10)
    assert found["conv"].stored == 9 * mask.sum()
    rank = found["conv"].svd_rank
    assert rank == mask.sum() // (M + N)
    tails = [np.linalg.svd(conv[:, :, i, j])[1][rank:] for i in range(3) for j in range(3)]
    assert found["conv"].svd_rel_fro == pytest.approx(norm(tails) / norm(conv), rel=1e-6)
    halves = np.split(tensors["pair"], 2)
    lost = [norm(dctn(h[orders["b"]], axes=[0], norm="ortho")[int(0.3 * M) :]) for h in halves]
    assert found["pair"].rel_fro == pytest.approx(norm(lost) / norm(tensors["pair"]), rel=1e-10)
    assert set(found) == {"first", "second", "last", "conv", "pair", "flat"}  # no bias, no "free"


def test_only_axes_of_groups_are_smoothed(tmp_path):
    """Weights that are smooth over the units and wild over all else are fitted all the same."""
    rng = np.random.default_rng(0)
    wave = np.cos(np.pi * np.outer(np.arange(M) + 0.5, [0, 1]) / M)  # two lowest orders of b
    tensors = random_net() | {
        "last": rng.standard_normal((5, 2)) @ wave.T,
        "flat": np.einsum("opk,uk->oup", rng.standard_normal((5, 4, 2)), wave).reshape(5, 4 * M),
        "pair": np.concatenate([wave, wave]) @ rng.standard_normal((2, 6)),
    }
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    found = fits(*opened(tmp_path, tensors), budget=2 / M)
    for name, stored in (("last", 5 * 2), ("flat", 5 * 4 * 2), ("pair", 6 * 2 * 2)):
        assert found[name].rel_fro < 1e-12 and found[name].stored == stored
        assert not found[name].permuted
    shuffled = fits(*opened(tmp_path, tensors), {"b": rng.permutation(M)}, budget=2 / M)
    assert min(shuffled[name].rel_fro for name in ("last", "flat", "pair")) > 0.1
    assert shuffled["last"].unpermuted_rel_fro < 1e-12


def test_order_is_what_makes_a_smooth_network_fit(tmp_path):
    rng = np.random.default_rng(2)
    u, v = np.sort(rng.random(N)), np.sort(rng.random(M))
    x, y = rng.random(7), rng.random(5)
    curve = {
        "first": np.cos(np.pi * (u[:, None] + x)), "second": np.cos(np.pi * (v[:, None] - u)),
        "last": np.sin(np.pi * (y[:, None] + v)),
    }  # fmt: skip
    a, b = rng.permutation(N), rng.permutation(M)
    mixed = {
        "first": curve["first"][a],
        "second": curve["second"][b][:, a],
        "last": curve["last"][:, b],
    }
    mixed = {name: np.ascontiguousarray(tensor) for name, tensor in mixed.items()}
    checkpoint, groups = opened(tmp_path, mixed)
    orders = {g.name: group_smoothness(checkpoint.read, g, null_reps=1).order for g in groups}
    found = fits(checkpoint, groups, orders, budget=0.15)
    for name in ("first", "second", "last"):
        assert found[name].rel_fro < 0.25 < 0.5 < found[name].unpermuted_rel_fro


@pytest.mark.parametrize("basis", ["area", "linear", "cubic"])
def test_knots(tmp_path, basis):
    tensors = random_net()
    checkpoint, groups = opened(tmp_path, tensors)
    exact = fits(checkpoint, groups, basis=basis, budget=1.0)
    assert max(fit.rel_fro for fit in exact.values()) < 1e-9
    fit = fits(checkpoint, groups, basis=basis, budget=0.25)["second"]
    assert fit.stored == M // 2 * N // 2 and fit.basis == basis
    if basis == "area":  # means of 2 × 2 cells
        cells = tensors["second"].reshape(M // 2, 2, N // 2, 2).mean(axis=(1, 3))
        approx = np.kron(cells, np.ones((2, 2)))
        error = norm(tensors["second"] - approx) / norm(tensors["second"])
        assert fit.rel_fro == pytest.approx(error, rel=1e-10)


@pytest.mark.parametrize("name", ["llama", "mixtral", "gpt2", "phi3", "resnet bottleneck"])
def test_networks(tmp_path, name):
    """Everything kept is exact; heads move as blocks, whose channels are not smoothed."""
    model = randomise(MODELS[name]())
    model.save_pretrained(tmp_path / "model")
    checkpoint = open_checkpoint(tmp_path / "model")
    groups, _ = permutation_groups(checkpoint)
    orders = random_orders(groups)
    exact = fits(checkpoint, groups, orders, budget=1.0)
    for fit in exact.values():
        assert fit.rel_fro < 1e-12 and fit.sv_rel < 1e-6 and fit.stored == fit.weights
    matrices = {t.name for t in checkpoint.tensors() if len(t.shape) > 1}
    assert set(exact) == {name for g in groups for name in g.tensors()} & matrices
    for fit in fits(checkpoint, groups, orders, budget=0.5).values():
        assert 0 < fit.rel_fro < 1 and fit.sv_rel <= fit.rel_fro + 1e-9
        assert fit.stored_per_weight <= 0.5
    if name == "llama":
        wk = model.state_dict()["model.layers.0.self_attn.k_proj.weight"].numpy()  # 2 heads × 6, 24
        wk = wk.reshape(2, 6, 24)[orders["attn_0"]][:, :, orders["res"]]
        lost = np.where(hyperbolic(24, (2, 24))[:, None], 0, dctn(wk, axes=[0, 2], norm="ortho"))
        half = fits(checkpoint, groups, orders, budget=0.5)[
            "model.layers.0.self_attn.k_proj.weight"
        ]
        assert half.rel_fro == pytest.approx(norm(lost) / norm(wk), rel=1e-10)


def test_slices_of_a_stack(tmp_path):
    rng = np.random.default_rng(4)
    tensors = {"up": rng.standard_normal((2, 12, 3)), "down": rng.standard_normal((2, 3, 12))}
    spec = {"tensors": {"up": "- >mlp_0_expert_@ -", "down": "- - <mlp_0_expert_@"}}
    checkpoint, groups = opened(tmp_path, tensors, spec)
    orders = random_orders(groups)
    fit = fits(checkpoint, groups, orders, budget=0.5)["down"]
    each = [tensors["down"][i][:, orders[f"mlp_0_expert_{i}"]] for i in range(2)]
    fitted = [sample_cosines(fit_cosines(W, [1], hyperbolic(6, (12,))), [12]) for W in each]
    error = norm(np.array(each) - np.array(fitted)) / norm(each)
    assert fit.rel_fro == pytest.approx(error, rel=1e-10) and fit.stored == 2 * 3 * 6


def test_one_tensor_at_a_time(tmp_path, monkeypatch):
    checkpoint, groups = opened(tmp_path, random_net())
    names = []
    read = Checkpoint.read
    monkeypatch.setattr(
        Checkpoint, "read", lambda self, name: names.append(name) or read(self, name)
    )
    running = fit_manifold(checkpoint, groups, {})
    assert names == []
    for fit in running:
        assert names[-1] == fit.tensor
    assert len(names) == 6


def test_half_precision_and_zeros(tmp_path):
    tensors = random_net() | {"first": np.zeros((N, 7))}
    whole, groups = opened(tmp_path, tensors)
    zero = fits(whole, groups, random_orders(groups))["first"]
    assert zero.rel_fro is zero.sv_rel is zero.s1_rel is zero.svd_rel_fro is None
    half = {name: torch.as_tensor(tensor).bfloat16() for name, tensor in tensors.items()}
    narrow, _ = opened(tmp_path, half)
    wide, _ = opened(tmp_path, {name: tensor.double() for name, tensor in half.items()})
    assert fits(narrow, groups) == fits(wide, groups)


def test_bad_input(tmp_path):
    tensors = random_net()
    checkpoint, groups = opened(tmp_path, tensors)
    for budget in (0.0, -1.0, 1.5, float("nan")):
        with pytest.raises(UsageError, match="budget"):
            fits(checkpoint, groups, budget=budget)
    for orders, message in (
        ({"c": [0]}, "no group is named 'c'"),
        ({"a": [0] * N}, "order of a is no permutation of 32"),
        ({"a": range(N - 1)}, "order of a is no permutation of 32"),
    ):
        with pytest.raises(UsageError, match=message):
            fits(checkpoint, groups, orders)
    bad = tensors["second"].copy()
    bad[1, 2] = np.inf
    checkpoint, groups = opened(tmp_path, tensors | {"second": bad})
    with pytest.raises(NonFinite, match=f"second.*flat index {N + 2}"):
        fits(checkpoint, groups)
    packed = tensors | {"conv": np.ones((M, N, 3, 3), dtype=np.int8)}
    checkpoint, groups = opened(tmp_path, packed)
    with pytest.raises(QuantUnknown, match=r"conv.*int8"):
        fits(checkpoint, groups)
