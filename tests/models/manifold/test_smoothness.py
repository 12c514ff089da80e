"""Smoothness of groups: planted orders, chance, invariance under symmetries, bad input."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from analyzer.errors import NonFinite, QuantUnknown, ShapeMismatch, UsageError
from analyzer.models.manifold import smoothness
from analyzer.models.manifold.features import blocks as feature_blocks
from analyzer.models.manifold.features import width
from analyzer.models.manifold.groups import (
    PermutationGroup,
    Site,
    apply_order,
    apply_orders,
    blocks,
    fused,
    groups_of,
)
from analyzer.models.manifold.smoothness import group_smoothness
from theory.seriation import distances
from theory.seriation.total_variation import total_variation

HIDDEN = PermutationGroup(
    "hidden", "mlp", 40, (Site("up", 0), Site("bias", 0), Site("down", 1, role="consumes"))
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def mlp(n: int = 40, seed: int = 0) -> dict[str, torch.Tensor]:
    return {
        "up": normal(n, 12, seed=seed), "bias": normal(n, seed=seed + 1),
        "down": normal(9, n, seed=seed + 2),
    }  # fmt: skip


def features(tensors, group) -> np.ndarray:
    found = feature_blocks(tensors.__getitem__, group)
    return np.concatenate([block.values for block in found], axis=1)


def measured(tensors, group=HIDDEN, **options):
    return group_smoothness(tensors.__getitem__, group, **options)


def planted(n: int = 40) -> tuple[dict[str, torch.Tensor], np.ndarray]:
    """Weights that are smooth in an order that is hidden."""
    place = np.random.default_rng(3).permutation(n)
    waves = np.cos(np.pi * np.outer((place + 0.5) / n, np.arange(1, 23)))
    x = torch.from_numpy(waves / np.arange(1, 23))
    return {"up": x[:, :12], "bias": x[:, 12], "down": x[:, 13:].T}, np.argsort(place)


def test_planted_order_is_found():
    tensors, order = planted()
    found = measured(tensors)
    assert found.order in (tuple(order), tuple(order[::-1])) and found.order[0] < found.order[-1]
    assert found.d == 22 == width(tensors.__getitem__, HIDDEN)
    assert (found.solver, found.exact, found.metric) == ("2opt+oropt", False, "l1")
    smooth = features(apply_order(tensors, HIDDEN, found.order), HIDDEN)
    assert found.tv_after == pytest.approx(np.abs(np.diff(smooth, axis=0)).sum())
    assert found.tv_before == pytest.approx(
        np.abs(np.diff(features(tensors, HIDDEN), axis=0)).sum()
    )
    assert found.ratio == pytest.approx(found.tv_after / found.tv_random)
    assert found.smoothness == pytest.approx(1 - found.ratio / found.null_ratio)
    assert found.smoothness > 0.4
    assert found.gap == pytest.approx(found.tv_after / found.lower_bound - 1) and found.gap < 0.01
    again = measured(apply_order(tensors, HIDDEN, found.order))
    assert again.tv_before == pytest.approx(found.tv_after) == again.tv_after
    assert again.order == tuple(range(40))


@pytest.mark.parametrize(("n", "d", "ratio"), [(64, 16, 0.726), (64, 64, 0.857), (256, 64, 0.820)])
def test_random_weights_are_as_smooth_as_chance(n, d, ratio):
    group = PermutationGroup("g", "mlp", n, (Site("w", 0),))
    found = measured({"w": normal(n, d)}, group)
    assert abs(found.smoothness) < 0.02
    assert found.null_ratio == pytest.approx(ratio, abs=0.03)  # which is 1 for nobody


def test_path_lengths_add_up_to_the_total_variation():
    """Groups decouple: each order shuffles only columns of the others."""
    sizes = (5, 30, 20, 4)
    tensors: dict[str, torch.Tensor] = {}
    for k, (n_in, n_out) in enumerate(pairwise(sizes)):
        tensors[f"{k}.weight"] = normal(n_out, n_in, seed=k)
        tensors[f"{k}.bias"] = normal(n_out, seed=10 + k)
    groups = tuple(
        PermutationGroup(
            f"h{k}", "mlp", sizes[k + 1],
            (Site(f"{k}.weight", 0), Site(f"{k}.bias", 0), Site(f"{k + 1}.weight", 1)),
        )
        for k in range(2)
    )  # fmt: skip
    orders = {group.name: measured(tensors, group).order for group in groups}
    smooth = apply_orders(tensors, groups, orders)
    grouped = sum(total_variation(smooth[name]) for name in ("0.weight", "1.weight", "2.weight"))
    grouped += sum(total_variation(smooth[name]) for name in ("0.bias", "1.bias"))
    ends = np.abs(np.diff(smooth["0.weight"], axis=1)).sum()  # inputs and classes have no group
    ends += np.abs(np.diff(smooth["2.weight"], axis=0)).sum()
    together = sum(measured(tensors, group).tv_after for group in groups)
    assert together == pytest.approx(grouped - ends)
    for group, other in (groups, groups[::-1]):  # the same order whatever the other's is
        moved = apply_order(tensors, other, orders[other.name])
        assert measured(moved, group).order == orders[group.name]


@pytest.mark.parametrize("both_axes", [False, True])
def test_legal_permutations_change_nothing_that_is_measured(both_axes):
    tensors = mlp()
    group = HIDDEN
    if both_axes:  # a stream that one matrix reads and writes
        tensors["square"] = normal(40, 40, seed=9)
        group = replace(group, sites=(*group.sites, Site("square", 0), Site("square", 1)))
    moved = apply_order(tensors, group, np.random.default_rng(1).permutation(40))
    before, after = measured(tensors, group), measured(moved, group)
    assert after.tv_random == pytest.approx(before.tv_random)
    assert after.lower_bound == pytest.approx(before.lower_bound, rel=2e-3)  # ties at its start
    rows = (features(t, group) for t in (tensors, moved))
    pairs = [np.sort(cdist(x, x, "cityblock"), axis=None) for x in rows]
    assert np.allclose(pairs[0], pairs[1])
    for name, tensor in tensors.items():
        if tensor.ndim == 2:
            s, t = (np.linalg.svd(w[name].numpy(), compute_uv=False) for w in (tensors, moved))
            assert np.allclose(s, t)
    few = PermutationGroup("few", "mlp", 9, (Site("down", 0),))  # exact, so the same length
    assert measured(moved, few).tv_after == pytest.approx(measured(tensors, few).tv_after)


def test_heads_are_the_points():
    """Four heads of width 3 in a fused matrix and in the input of another."""
    tensors = {"qkv": normal(36, 7), "bias": normal(36, seed=1), "out": normal(7, 12, seed=2)}
    layout = fused(4, 3, 3, 3)
    group = PermutationGroup(
        "attn", "heads", 4,
        (Site("qkv", 0, layout), Site("bias", 0, layout), Site("out", 1, blocks(3), "consumes")),
    )  # fmt: skip
    x = features(tensors, group)
    parts = (
        tensors["qkv"].reshape(3, 4, 21), tensors["bias"].reshape(3, 4, 3),
        tensors["out"].reshape(7, 4, 3),
    )  # fmt: skip
    expected = [np.concatenate([part[:, h].ravel() for part in parts]) for h in range(4)]
    assert np.array_equal(np.sort(x, axis=1), np.sort(expected, axis=1))
    found = measured(tensors, group)
    assert (found.n, found.d, found.exact) == (4, 9 * 7 + 9 + 21, True)
    assert found.lower_bound == found.tv_after and found.gap == 0.0
    assert np.allclose(cdist(x, x, "cityblock"), cdist(expected, expected, "cityblock"))


def test_experts_and_what_is_within_one():
    """Stacked experts and the same stored one by one have the same features."""
    config = {"model_type": "mixtral", "num_attention_heads": 4, "num_key_value_heads": 2}
    stacked = {
        "model.layers.0.mlp.gate.weight": normal(3, 8),
        "model.layers.0.mlp.experts.gate_up_proj": normal(3, 12, 8, seed=1),
        "model.layers.0.mlp.experts.down_proj": normal(3, 8, 6, seed=2),
    }
    gate_up, down = list(stacked.values())[1:]
    root = "model.layers.0.block_sparse_moe."
    single = {f"{root}gate.weight": stacked["model.layers.0.mlp.gate.weight"]}
    for e in range(3):
        single[f"{root}experts.{e}.w1.weight"], single[f"{root}experts.{e}.w3.weight"] = gate_up[
            e
        ].chunk(2)
        single[f"{root}experts.{e}.w2.weight"] = down[e]
    found = {}
    for tensors in (stacked, single):
        shapes = {name: tuple(t.shape) for name, t in tensors.items()}
        groups, _ = groups_of(shapes, config)
        by_name = {group.name: group for group in groups}
        assert set(by_name) == {"experts_0", *(f"mlp_0_expert_{e}" for e in range(3))}
        for name, group in by_name.items():
            result = measured(tensors, group)
            other = found.setdefault(name, result)
            assert (other.n, other.d, other.order) == (result.n, result.d, result.order)
            assert other.tv_after == pytest.approx(result.tv_after)
        with pytest.raises(UsageError, match="no inputs or no outputs"):
            measured(tensors, by_name["experts_0"], metric="function")


def test_function_metric_weighs_inputs_by_outputs():
    tensors = mlp()
    found = measured(tensors, metric="function")
    w = np.column_stack([tensors["up"], tensors["bias"]])
    a = np.linalg.norm(tensors["down"], axis=0)
    matrix = cdist(w, w) * (a[:, None] + a) / 2
    order = np.array(found.order)
    assert found.tv_random == pytest.approx(matrix.sum() / 40)
    assert found.tv_after == pytest.approx(matrix[order[:-1], order[1:]].sum())


def test_scale_lets_every_tensor_count_the_same():
    tensors = mlp()
    scaled = tensors | {"down": 1000 * tensors["down"]}
    assert measured(tensors, scale="fro").tv_after == pytest.approx(
        measured(scaled, scale="fro").tv_after
    )
    zero = tensors | {"bias": torch.zeros(40)}
    assert measured(zero, scale="fro").ratio > 0
    assert measured(scaled).order != measured(tensors).order


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_half_precision_counts_as_float64(dtype):
    half = {name: tensor.to(dtype) for name, tensor in mlp().items()}
    exact = {name: tensor.double() for name, tensor in half.items()}
    assert measured(half) == measured(exact)


def test_tied_tensors_count_once():
    tensors = {"wte": normal(30, 40), "head": normal(30, 40)}
    once = PermutationGroup("res", "residual", 40, (Site("wte", 1),))
    tied = replace(once, sites=(*once.sites, Site("head", 1, tied_to="wte")))
    assert measured(tensors, tied) == measured(tensors, once)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_units(n):
    tensors = mlp(n)
    found = measured(tensors, replace(HIDDEN, size=n))
    assert found.exact and sorted(found.order) == list(range(n))
    if n == 1:
        assert (found.tv_after, found.ratio, found.null_ratio, found.smoothness) == (0, *[None] * 3)
        assert found.gap is None
    if n == 2:
        assert found.order == (0, 1) and found.ratio == pytest.approx(1.0)
        assert found.smoothness == pytest.approx(0.0)


def test_equal_units():
    found = measured({name: torch.ones_like(tensor) for name, tensor in mlp().items()})
    assert found.tv_random == 0.0 == found.tv_after
    assert found.ratio is None and found.smoothness is None and found.null_ratio is None


def test_bad_input_names_the_tensor():
    bad = mlp()
    bad["down"][3, 4] = float("nan")
    with pytest.raises(NonFinite, match="down: 1 NaN and 0 infinite"):
        measured(bad)
    with pytest.raises(QuantUnknown, match=r"up: .*dequantise"):
        measured(mlp() | {"up": torch.ones(40, 12, dtype=torch.int8)})
    with pytest.raises(ShapeMismatch, match="down: 40 units do not fit along axis 1"):
        measured(mlp() | {"down": torch.ones(9, 39)})
    with pytest.raises(UsageError, match="null_reps = 0"):
        measured(mlp(), null_reps=0)


def test_seeds_repeat_and_differ():
    tensors = mlp()
    assert measured(tensors, seed=1) == measured(tensors, seed=1)
    assert measured(tensors, seed=1).null_ratio != measured(tensors, seed=2).null_ratio
    assert measured(tensors, seed=1).order == measured(tensors, seed=2).order


def test_nothing_kept_between_passes(monkeypatch):
    tensors = mlp()
    before = measured(tensors)
    monkeypatch.setattr(smoothness, "_HELD", 0)
    assert measured(tensors) == before


def test_l2_beyond_the_work_of_l1(monkeypatch):
    monkeypatch.setattr(smoothness, "L1_WORK", 1e4)
    tensors = mlp()
    found = measured(tensors)
    x = features(tensors, HIDDEN)
    assert found.metric == "l2" and not found.sketched
    assert found.tv_random == pytest.approx(cdist(x, x).sum() / 40)
    assert measured(tensors, metric="l1").metric == "l1"


def test_many_columns_are_sketched(monkeypatch):
    """Random mixtures keep each distance to a few per cent and the planted order."""
    tensors, order = planted()
    exact = measured(tensors, metric="l2")
    monkeypatch.setattr(smoothness, "SKETCH_ABOVE", 10)
    found = measured(tensors, metric="l2")
    assert found.sketched and found.d == 22
    assert found.tv_random == pytest.approx(exact.tv_random, rel=0.02)
    assert found.tv_after == pytest.approx(exact.tv_after, rel=0.04)
    assert found.order in (tuple(order), tuple(order[::-1]))
    assert found == measured(tensors, metric="l2")


@pytest.mark.parametrize("metric", ["l1", "l2", "function"])
def test_more_units_than_a_matrix_of_distances_holds(monkeypatch, metric):
    tensors = {name: tensor.float() for name, tensor in mlp().items()}
    dense = measured(tensors, metric=metric, k_neighbors=10)
    monkeypatch.setattr(distances, "MAX_DENSE", 30)
    found = measured(tensors, metric=metric, k_neighbors=10)
    for field in ("tv_before", "tv_after", "tv_random", "null_ratio"):
        assert getattr(found, field) == pytest.approx(getattr(dense, field), rel=1e-5)
    assert found.order == dense.order
    assert found.lower_bound is None and found.gap is None
