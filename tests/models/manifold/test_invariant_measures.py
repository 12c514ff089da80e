"""What permutations leave alone of the measures of a network, and resampling to where it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from analyzer.checkpoints.checkpoint import open_checkpoint
from analyzer.models.manifold.align import align, match_weights
from analyzer.models.manifold.features import blocks
from analyzer.models.manifold.groups import apply_order, apply_orders
from analyzer.models.manifold.smoothness import group_smoothness
from theory.resampling import operators, width_change
from theory.resampling.merging import kmeans_labels
from theory.seriation.distances import distance_matrix
from theory.seriation.paths import short_path

from .groups.conftest import build, derangement
from .symmetries import (
    Tensors,
    near,
    product_spectra,
    spectra,
)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# --- what permutations leave alone

SOME = ["llama", "qwen3", "phi3", "mixtral", "gpt2", "bert untied", "vit", "resnet basic"]


def rows(tensors: Tensors, group) -> np.ndarray:
    return np.concatenate([block.values for block in blocks(tensors.__getitem__, group)], axis=1)


@pytest.mark.parametrize("name", SOME)
def test_permutations_leave_distances_and_spectra(name):
    """Of every group, by the orders of all others; but the distance of two units that hold units
    of their own depends on the order of those, so these count for what lies in them only."""
    network = build(name)
    orders = network.shuffled(seed=3)
    outer = {g.name: order for g, order in zip(network.groups, orders.values(), strict=True)
             if g.parent is None}  # fmt: skip
    for group in network.groups:
        whole = orders if group.parent is not None else outer
        parents = {group.parent: orders[group.parent]} if group.parent in orders else {}
        # without the parent's order, which moves the units of this group elsewhere
        allowed = {key: order for key, order in whole.items() if key not in parents}
        moved = apply_orders(network.tensors(), network.groups, allowed)
        before, after = rows(network.tensors(), group), rows(moved, group)
        D, E = (np.sort(cdist(x, x, "cityblock"), axis=None) for x in (before, after))
        assert np.allclose(D, E, rtol=1e-12)
        if group.size <= 12:  # the shortest path itself, and not what a search finds
            paths = [
                short_path(distance_matrix([x], group.size, "l1")).length for x in (before, after)
            ]
            assert paths[0] == pytest.approx(paths[1], rel=1e-6)
    moved = apply_orders(network.tensors(), network.groups, orders)
    for key, tensor in network.tensors().items():
        if tensor.ndim == 2 and tensor.is_floating_point():
            assert near([spectra(tensor)], [spectra(moved[key])]), key
    if name != "resnet basic":
        before, after = (
            product_spectra(network.model, t) for t in (network.tensors(), moved)
        )  # heads come in another order
        for part in (0, 1):
            one, other = (sorted(p[part][0] for p in found) for found in (before, after))
            assert np.allclose(one, other)


@pytest.mark.parametrize("seed", range(3))
def test_permutations_leave_the_length_of_the_order_found(seed):
    """Even of the search: it starts at one unit of a group, in which the network has no say."""
    network = build("gpt2")
    group = next(g for g in network.groups if g.name == "mlp_0")
    others = {k: order for k, order in network.shuffled(seed).items() if k != group.name}
    moved = apply_orders(network.tensors(), network.groups, others)
    before, after = (
        group_smoothness(t.__getitem__, group, null_reps=1) for t in (network.tensors(), moved)
    )
    assert after.order == before.order
    assert after.tv_after == pytest.approx(before.tv_after, rel=1e-6)
    assert after.tv_random == pytest.approx(before.tv_random, rel=1e-6)
    own = apply_order(moved, group, derangement(np.random.default_rng(seed), group.size))
    renamed = group_smoothness(own.__getitem__, group, null_reps=1)
    assert renamed.tv_after == pytest.approx(before.tv_after, rel=0.01)  # a local optimum
    assert renamed.tv_random == pytest.approx(before.tv_random, rel=1e-6)


@pytest.mark.parametrize("name", ["llama", "gpt2", "mixtral"])
def test_permutations_leave_the_matched_distance(tmp_path, name):
    """Whichever of the two is reordered; a near copy, whose best match is found for certain."""
    network = build(name)
    generator = torch.Generator().manual_seed(4)
    own = network.tensors()
    other = {
        key: t + 0.2 * t.std() * torch.randn(t.shape, generator=generator, dtype=torch.float64)
        for key, t in own.items()
    }
    if "lm_head.weight" in other and network.model.config.tie_word_embeddings:
        other["lm_head.weight"] = other["transformer.wte.weight"]

    def saved(where: str, tensors: Tensors):
        network.model.load_state_dict(tensors)
        network.model.save_pretrained(tmp_path / where)
        return open_checkpoint(tmp_path / where)

    def shuffle(tensors: Tensors, seed: int) -> Tensors:
        return apply_orders(tensors, network.groups, network.shuffled(seed))

    found = []
    for number, (a, b) in enumerate(
        [(own, other), (own, shuffle(other, 1)), (shuffle(own, 2), shuffle(other, 3))]
    ):
        first, second = saved(f"a{number}", a), saved(f"b{number}", b)
        matching = match_weights(first, second, starts=2)
        found.append(align(first, second, tmp_path / f"out{number}", matching.orders))
    distances = [one.after.distance for one in found]
    assert distances == pytest.approx([distances[0]] * 3, rel=1e-9)
    assert found[1].before.distance > 2 * distances[0]


# --- resampling


@given(n=st.integers(1, 30), more=st.integers(0, 40), seed=st.integers(0, 1000))
def test_merging_copies_is_the_identity(n, more, seed):
    """Of both sides, for any width and however the copies are found again."""
    rng = np.random.default_rng(seed)
    incoming, outgoing = rng.standard_normal((2, n, 7))
    up = width_change.duplicate(n, n + more)
    wide_in = width_change.along(up.producing, incoming, 0)
    wide_out = width_change.along(up.consuming, outgoing, 0)
    labels = kmeans_labels(wide_in, np.linalg.norm(wide_out, axis=1), n, seed=seed)
    down = width_change.merge(labels, np.linalg.norm(wide_out, axis=1))
    back_in = width_change.along(down.producing, wide_in, 0)
    back_out = width_change.along(down.consuming, wide_out, 0)
    order = [int(np.argmin(cdist(incoming[i : i + 1], back_in))) for i in range(n)]
    assert sorted(order) == list(range(n))
    np.testing.assert_allclose(back_in[order], incoming, atol=1e-12)
    np.testing.assert_allclose(back_out[order], outgoing, atol=1e-12)


@given(n=st.integers(1, 40), seed=st.integers(0, 1000))
def test_the_same_width_is_the_identity(n, seed):
    rng = np.random.default_rng(seed)
    changes = [width_change.riemann(getattr(operators, kind)(n, n))
               for kind in ("area", "linear", "dct")]  # fmt: skip
    changes += [
        width_change.duplicate(n, n),
        width_change.merge(np.arange(n), rng.random(n) + 0.1),
        width_change.prune(np.arange(n), n),
    ]
    for change in changes:
        for operator in (change.producing, change.consuming):
            E = width_change.along(operator, np.eye(n), 0)
            np.testing.assert_allclose(E, np.eye(n), atol=1e-12)
