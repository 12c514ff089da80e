"""ΔW from an adapter's factors alone against what PEFT merges into the base."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from peft import AdaLoraConfig, LoraConfig
from torch import nn

from analyzer.checkpoints.adapters import (
    LowRankDelta,
    open_adapter,
    standalone_matrix,
    target_update,
)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.fc = nn.Embedding(11, 6), nn.Linear(6, 10)
        self.conv, self.point = nn.Conv2d(4, 6, (3, 2)), nn.Conv2d(4, 6, 1)


@pytest.mark.parametrize(
    "config",
    [LoraConfig(r=2, lora_alpha=3, target_modules=["embed", "fc", "conv", "point"]),
     LoraConfig(r=2, lora_alpha=3, target_modules=["fc", "conv"], use_rslora=True),
     AdaLoraConfig(init_r=3, target_r=2, total_step=9, target_modules=["fc"])],
)  # fmt: skip
def test_update_is_what_is_merged(round_trip, config) -> None:
    trip = round_trip(Net(), config)
    assert len(trip.adapter.targets) == len(config.target_modules)
    for target in trip.adapter.targets:
        matrix = standalone_matrix(trip.adapter, target)
        assert matrix is not None
        found = target_update(trip.adapter, target, matrix, None)
        assert isinstance(found, LowRankDelta)
        want = (trip.merged[target.name] - trip.base[target.name]).flatten(1).numpy()
        assert (matrix.rows, matrix.cols) == want.shape
        np.testing.assert_allclose(found.P @ found.Q.T, want, atol=1e-6)


@pytest.mark.parametrize(
    "config",
    [LoraConfig(r=2, target_modules=["fc"], use_dora=True),
     LoraConfig(r=2, target_modules=["fc"], init_lora_weights="pissa")],
)  # fmt: skip
def test_what_depends_on_the_base_has_none(round_trip, config) -> None:
    adapter = round_trip(Net(), config).adapter
    assert standalone_matrix(adapter, adapter.targets[0]) is None


def test_how_many_experts_share_the_factors_is_unknown(files) -> None:
    data = {"base_model.model.experts.lora_A.weight": torch.ones(4, 3),
            "base_model.model.experts.lora_B.weight": torch.ones(5, 4)}  # fmt: skip
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2}
    one = open_adapter(files(data, config))
    assert standalone_matrix(one, one.targets[0]) is not None
    several = open_adapter(files(data, config | {"target_parameters": ["experts.down_proj"]}))
    assert standalone_matrix(several, several.targets[0]) is None
