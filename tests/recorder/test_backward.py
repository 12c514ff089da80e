import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from analyzer.errors import UsageError
from analyzer.recorder import Recorder, list_records, open_record, read_record

NAMES = ["layers.0.weight", "layers.1.weight"]


def step_in_backward(model, seen=None):
    """One optimizer a weight, which steps and clears the gradient as soon as there is one."""
    optimizers = {p: torch.optim.SGD([p], lr=0.05) for p in model.parameters()}

    def hook(parameter):
        if seen is not None:
            seen.append(parameter.grad.clone())
        optimizers[parameter].step()
        optimizers[parameter].zero_grad()

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(hook)


def test_layer_wise_optimizer(tmp_path, make_net, net_loss, net_batch) -> None:
    ends, exact = [], []
    for recorded in (True, False):
        model = make_net()
        recorder = Recorder(model, None, tmp_path, every=2, hook="backward") if recorded else None
        step_in_backward(model)
        for step in range(5):
            loss = net_loss(model, net_batch(step))
            if not recorded:
                weights = [model.layers[0].weight, model.layers[1].weight]
                exact.append(torch.autograd.grad(loss, weights, retain_graph=True))
            loss.backward()
        if recorder is not None:
            recorder.close()
        ends.append(model.state_dict())
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    records = [read_record(path) for path in list_records(tmp_path)]
    assert [record.header.step for record in records] == [0, 2, 4]
    for record in records:
        by_name = {entry.name: entry for entry in record.header.entries}
        assert sorted(by_name) == NAMES
        assert record.header.clip_state == "before_clipping"
        for name, gradient in zip(NAMES, exact[record.header.step], strict=True):
            assert by_name[name].fro == pytest.approx(float(gradient.norm()), rel=1e-5)
            assert by_name[name].n_tokens == 48
    assert [line.lag_steps for line in records[1].header.entries[0].staleness] == [1, 2]


def test_recorded_on_the_last_of_the_micro_batches(tmp_path, make_net, net_loss, net_batch) -> None:
    model = make_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    exact = []
    with Recorder(model, optimizer, tmp_path, every=1, hook="backward", accumulate=3):
        for step in range(2):
            for part in range(3):
                net_loss(model, net_batch(10 * step + part)).backward()
            exact.append({n: p.grad.clone() for n, p in model.named_parameters()})
            optimizer.step()
            optimizer.zero_grad()
    records = [read_record(path) for path in list_records(tmp_path)]
    assert len(records) == 2
    for record, grads in zip(records, exact, strict=True):
        assert record.header.learning_rates == (0.1,)
        for entry in record.header.entries:
            s = np.linalg.norm(grads[entry.name].numpy(), 2)
            assert record.arrays["train", entry.name].sigma[0] == pytest.approx(s, rel=1e-2)
            assert entry.fro == pytest.approx(float(grads[entry.name].norm()), rel=1e-5)
            assert entry.n_tokens == 3 * 48


def test_a_weight_that_is_not_reached_does_not_stop_the_count(
    tmp_path, make_net, net_loss, net_batch
) -> None:
    model = make_net()
    with Recorder(model, None, tmp_path, every=1, hook="backward"):
        for step in range(4):
            if step % 2:
                model.layers[0](model.embed(net_batch(step))).sum().backward()
            else:
                net_loss(model, net_batch(step)).backward()
            model.zero_grad()
    files = [open_record(path) for path in list_records(tmp_path)]
    assert [file.header.step for file in files] == [0, 1, 2, 3]
    flags = [{e.name: e.flags for e in file.header.entries}[NAMES[1]] for file in files]
    assert flags == [(), ("no_gradient",), (), ("no_gradient",)]


def test_made_after_the_layer_wise_optimizer_it_fails_loudly(
    tmp_path, make_net, net_loss, net_batch
) -> None:
    model = make_net()
    step_in_backward(model)
    with (
        Recorder(model, None, tmp_path, hook="backward"),
        pytest.raises(UsageError, match="before the optimizer"),
    ):
        net_loss(model, net_batch(0)).backward()


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_blocks_belong_to_one_step(tmp_path, reentrant) -> None:
    """A reentrant checkpoint runs a backward pass of its own inside that of the step."""
    torch.manual_seed(0)
    model = nn.ModuleList([nn.Linear(40, 40) for _ in range(3)])
    with Recorder(model, None, tmp_path, every=1, hook="backward"):
        for _ in range(2):
            x = torch.randn(5, 40, requires_grad=True)
            for block in model:
                x = checkpoint(block, x, use_reentrant=reentrant)
            x.square().sum().backward()
            model.zero_grad()
    headers = [open_record(path).header for path in list_records(tmp_path)]
    assert [header.step for header in headers] == [0, 1]
    for header in headers:
        assert sorted(entry.name for entry in header.entries) == [f"{i}.weight" for i in range(3)]
        assert all(entry.flags == () and entry.n_tokens == 5 for entry in header.entries)
