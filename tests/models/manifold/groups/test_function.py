"""Every group of every family leaves the network's function as it is, and needs all its sites."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from analyzer.models.manifold.groups import (
    PermutationGroup,
    Site,
    apply_order,
    apply_orders,
    blocks,
)

# Without a rotary embedding a key's bias adds the same to all logits of a query.
UNSEEN = ("self.key.bias", "attention.k_proj.bias")


def tolerance(network) -> float:
    """RMSNorm computes in float32 whatever its input."""
    norms = (type(module).__name__ for module in network.model.modules())
    return 1e-5 if any("RMSNorm" in norm for norm in norms) else 1e-12


def test_everything_is_mapped(network):
    assert network.unmapped == ()


def test_each_group_keeps_the_function(network):
    for group in network.groups:
        assert network.change(network.apply(group)) <= tolerance(network), group.name


def test_all_groups_at_once(network):
    tensors = apply_orders(network.tensors(), network.groups, network.shuffled())
    changed = {name for name, t in network.tensors().items() if not t.equal(tensors[name])}
    assert changed == {name for group in network.groups for name in group.tensors()}
    assert network.change(tensors) <= tolerance(network)


def test_no_site_can_be_left_out(network):
    """Without any one site the function changes, by far more than rounding."""
    for group in network.groups:
        if group.size == 1:
            continue
        twice = {site.tied_to for site in group.sites}
        for site in group.sites:
            if site.tensor.endswith(UNSEEN) or site.tied_to or site.tensor in twice:
                continue  # a tied parameter's second name would put it right
            rest = replace(group, sites=tuple(s for s in group.sites if s is not site))
            order = [*range(1, group.size), 0]
            change = network.change(apply_order(network.tensors(), rest, order))
            assert change > 1e-4, (group.name, site)


@pytest.mark.parametrize("network", ["llama", "qwen3", "phi3"], indirect=True)
def test_channels_of_heads_and_key_heads_alone_stay(network):
    """A rotary embedding or a norm tells channels apart; a key head does not move alone."""
    group = next(group for group in network.groups if group.name == "attn_0")
    alone = replace(group, sites=tuple(s for s in group.sites if "k_proj" in s.tensor))
    if alone.sites:
        assert network.change(apply_order(network.tensors(), alone, [1, 0])) > 1e-4
    touched = {(site.tensor, site.axis) for group in network.groups for site in group.sites}
    assert not any("q_norm" in tensor or "k_norm" in tensor for tensor, _ in touched)


@pytest.mark.parametrize("outer_first", [False, True])
def test_orders_within_a_unit_travel_with_it(outer_first):
    """Query heads are numbered as they lie before any key head moves."""
    outer = PermutationGroup("attn", "heads", 2, (Site("q", 0, blocks(3)),))
    inner = tuple(
        PermutationGroup(
            f"q_{unit}", "query_heads", 3, (Site("q", 0, blocks(1, start=3 * unit)),),
            parent="attn", parent_unit=unit,
        )
        for unit in range(2)
    )  # fmt: skip
    groups = (outer, *inner) if outer_first else (*inner, outer)
    orders = {"attn": [1, 0], "q_0": [2, 0, 1], "q_1": [0, 2, 1]}
    moved = apply_orders({"q": torch.tensor([0, 1, 2, 10, 11, 12])}, groups, orders)
    assert moved["q"].tolist() == [10, 12, 11, 2, 0, 1]
