import pytest
import torch
from torch import nn

from analyzer.errors import UsageError
from analyzer.recorder.targets import find_targets


def names(model, pattern=None, among=None) -> list[str]:
    return [target.name for target in find_targets(model, pattern, among)]


class Tied(nn.Module):
    """The head comes first and shares its weight with the embedding; one layer is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(8, 20, bias=False)
        self.tokens = nn.Embedding(20, 8)
        self.out.weight = self.tokens.weight
        self.first = nn.Linear(8, 8)
        self.second = self.first
        self.norm = nn.LayerNorm(8)
        self.row = nn.Linear(8, 1)


def test_tied_weights_once_and_no_embeddings_or_vectors() -> None:
    assert names(Tied()) == ["first.weight"]
    assert names(Tied(), r"weight$") == ["out.weight", "first.weight"]


def test_heads_and_embeddings_by_name() -> None:
    model = nn.ModuleDict(
        {name: nn.Linear(6, 7) for name in ("lm_head", "classifier", "score", "embed_out", "body")}
    )
    assert names(model) == ["body.weight"]
    blocks = nn.ModuleDict({"layers": nn.ModuleList([nn.ModuleDict({"score": nn.Linear(6, 7)})])})
    assert names(blocks) == ["layers.0.score.weight"]  # inside a block it is no head


def test_wrappers_are_taken_off_the_names() -> None:
    net = nn.Sequential(nn.Linear(4, 5), nn.Sequential(nn.Linear(5, 6)))
    expected = ["0.weight", "1.0.weight"]
    assert names(net) == expected
    assert names(nn.DataParallel(net)) == expected
    assert names(torch.compile(net)) == expected
    net[1] = torch.compile(net[1])
    assert names(net) == expected
    inner = nn.ModuleDict({"module": nn.Linear(4, 5)})
    assert names(inner) == ["module.weight"]  # a module of this name is not a wrapper


def test_frozen_weights_and_those_of_other_optimizers_are_left_out() -> None:
    net = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 6), nn.Linear(6, 7))
    net[0].requires_grad_(False)
    assert names(net) == ["1.weight", "2.weight"]
    assert names(net, among={id(net[2].weight)}) == ["2.weight"]
    with pytest.raises(UsageError, match="no matrix"):
        names(net.requires_grad_(False))


def test_convolutions_are_flattened_and_conv1d_is_turned() -> None:
    from transformers.pytorch_utils import Conv1D

    net = nn.Sequential(nn.Conv2d(3, 8, (2, 5)), Conv1D(7, 4))  # Conv1D: (in 4, out 7)
    conv, conv1d = find_targets(net, None, None)
    assert (conv.rows, conv.cols) == (8, 30)
    kernel = torch.randn(8, 3, 2, 5)
    assert torch.equal(conv.matrix(kernel), kernel.flatten(1))
    assert (conv1d.rows, conv1d.cols) == (7, 4)
    weight = torch.randn(4, 7)
    assert torch.equal(conv1d.matrix(weight), weight.T)


def test_lora_factors_under_their_own_names() -> None:
    from peft import LoraConfig, get_peft_model

    net = nn.Sequential(nn.Linear(12, 10), nn.Linear(10, 12))
    model = get_peft_model(net, LoraConfig(r=4, target_modules=["0"]))
    found = names(model)
    assert found == [
        "base_model.model.0.lora_A.default.weight",
        "base_model.model.0.lora_B.default.weight",
    ]
    assert set(found) <= dict(model.named_parameters()).keys()


@pytest.mark.parametrize("mark", ["ds_id", "_is_flat_param"])
def test_sharded_parameters_are_refused_by_name(mark) -> None:
    net = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 6))
    setattr(net[1].bias, mark, 1)
    with pytest.raises(UsageError, match=r"1\.bias.*sharded"):
        find_targets(net, None, None)


def test_distributed_tensors_are_refused_by_name() -> None:
    net = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 6))
    net[0].weight.device_mesh, net[0].weight.placements = "mesh", ()
    with pytest.raises(UsageError, match=r"0\.weight.*DTensor"):
        find_targets(net, None, None)


def test_a_gradient_is_not_copied_or_changed() -> None:
    (target,) = find_targets(nn.Sequential(nn.Linear(4, 5)), None, None)
    gradient = torch.randn(5, 4)
    assert target.matrix(gradient).data_ptr() == gradient.data_ptr()
    assert target.matrix(gradient.double()).dtype == torch.float64
    assert target.matrix(gradient.half()).dtype == torch.float32
    assert torch.equal(target.matrix(gradient.to_sparse()), gradient)
