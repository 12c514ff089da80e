"""LoHa, LoKr, (IA)³ and VeRA against the weights PEFT merges."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from peft import IA3Config, LoHaConfig, LoKrConfig, VeraConfig
from torch import nn

from analyzer.checkpoints.adapters import LowRankDelta, TunedWeight


class Net(nn.Module):
    def __init__(self, n_in: int = 4, n_out: int = 6) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc1, self.fc2, self.square = nn.Linear(6, 10), nn.Linear(10, 9), nn.Linear(9, 9)
        self.one, self.two = nn.Conv1d(n_in, n_out, 3), nn.Conv2d(n_in, n_out, (3, 2))
        self.point, self.same = nn.Conv2d(n_in, n_out, 1), nn.Conv2d(n_out, n_out, 3)


LINEAR = ["fc1", "fc2", "square"]
EVERY = [*LINEAR, "one", "two", "point", "same"]


@pytest.mark.parametrize("effective", [False, True])
@pytest.mark.parametrize("r", [2, 4])
def test_loha(round_trip, effective, r):
    config = LoHaConfig(
        r=r, alpha=5, target_modules=EVERY, use_effective_conv2d=effective, init_weights=False
    )
    trip = round_trip(Net(), config)
    trip.check()
    for target, info, change in trip.changes():
        assert target.kind == "loha" and target.scaling == 5 / r
        low_rank = r**2 < min(info.rows, info.cols)
        assert isinstance(change, LowRankDelta if low_rank else TunedWeight), info.name
        assert not isinstance(change, LowRankDelta) or change.P.shape[1] == r**2


def test_loha_patterns(round_trip):
    config = LoHaConfig(
        r=1, alpha=5, target_modules=LINEAR, rank_pattern={"fc2": 2}, alpha_pattern={"fc1": 3}
    )
    trip = round_trip(Net(), config)
    trip.check()
    assert [target.scaling for target in trip.adapter.targets] == [3, 2.5, 5]


@pytest.mark.parametrize("effective", [False, True])
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("factor", [-1, 2, 3])
@pytest.mark.parametrize("r", [2, 8])
def test_lokr(round_trip, effective, both, factor, r):
    config = LoKrConfig(
        r=r, alpha=3, target_modules=EVERY, decompose_both=both, decompose_factor=factor,
        use_effective_conv2d=effective, init_weights=False,
    )  # fmt: skip
    trip = round_trip(Net(12, 16), config)
    trip.check()
    for target, info, change in trip.changes():
        assert target.scaling == 3 / r
        if isinstance(change, LowRankDelta):
            assert change.P.shape[1] < min(info.rows, info.cols)


@pytest.mark.parametrize(("both", "rank"), [(False, 16), (True, 4)])
def test_lokr_is_low_rank_when_a_factor_is(round_trip, both, rank):
    """64 × 81 = (8 × 9) ⊗ (8 × 9): w1 full has rank 8, every factored side rank 2."""
    model = nn.ModuleDict({"fc": nn.Linear(81, 64)})
    config = LoKrConfig(r=2, target_modules=["fc"], init_weights=False, decompose_both=both)
    trip = round_trip(model, config)
    [(_, _, change)] = trip.changes()
    assert isinstance(change, LowRankDelta) and change.P.shape[1] == rank
    trip.check()


def test_ia3_scales_outputs_or_inputs(round_trip):
    config = IA3Config(
        target_modules=[*LINEAR, "two", "point", "same"],
        feedforward_modules=["fc2", "square", "two", "same"],
    )
    trip = round_trip(Net(), config)
    trip.check()
    assert all(isinstance(change, TunedWeight) for _, _, change in trip.changes())


@pytest.mark.parametrize("feedforward", [[], "sa.*"])
def test_ia3_square_convolution(round_trip, feedforward):
    """Its shape does not say which side is scaled; PEFT takes a list of endings or a pattern."""
    target = ["same"] if isinstance(feedforward, list) else "same"
    round_trip(Net(), IA3Config(target_modules=target, feedforward_modules=feedforward)).check()


def test_ia3_on_conv1d(round_trip):
    from transformers import GPT2Config, GPT2Model

    torch.manual_seed(0)
    model = GPT2Model(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=13, n_positions=5))
    config = IA3Config(
        target_modules=["c_attn", "mlp.c_proj"], feedforward_modules=["mlp.c_proj"],
        fan_in_fan_out=True,
    )  # fmt: skip
    trip = round_trip(model, config, transposed=lambda name: ".c_" in name)
    trip.check()


def test_vera(round_trip):
    trip = round_trip(Net(), VeraConfig(r=4, target_modules=LINEAR))
    trip.check()
    for target, _, change in trip.changes():
        assert (target.kind, target.rank, target.scaling) == ("vera", 4, None)
        assert isinstance(change, LowRankDelta) and change.P.shape[1] == 4


def test_vera_on_conv1d(round_trip):
    from transformers import GPT2Config, GPT2Model

    torch.manual_seed(0)
    model = GPT2Model(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=13, n_positions=5))
    config = VeraConfig(r=4, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True)
    round_trip(model, config, transposed=lambda name: ".c_" in name).check()


@pytest.mark.filterwarnings("ignore:Specified to not save vera_A")
def test_vera_without_projections_is_refused(round_trip):
    trip = round_trip(Net(), VeraConfig(r=4, target_modules=LINEAR, save_projection=False))
    assert {target.status for target in trip.adapter.targets} == {"refused"}
    assert "save_projection" in trip.adapter.targets[0].detail


def test_factors_are_float64(round_trip):
    trip = round_trip(Net(), LoHaConfig(r=1, target_modules=["fc1"]))
    [(_, _, change)] = trip.changes()
    assert change.P.dtype == change.Q.dtype == np.float64
