"""Convolutional networks: torchvision's names, and networks that only a file describes."""

from __future__ import annotations

import json
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from analyzer.checkpoints.checkpoint import open_checkpoint
from analyzer.errors import MissingExtra, ShapeMismatch, UsageError
from analyzer.models.manifold.groups import (
    PermutationGroup,
    Site,
    apply_order,
    apply_orders,
    blocks,
    groups_from_yaml,
    permutation_groups,
)


class Bottleneck(nn.Module):
    """K. He et al., arXiv 1512.03385, figure 5, with torchvision's names."""

    def __init__(self, inputs: int, hidden: int, outputs: int, projected: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, hidden, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.conv2 = nn.Conv2d(hidden, hidden, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(hidden)
        self.conv3 = nn.Conv2d(hidden, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if projected:
            conv = nn.Conv2d(inputs, outputs, 1, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = self.bn1(self.conv1(x)).relu()
        y = self.bn3(self.conv3(self.bn2(self.conv2(y)).relu()))
        return (y + (x if self.downsample is None else self.downsample(x))).relu()


class ResNet(nn.Module):
    def __init__(self, stem: int = 8) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, stem, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.layer1 = nn.Sequential(
            Bottleneck(stem, 4, 8, projected=stem != 8), Bottleneck(8, 4, 8, projected=False)
        )
        self.layer2 = nn.Sequential(Bottleneck(8, 6, 12, projected=True))
        self.fc = nn.Linear(12, 5)

    def forward(self, x):
        x = self.layer2(self.layer1(self.bn1(self.conv1(x)).relu()))
        return self.fc(x.mean((2, 3)))


def lenet() -> nn.Sequential:
    """Convolutions with a group norm and a batch norm, flattened into an MLP."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.GroupNorm(4, 8), nn.ReLU(),
        nn.Conv2d(8, 6, 3), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Flatten(), nn.Linear(6 * 8 * 8, 10), nn.Tanh(), nn.Linear(10, 5),
    )  # fmt: skip


LENET = {
    "0.weight": ">norm/2 - - -",
    "0.bias": ">norm/2",
    "1.(weight|bias)": ">norm/2",
    "3.weight": ">conv <norm/2 - -",
    "3.bias": ">conv",
    "4.(weight|bias|running_mean|running_var)": ">conv",
    "4.num_batches_tracked": "",
    "7.weight": ">hidden <conv/64",
    "7.bias": ">hidden",
    "9.weight": "- <hidden",
    "9.bias": "-",
}


@pytest.fixture
def images():
    return torch.randn(3, 3, 12, 12, generator=torch.Generator().manual_seed(0)).double()


def prepared(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    model = model.double().eval()
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            tensor.copy_(
                noise.abs() + 0.5 if tensor.ndim == 1 else noise / tensor[0].numel() ** 0.5
            )
    return model


def saved(model: nn.Module, path):
    save_file(model.state_dict(), path)
    return open_checkpoint(path)


@torch.no_grad()
def change(model: nn.Module, tensors, images) -> float:
    before, own = model(images), {n: t.clone() for n, t in model.state_dict().items()}
    model.load_state_dict(tensors)
    after = model(images)
    model.load_state_dict(own)
    return float((after - before).abs().max() / before.abs().max())


def cycled(n: int) -> list[int]:
    return [*range(1, n), 0]


@pytest.mark.parametrize(
    ("stem", "names"), [(8, {"stem", "out_2.0"}), (10, {"stem", "out_1.0", "out_2.0"})]
)
def test_torchvision_resnet(tmp_path, images, stem, names):
    model = prepared(ResNet(stem))
    groups, unmapped = permutation_groups(saved(model, tmp_path / "resnet.safetensors"))
    assert unmapped == ()
    assert {group.name for group in groups if group.kind == "residual"} == names
    assert sum(group.kind == "channels" for group in groups) == 6
    for group in groups:
        tensors = apply_order(model.state_dict(), group, cycled(group.size))
        assert change(model, tensors, images) < 1e-12, group.name
        running = [s for s in group.sites if "running_var" in s.tensor]
        for site in running:  # batch norm's statistics move along
            tensors[site.tensor] = model.state_dict()[site.tensor]
            assert change(model, tensors, images) > 1e-4


@pytest.mark.parametrize("suffix", [".json", ".yaml"])
def test_a_file_describes_a_network(tmp_path, images, suffix):
    model = prepared(lenet())
    checkpoint = saved(model, tmp_path / "lenet.safetensors")
    spec = tmp_path / f"lenet{suffix}"
    spec.write_text(json.dumps({"tensors": LENET}))
    groups, unmapped = groups_from_yaml(spec, checkpoint)
    assert unmapped == ()
    sizes = {group.name: (group.size, group.kind) for group in groups}
    assert sizes == {
        "norm": (4, "channels"), "conv": (6, "channels"), "hidden": (10, "channels")
    }  # fmt: skip
    for group in groups:
        tensors = apply_order(model.state_dict(), group, cycled(group.size))
        assert change(model, tensors, images) < 1e-12
    orders = {group.name: cycled(group.size) for group in groups}
    assert change(model, apply_orders(model.state_dict(), groups, orders), images) < 1e-12


def test_channels_move_within_a_group_of_a_group_norm_but_not_across(images):
    model = prepared(lenet())
    names = (("0.weight", 0), ("0.bias", 0), ("1.weight", 0), ("1.bias", 0), ("3.weight", 1))
    for n, layout, exact in ((2, blocks(1, start=2), True), (8, blocks(1), False)):
        sites = tuple(Site(name, axis, layout) for name, axis in names)
        group = PermutationGroup("norm", "channels", n, sites)
        moved = change(model, apply_order(model.state_dict(), group, cycled(n)), images)
        assert (moved < 1e-12) is exact


def test_plain_mlp_with_numbered_layers(tmp_path):
    layers = [nn.Linear(a, b) for a, b in pairwise((5, 7, 9, 4))]
    model = prepared(nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2]))
    spec = tmp_path / "mlp.yml"
    spec.write_text(
        "tensors:\n"
        '  0.weight: ">h0 -"\n  0.bias: ">h0"\n'
        '  2.weight: ">h1 <h0"\n  2.bias: ">h1"\n  4.weight: "- <h1"\n  4.bias: "-"\n'
    )
    groups, unmapped = groups_from_yaml(spec, saved(model, tmp_path / "mlp.safetensors"))
    assert [group.size for group in groups] == [7, 9] and unmapped == ()
    x = torch.randn(4, 5).double()
    for group in groups:
        order = np.random.default_rng(0).permutation(group.size)
        assert change(model, apply_order(model.state_dict(), group, order), x) < 1e-12


def test_nothing_is_guessed(tmp_path, images):
    model = prepared(lenet())
    checkpoint = saved(model, tmp_path / "lenet.safetensors")
    with pytest.raises(UsageError, match="channel axes of a model without model_type"):
        permutation_groups(checkpoint)
    spec = tmp_path / "spec.json"

    def described(tensors):
        spec.write_text(json.dumps({"tensors": tensors}))
        return groups_from_yaml(spec, checkpoint)

    # a tensor that the file leaves out may belong to any group
    groups, unmapped = described({k: v for k, v in LENET.items() if k != "3.bias"})
    assert "unmapped axis of 3.bias: no rule knows this name" in map(str, unmapped)
    assert groups == ()
    groups, unmapped = described(LENET | {"9.weight": "- -"})
    assert {group.name for group in groups} == {"norm", "conv"}  # hidden is never read
    assert any("no group hidden" in str(axis) for axis in unmapped)
    with pytest.raises(ShapeMismatch, match=r"3\.bias: .* 3 units of 1, but .*0\.bias 4 of 1"):
        described(LENET | {"3.bias": ">norm/2"})
    _, unmapped = described(LENET | {"7.weight": ">hidden <conv/7"})
    assert any(axis.tensor == "7.weight" and "384" in str(axis) for axis in unmapped)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "object|mapping"),
        ('{"tensors": [1]}', "under 'tensors'"),
        ('{"tensors": {"a": "x"}}', "describes no axis"),
        ('{"tensors": {"a": ">b*"}}', "describes no axis"),
        ('{"tensors": {"a": ">{b}"}}', "'a'"),
        ('{"tensors": {"(": ">b"}}', "'\\('"),
        ('{"tensors": {"a": 3}}', "words of its axes"),
        ("{", "cannot be read"),
    ],
)
@pytest.mark.parametrize("suffix", [".json", ".yaml"])
def test_bad_files(tmp_path, text, message, suffix):
    checkpoint = saved(prepared(lenet()), tmp_path / "lenet.safetensors")
    spec = tmp_path / f"spec{suffix}"
    spec.write_text(text)
    with pytest.raises(UsageError, match=message):
        groups_from_yaml(spec, checkpoint)


def test_without_pyyaml(tmp_path, monkeypatch):
    checkpoint = saved(prepared(lenet()), tmp_path / "lenet.safetensors")
    monkeypatch.setitem(sys.modules, "yaml", None)
    spec = tmp_path / "spec.yaml"
    spec.write_text(json.dumps({"tensors": LENET}))
    with pytest.raises(MissingExtra, match="pip install pyyaml"):
        groups_from_yaml(spec, checkpoint)
    groups, _ = groups_from_yaml(spec.rename(tmp_path / "spec.json"), checkpoint)
    assert len(groups) == 3
