"""LoRA, DoRA, AdaLoRA and the initialisers against the weights PEFT merges."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from peft import AdaLoraConfig, LoraConfig
from torch import nn

from analyzer.checkpoints.adapters import LowRankDelta, TunedWeight, scaling_at


class Net(nn.Module):
    """Linear layers of three shapes, one square, an embedding and attention."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(11, 6)
        self.fc1, self.fc2, self.square = nn.Linear(6, 10), nn.Linear(10, 7), nn.Linear(7, 7)
        self.attn = nn.MultiheadAttention(7, 1)
        self.head = nn.Linear(7, 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden = self.square(self.fc2(self.fc1(self.embed(ids))))
        return self.head(self.attn(hidden, hidden, hidden)[0])


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = nn.Conv1d(3, 5, 3), nn.Conv2d(4, 6, (3, 2))
        self.three, self.point = nn.Conv3d(2, 4, 2), nn.Conv2d(4, 6, 1)
        self.square = nn.Conv2d(4, 4, 3)


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2Model

    torch.manual_seed(0)
    return GPT2Model(GPT2Config(n_layer=2, n_embd=8, n_head=2, vocab_size=13, n_positions=5))


def is_conv1d(name: str) -> bool:
    return name.split(".")[-2] in ("c_attn", "c_proj", "c_fc")


ALL = ["embed", "fc1", "fc2", "square"]


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("rslora", [False, True])
def test_linear_and_embedding(round_trip, dora, rslora):
    config = LoraConfig(r=3, lora_alpha=5, target_modules=ALL, use_dora=dora, use_rslora=rslora)
    trip = round_trip(Net(), config)
    trip.check()
    for target, _, change in trip.changes():
        assert target.kind == ("dora" if dora else "lora") and target.rank == 3
        assert target.scaling == pytest.approx(5 / 3**0.5 if rslora else 5 / 3)
        assert isinstance(change, TunedWeight if dora else LowRankDelta)


def test_multihead_attention(round_trip):
    """PEFT 0.21 merges out_proj twice (huggingface/peft#3774): its product is checked itself."""
    trip = round_trip(Net(), LoraConfig(r=2, lora_alpha=3, target_modules=["attn"]))
    changes = {info.name: change for _, info, change in trip.changes()}
    assert changes.keys() == {"attn.in_proj_weight", "attn.out_proj.weight"}
    for name, prefix in (("in_proj_weight", ""), ("out_proj.weight", "base_layer.out_proj.")):
        key = f"base_model.model.attn.{prefix}lora_"
        product = 1.5 * (trip.files.data[f"{key}B.weight"] @ trip.files.data[f"{key}A.weight"])
        change = changes[f"attn.{name}"]
        np.testing.assert_allclose(change.P @ change.Q.T, product, atol=1e-6)
    got = trip.merged["attn.in_proj_weight"] - trip.base["attn.in_proj_weight"]
    change = changes["attn.in_proj_weight"]
    np.testing.assert_allclose(change.P @ change.Q.T, got, atol=1e-6)
    assert any("adds it twice" in line for line in trip.adapter.warnings)


@pytest.mark.parametrize("dora", [False, True])
def test_conv1d_stores_its_transpose(round_trip, dora):
    config = LoraConfig(
        r=2, target_modules=["c_attn", "c_proj", "wte"], use_dora=dora, fan_in_fan_out=True
    )
    trip = round_trip(gpt2(), config, transposed=is_conv1d)
    trip.check()
    assert {(i.rows, i.cols) for t, i, _ in trip.changes() if "c_attn" in t.name} == {(24, 8)}


def test_conv1d_whose_orientation_was_not_recognised(round_trip):
    trip = round_trip(gpt2(), LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True))
    trip.check()


@pytest.mark.parametrize("dora", [False, True])
def test_convolutions(round_trip, dora):
    config = LoraConfig(
        r=2, lora_alpha=3, target_modules=["one", "two", "three", "point"], use_dora=dora
    )
    trip = round_trip(Convolutions(), config)
    trip.check()
    assert len(trip.changes()) == 4


def test_grouped_convolution_is_refused(round_trip):
    model = nn.ModuleDict({"g": nn.Conv2d(4, 6, 3, groups=2), "plain": nn.Conv2d(4, 6, 3)})
    trip = round_trip(model, LoraConfig(r=2, target_modules=["g", "plain"]), mergeable=False)
    status = {target.module: (target.status, target.detail) for target in trip.adapter.targets}
    assert status["plain"][0] == "ok"
    assert status["g"][0] == "refused" and "grouped" in status["g"][1]


def test_rank_and_alpha_patterns(round_trip):
    config = LoraConfig(
        r=8, lora_alpha=16, target_modules=["fc1", "fc2", "square", "out_proj"],
        rank_pattern={"fc2": 2, "^square": 3}, alpha_pattern={r"f.1": 4, "fc2": 16},
    )  # fmt: skip
    trip = round_trip(Net(), config)
    trip.check()
    scaling = {target.module: target.scaling for target in trip.adapter.targets}
    assert scaling["fc1"] == 4 / 8 and scaling["fc2"] == 8 and scaling["square"] == 16 / 3
    assert trip.adapter.warnings == ()


def test_stored_rank_wins_over_the_configuration(round_trip):
    trip = round_trip(Net(), LoraConfig(r=2, lora_alpha=6, target_modules=["fc1"]))
    trip.files.config["r"] = 4
    from analyzer.checkpoints.adapters import open_adapter

    reopened = open_adapter(trip.files)
    assert reopened.targets[0].rank == 2 and reopened.targets[0].scaling == 3
    assert "another rank" in reopened.warnings[0]


def test_lora_bias_is_ignored_and_saved_modules_replace(round_trip):
    config = LoraConfig(r=2, target_modules=["fc1"], lora_bias=True, modules_to_save=["head"])
    trip = round_trip(Net(), config)
    trip.check()
    kinds = {target.name: target.kind for target in trip.adapter.targets}
    assert kinds == {"fc1.weight": "lora", "head.weight": "saved"}


class Experts(nn.Module):
    def __init__(self, *, is_transposed: bool) -> None:
        super().__init__()
        self.is_transposed = is_transposed
        torch.manual_seed(0)
        self.gate_up_proj = nn.Parameter(torch.randn(4, 10, 6) * 0.3)
        self.down_proj = nn.Parameter(torch.randn(4, 6, 5) * 0.3)


class Moe(nn.Module):
    def __init__(self, *, is_transposed: bool) -> None:
        super().__init__()
        self.router = nn.Linear(6, 4)
        self.experts = Experts(is_transposed=is_transposed)


@pytest.mark.parametrize("is_transposed", [False, True])
@pytest.mark.parametrize(
    "parameters", [["experts.down_proj"], ["experts.gate_up_proj", "experts.down_proj"]]
)
def test_expert_parameters(round_trip, is_transposed, parameters):
    config = LoraConfig(r=2, lora_alpha=5, target_modules=["router"], target_parameters=parameters)
    trip = round_trip(
        Moe(is_transposed=is_transposed), config,
        transposed=lambda name: is_transposed and "experts" in name,
    )  # fmt: skip
    trip.check()
    assert len(trip.changes()) == 1 + 4 * len(parameters)


def test_square_experts_are_refused_unless_the_orientation_is_known(round_trip):
    from analyzer.checkpoints.adapters import match_targets, target_update
    from analyzer.errors import AdapterError

    model = Moe(is_transposed=False)
    model.experts.down_proj = nn.Parameter(torch.randn(4, 6, 6))
    trip = round_trip(model, LoraConfig(r=2, target_parameters=["experts.down_proj"]))
    [pair, *_] = match_targets(trip.adapter, trip.infos)
    with pytest.raises(AdapterError, match="square expert weights"):
        target_update(trip.adapter, *pair, None)


def prune(model: nn.Module) -> None:
    """AdaLoRA's rank allocation as at the end of training: ranks 1, 3 and 0."""
    with torch.no_grad():
        for value in model.parameters():
            if value.requires_grad:
                value.add_(torch.randn(value.shape) * 0.3)
    keep = {"fc1": [True, False, False, False], "fc2": [True, False, True, True],
            "square": [False] * 4}  # fmt: skip
    pattern = {f"{name}.lora_E.default": rows for name, rows in keep.items()}
    model.peft_config["default"].rank_pattern = pattern
    for name, rows in keep.items():
        layer = model.get_submodule(f"base_model.model.{name}")
        layer.lora_E["default"].data[~torch.tensor(rows)] = 0


@pytest.mark.parametrize("pruned", [False, True])
def test_adalora(round_trip, pruned):
    config = AdaLoraConfig(
        init_r=4, target_r=2, lora_alpha=3, total_step=10, tinit=1, tfinal=1,
        target_modules=["fc1", "fc2", "square"],
    )  # fmt: skip
    trip = round_trip(Net(), config, **({"train": prune} if pruned else {}))
    trip.check()
    ranks = {target.module: target.rank for target in trip.adapter.targets}
    assert ranks == ({"fc1": 1, "fc2": 3, "square": 0} if pruned else dict.fromkeys(ranks, 4))
    assert {target.scaling for target in trip.adapter.targets} == {3 / (4 + 1e-5)}


@pytest.mark.parametrize("initialiser", ["pissa", "olora"])
@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("dora", [False, True])
def test_initialisers_that_move_the_base(round_trip, initialiser, rslora, dora):
    config = LoraConfig(
        r=2, lora_alpha=6, init_lora_weights=initialiser, use_rslora=rslora, use_dora=dora,
        target_modules=["fc1", "fc2", "square"],
    )  # fmt: skip
    trip = round_trip(Net(), config)
    trip.check()
    for _, _, change in trip.changes():
        if isinstance(change, LowRankDelta):
            assert change.minus_base_rank == (2 if initialiser == "pissa" else 0)
            assert change.P.shape[1] == (2 if initialiser == "pissa" else 4)
        else:
            assert dora


def test_pissa_on_conv1d(round_trip):
    config = LoraConfig(
        r=2, init_lora_weights="pissa", target_modules=["c_fc", "c_proj"], fan_in_fan_out=True
    )
    round_trip(gpt2(), config, transposed=is_conv1d).check()


@pytest.mark.parametrize("initialiser", ["gaussian", "orthogonal", "mica", False])
def test_initialisers_that_leave_the_base(round_trip, initialiser):
    config = LoraConfig(r=2, init_lora_weights=initialiser, target_modules=["fc1", "square"])
    round_trip(Net(), config).check()


def test_randomised_pissa_needs_the_initial_adapter(round_trip, files):
    from analyzer.checkpoints.adapters import match_targets, open_adapter, target_update

    start: dict[str, torch.Tensor] = {}

    def train(model: nn.Module) -> None:
        from peft import get_peft_model_state_dict

        start.update({k: v.clone() for k, v in get_peft_model_state_dict(model).items()})
        with torch.no_grad():
            for value in model.parameters():
                if value.requires_grad:
                    value.add_(torch.randn(value.shape) * 0.3)

    config = LoraConfig(r=2, init_lora_weights="pissa_niter_4", target_modules=["fc1", "fc2"])
    trip = round_trip(Net(), config, train=train)
    assert {t.status for t in trip.adapter.targets} == {"refused"}
    assert "pissa_niter_4" in trip.adapter.targets[0].detail
    adapter = open_adapter(trip.files, initial=files(start, trip.files.config))
    for target, info in match_targets(adapter, trip.infos):
        change = target_update(adapter, target, info, trip.base[info.tensor])
        delta = (trip.merged[info.tensor] - trip.base[info.tensor]).numpy()
        np.testing.assert_allclose(change.P @ change.Q.T, delta, atol=1e-6)


def test_scaling_at_equals_the_target_scaling(round_trip):
    trip = round_trip(Net(), LoraConfig(r=2, lora_alpha=6, target_modules=["fc1"]))
    assert scaling_at(trip.adapter, trip.adapter.targets[0]) == 3
