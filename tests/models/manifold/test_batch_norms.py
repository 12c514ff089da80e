"""Running statistics against torch's own estimate and the moments of the activations."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.swa_utils import update_bn

from analyzer.checkpoints.checkpoint import open_checkpoint
from analyzer.errors import UsageError
from analyzer.models.manifold.batch_norms import batch_norm_statistics, renewed
from analyzer.models.manifold.groups import groups_from_yaml
from analyzer.models.manifold.merging import merge_lerp
from analyzer.models.manifold.paths import loss_path
from analyzer.models.manifold.sample import sample_checkpoint

SPEC = {
    "tensors": {
        "0.weight": ">h - - -", "0.bias": ">h",
        r"1\.(weight|bias|running_mean|running_var)": ">h", "1.num_batches_tracked": "",
        "5.weight": "- <h", "5.bias": "-",
    }
}  # fmt: skip


def network(width: int = 8, dropout: float = 0.0) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Sequential(nn.Flatten(), nn.Dropout(dropout)), nn.Linear(width, 3),
    )  # fmt: skip


@pytest.fixture
def batches() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [2 + 3 * torch.randn(n, 2, 6, 6, generator=generator) for n in (7, 7, 4)]


def test_against_torch_and_the_moments(batches):
    torch.manual_seed(0)
    net = network(dropout=0.9)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    assert net.training and net[1].momentum == 0.1
    found = batch_norm_statistics(net, [(x, torch.zeros(len(x))) for x in batches])
    assert net.training and net[1].training and net[1].momentum == 0.1
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in before.items())
    assert set(found) == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    with torch.no_grad():
        channels = [net[0](x).transpose(0, 1).flatten(1) for x in batches]
    mean = torch.stack([c.mean(1) for c in channels]).mean(0)
    var = torch.stack([c.var(1) for c in channels]).mean(0)
    torch.testing.assert_close(found["1.running_mean"], mean)
    torch.testing.assert_close(found["1.running_var"], var)
    update_bn(batches, net)
    for key, value in found.items():
        torch.testing.assert_close(value, net.state_dict()[key])


def test_deeper_norms_see_what_the_others_make_of_their_batch(batches):
    """In one pass, dropout off, as torch does it with dropout left out."""
    torch.manual_seed(0)

    def deep(dropout: float) -> nn.Module:
        return nn.Sequential(network(8, dropout)[:3], nn.Dropout(dropout), nn.Conv2d(8, 4, 3),
                             nn.BatchNorm2d(4))  # fmt: skip

    net, plain = deep(0.5), deep(0.0)
    plain.load_state_dict(net.state_dict())
    found = batch_norm_statistics(net, batches)
    update_bn(batches, plain)
    assert len(found) == 6
    for key, value in found.items():
        torch.testing.assert_close(value, plain.state_dict()[key])


def test_refusals_leave_the_model_as_it_was(batches):
    net = network().eval()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with pytest.raises(UsageError, match="no batch"):
        batch_norm_statistics(net, [])
    with pytest.raises(RuntimeError):
        batch_norm_statistics(net, [batches[0], torch.zeros(2, 5, 6, 6)])
    assert not any(module.training for module in net.modules())
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in before.items())
    with pytest.raises(UsageError, match="no batch norm"):
        batch_norm_statistics(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(
            2, track_running_stats=False)), batches)  # fmt: skip
    state = {"a.running_mean": torch.zeros(2, dtype=torch.bfloat16)}
    made = renewed(state, lambda _: {"a.running_mean": torch.tensor([0.1, 1.0])})
    assert made["a.running_mean"].dtype == torch.bfloat16
    with pytest.raises(UsageError, match=r"b\.running_mean.*fit no tensor"):
        renewed(state, lambda _: {"b.running_mean": torch.zeros(2)})
    with pytest.raises(UsageError, match="fit no tensor"):
        renewed(state, lambda _: {"a.running_mean": torch.zeros(3)})
    with pytest.raises(UsageError, match="not finite"):
        renewed(state, lambda _: {"a.running_mean": torch.tensor([0.0, torch.nan])})


def saved(path, net: nn.Module):
    path.mkdir()
    save_file(net.state_dict(), path / "model.safetensors")
    (path / "spec.json").write_text(json.dumps(SPEC))
    return open_checkpoint(path)


def test_samples_get_statistics_of_their_own(tmp_path, batches):
    torch.manual_seed(0)
    net = network(8)
    net.load_state_dict(net.state_dict() | batch_norm_statistics(net, batches))
    checkpoint = saved(tmp_path / "net", net)
    groups, _ = groups_from_yaml(checkpoint.path / "spec.json", checkpoint)
    asked: list[dict[str, torch.Tensor]] = []

    def anew(state):
        other = network(5)
        other.load_state_dict(state)
        return batch_norm_statistics(other, batches)

    def judge(state):
        asked.append(state)
        return {"loss": float(len(asked))}

    made = sample_checkpoint(
        checkpoint, tmp_path / "small", widths={"h": 5}, groups=groups, eval_fn=judge,
        statistics_fn=anew,
    )  # fmt: skip
    assert made.warnings == ()
    other = network(5).eval()
    written = load_file(made.path / "model.safetensors")
    other.load_state_dict(written)
    for key, value in batch_norm_statistics(other, batches).items():
        torch.testing.assert_close(written[key], value)  # its own, and so those to be written
    assert all(torch.equal(asked[0][key], value) for key, value in written.items())
    plain = sample_checkpoint(
        checkpoint, tmp_path / "plain", widths={"h": 5}, groups=groups, operator=made.operator
    )
    assert "estimate them again" in plain.warnings[0]
    old = load_file(plain.path / "model.safetensors")
    assert not torch.allclose(old["1.running_var"], written["1.running_var"], rtol=0.01)
    assert torch.equal(old["0.weight"], written["0.weight"])


def test_within_an_evaluation_along_a_path_and_after_a_merge(tmp_path, batches):
    """The averages of two networks' variances are not the variances of their average."""
    checkpoints = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        net = network(8)
        net.load_state_dict(net.state_dict() | batch_norm_statistics(net, batches))
        checkpoints.append(saved(tmp_path / f"net{seed}", net))
    spread: list[float] = []

    def evaluate(state, *, again: bool):
        net = network(8).eval()
        net.load_state_dict(state)
        if again:
            net.load_state_dict(net.state_dict() | batch_norm_statistics(net, batches))
        with torch.no_grad():
            spread.append(float(net[:2](torch.cat(batches)).var()))
        return {"loss": abs(spread[-1] - 1.0)}

    without, anew = (
        loss_path(*checkpoints, lambda s, again=again: evaluate(s, again=again), n_points=3)
        for again in (False, True)
    )
    assert without.losses[1] > 0.2 > 0.1 > anew.losses.max()  # collapsed between the ends
    merged = merge_lerp(*checkpoints, 0.5, tmp_path / "merged")
    state = load_file(merged.folder / "model.safetensors")
    assert evaluate(state, again=False)["loss"] == pytest.approx(float(without.losses[1]))
