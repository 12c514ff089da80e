"""Spectra of W_QᵀW_K and W_O W_V of heads against the products formed."""

from __future__ import annotations

import pytest
import torch

from analyzer.checkpoints.checkpoint import open_checkpoint
from analyzer.models.manifold.head_products import head_products

from .groups.conftest import build
from .symmetries import (
    near,
    product_spectra,
    turn_keys,
    turn_values,
)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", ["llama", "phi3", "mixtral", "gpt2", "bert untied", "vit"])
def test_head_products_against_the_products_formed(tmp_path, name):
    network = build(name)
    network.model.save_pretrained(tmp_path / "own")
    found = list(head_products(open_checkpoint(tmp_path / "own")))
    expected = product_spectra(network.model, network.tensors())
    assert len(found) == len(expected)
    for one, (qk, ov) in zip(found, expected, strict=True):
        assert near((qk, ov), (one.qk, one.ov), 1e-6)  # stored exactly, read as float32 or wider
    share = len(found) // len({(one.layer, one.key_head) for one in found})
    assert all(one.key_head == one.head // share for one in found)
    tensors = network.tensors()
    turn_values(network.model, tensors)
    turn_keys(network.model, tensors)
    network.model.load_state_dict(tensors)
    network.model.save_pretrained(tmp_path / "turned")
    turned = list(head_products(open_checkpoint(tmp_path / "turned")))
    for one, other in zip(found, turned, strict=True):
        assert near((one.qk, one.ov), (other.qk, other.ov), 1e-5)
