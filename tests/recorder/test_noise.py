import numpy as np
import pytest
import torch
from torch import nn

from analyzer.errors import UsageError
from analyzer.recorder import Recorder, list_records, read_record

NAMES = ["layers.0.weight", "layers.1.weight"]


def one_step(model, optimizer, loss_of, batch) -> None:
    loss_of(model, batch(0)).backward()
    optimizer.step()


def test_noise_ceiling_equals_the_direct_computation(
    tmp_path, make_net, net_loss, net_batch
) -> None:
    model = make_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = [net_batch(50 + i, size=3 + i) for i in range(3)]
    weights = [model.layers[0].weight, model.layers[1].weight]
    A, B, C = (
        [g.double().numpy() for g in torch.autograd.grad(net_loss(model, x), weights)]
        for x in batches
    )
    with Recorder(model, optimizer, tmp_path, rank=7, probe=lambda i: net_loss(model, batches[i])):
        one_step(model, optimizer, net_loss, net_batch)
    record = read_record(list_records(tmp_path)[0])
    probes = {e.name: e for e in record.header.entries if e.batch == "probe"}
    assert [e.name for e in record.header.noise] == list(probes) == NAMES
    for i, noise in enumerate(record.header.noise):
        assert probes[noise.name].fro == pytest.approx(np.linalg.norm(A[i]), rel=1e-6)
        assert probes[noise.name].n_tokens == 3 * 12
        assert noise.n_tokens == 4 * 12
        assert noise.dot_bc == pytest.approx(np.vdot(B[i], C[i]), rel=1e-4)
        assert noise.norm_b == pytest.approx(np.linalg.norm(B[i]), rel=1e-6)
        assert noise.norm_c == pytest.approx(np.linalg.norm(C[i]), rel=1e-6)
        basis = record.arrays["probe", noise.name].basis.astype(float)
        left = probes[noise.name].side == "left"
        found = record.noise[noise.name]
        assert found.cv.shape == found.out.shape == (7,)
        for r in range(1, 8):
            P = basis[:, :r]
            b, c = (P.T @ B[i], P.T @ C[i]) if left else (B[i] @ P, C[i] @ P)
            scale = noise.norm_b * noise.norm_c
            assert found.cv[r - 1] == pytest.approx(np.vdot(b, c), abs=1e-6 * scale)
            assert found.out[r - 1] == pytest.approx(np.linalg.norm(b) ** 2, rel=1e-5)
        # B was not seen by the basis of A: less of it lies inside than of A itself
        assert found.out[-1] / noise.norm_b**2 < 1 - probes[noise.name].epsilon / A[i].size


def test_without_noise_batches_only_the_fixed_batch_is_asked_for(
    tmp_path, make_net, net_loss, net_batch
) -> None:
    model = make_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    asked = []

    def probe(i):
        asked.append(i)
        return net_loss(model, net_batch(50 + i))

    with Recorder(model, optimizer, tmp_path, probe=probe, noise_batches=0):
        one_step(model, optimizer, net_loss, net_batch)
    record = read_record(list_records(tmp_path)[0])
    assert asked == [0]
    assert record.header.noise == () and len(record.header.entries) == 4


def test_probes_leave_gradients_buffers_and_generators_alone(tmp_path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Dropout(0.5), nn.Flatten(),
        nn.Linear(8 * 36, 40), nn.Linear(40, 5),
    )  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    images = torch.randn(4, 6, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    with Recorder(
        model, optimizer, tmp_path, every=1, probe=lambda i: model(images[i]).square().mean()
    ):
        for _ in range(2):
            model(images[3]).square().mean().backward()
            buffers = {n: b.clone() for n, b in model.named_buffers()}
            grads = [p.grad.clone() for p in model.parameters()]
            rng = torch.get_rng_state()
            optimizer.step()
            assert all(torch.equal(b, buffers[n]) for n, b in model.named_buffers())
            assert all(
                torch.equal(p.grad, g) for p, g in zip(model.parameters(), grads, strict=True)
            )
            assert torch.equal(torch.get_rng_state(), rng)
            optimizer.zero_grad()
    first, second = (read_record(path).header for path in list_records(tmp_path))
    assert [e.cols for e in first.entries if e.name == "0.weight"] == [27, 27]
    # The weights do not move here, so a probe with dropout sees the same masks twice.
    for a, b in zip(first.entries, second.entries, strict=True):
        if a.batch == "probe":
            assert a.fro == b.fro
    assert first.noise == second.noise


def test_an_embedding_probe_is_not_counted_as_tokens_of_the_step(
    tmp_path, make_net, net_loss, net_batch
) -> None:
    model = make_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Recorder(
        model, optimizer, tmp_path, every=1, probe=lambda i: net_loss(model, net_batch(i, size=9))
    ):
        for _ in range(2):
            one_step(model, optimizer, net_loss, net_batch)
            optimizer.zero_grad()
    for path in list_records(tmp_path):
        counts = {(e.batch, e.n_tokens) for e in read_record(path).header.entries}
        assert counts == {("train", 48), ("probe", 108)}


@pytest.mark.parametrize("result", [1.5, torch.zeros(()), torch.ones(2, requires_grad=True)])
def test_a_probe_without_a_loss_is_refused(tmp_path, make_net, net_loss, net_batch, result) -> None:
    model = make_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with (
        Recorder(model, optimizer, tmp_path, probe=lambda i: result),
        pytest.raises(UsageError, match=r"probe\(0\)"),
    ):
        one_step(model, optimizer, net_loss, net_batch)
