import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from analyzer.errors import UsageError
from analyzer.recorder import Recorder, list_records, open_record, read_record
from analyzer.spectral.count_sketch import count_sketch, sketch_cosine

NAMES = ["layers.0.weight", "layers.1.weight"]
TOKENS = 4 * 12


def train(model, optimizer, loss_of, batch, *, steps=5, accumulate=1, clip=False, grads=None):
    """Plain loop; `grads` collects a copy of what the optimizer gets at every step."""
    for step in range(steps):
        for part in range(accumulate):
            (loss_of(model, batch(100 * step + part)) / accumulate).backward()
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), 0.05)
        if grads is not None:
            grads.append({n: p.grad.clone() for n, p in model.named_parameters()})
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize(
    ("dropout", "accumulate", "clip", "with_probe"),
    [(0.0, 1, False, False), (0.0, 3, False, False), (0.3, 1, True, True), (0.3, 2, True, False)],
)
def test_training_is_the_same_bit_by_bit(
    tmp_path, make_net, net_loss, net_batch, dropout, accumulate, clip, with_probe
) -> None:
    ends = []
    for recorded in (False, True):
        model = make_net(dropout)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        options = {"every": 2}
        if with_probe:
            options["probe"] = lambda i, model=model: net_loss(model, net_batch(9000 + i))
        recorder = Recorder(model, optimizer, tmp_path, **options) if recorded else None
        train(model, optimizer, net_loss, net_batch, accumulate=accumulate, clip=clip)
        if recorder is not None:
            recorder.close()
        ends.append((model.state_dict(), optimizer.state_dict()["state"], torch.get_rng_state()))
    (weights, states, rng), (weights_2, states_2, rng_2) = ends
    assert len(list_records(tmp_path)) == 3
    assert torch.equal(rng, rng_2)
    assert all(torch.equal(weights[name], weights_2[name]) for name in weights)
    for i in states:
        assert all(torch.equal(states[i][key], states_2[i][key]) for key in states[i])


def one_pass_energy(G: np.ndarray, rank: int, seed: int) -> float:
    """‖QᵀG‖_F² of Q = orth(G GᵀΩ), Ω Gaussian (d, rank)."""
    A = G if G.shape[0] <= G.shape[1] else G.T
    start = np.random.default_rng(seed).standard_normal((A.shape[0], rank))
    Q = np.linalg.qr(A @ (A.T @ start))[0]
    return float(np.sum((Q.T @ A) ** 2))


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("clip", [False, True])
def test_numbers_are_those_of_the_gradient_the_optimizer_got(
    tmp_path, make_net, net_loss, net_batch, accumulate, clip
) -> None:
    model = make_net()
    optimizer = torch.optim.SGD(
        [{"params": model.embed.parameters(), "lr": 0.1},
         {"params": [*model.layers.parameters(), *model.lm_head.parameters()], "lr": 0.2}]
    )  # fmt: skip
    grads: list = []
    with Recorder(model, optimizer, tmp_path, every=2, rank=6, seed=3, accumulate=accumulate):
        train(model, optimizer, net_loss, net_batch, accumulate=accumulate, clip=clip, grads=grads)
    records = [read_record(path) for path in list_records(tmp_path)]
    assert [record.header.step for record in records] == [0, 2, 4]
    for record in records:
        header = record.header
        assert [entry.name for entry in header.entries] == NAMES
        assert header.learning_rates == (0.1, 0.2)
        assert (header.rank, header.seed, header.accum) == (6, 3, accumulate)
        for entry in header.entries:
            G = grads[header.step][entry.name].double().numpy()
            s = np.linalg.svd(G, compute_uv=False)
            found = record.arrays["train", entry.name]
            assert (entry.rows, entry.cols) == G.shape
            assert entry.side == ("left" if G.shape[0] <= G.shape[1] else "right")
            assert entry.n_tokens == accumulate * TOKENS
            assert entry.fro == pytest.approx(np.linalg.norm(G), rel=1e-6)
            # σ² ≤ s² ≤ σ² + ε, and as much is found as by one pass from a random start
            assert (found.sigma**2 <= s[:6] ** 2 * (1 + 1e-5)).all()
            assert (s[:6] ** 2 <= found.sigma**2 + entry.epsilon).all()
            assert np.sum(found.sigma**2) >= min(one_pass_energy(G, 6, seed) for seed in range(20))
            basis = found.basis.astype(float)
            assert np.allclose(basis.T @ basis, np.eye(6), atol=1e-5)
            inside = basis.T @ G if entry.side == "left" else G @ basis
            outside = np.linalg.norm(G) ** 2 - np.linalg.norm(inside) ** 2
            # ε holds what rounding may hide on top of the residual
            assert entry.epsilon == pytest.approx(outside, abs=1e-4 * np.linalg.norm(G) ** 2)
            expected = count_sketch(torch.from_numpy(G), 1024, 3).numpy()
            assert np.allclose(found.sketch, expected, rtol=1e-4, atol=1e-7)


def test_cosines_from_sketches(tmp_path, make_net, net_loss, net_batch) -> None:
    model = make_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    grads: list = []
    with Recorder(model, optimizer, tmp_path, every=1, sketch_width=2048):
        train(model, optimizer, net_loss, net_batch, steps=4, grads=grads)
    records = [read_record(path) for path in list_records(tmp_path)]
    for name in NAMES:
        for a in range(4):
            for b in range(a):
                pair = [grads[i][name].flatten() for i in (a, b)]
                exact = torch.cosine_similarity(*pair, 0)
                sketches = (torch.tensor(records[i].arrays["train", name].sketch) for i in (a, b))
                assert sketch_cosine(*sketches) == pytest.approx(float(exact), abs=4 / 2048**0.5)


def test_staleness_is_what_old_bases_capture(tmp_path, make_net, net_loss, net_batch) -> None:
    model = make_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    grads: list = []
    with Recorder(model, optimizer, tmp_path, every=3, rank=5):
        train(model, optimizer, net_loss, net_batch, steps=28, grads=grads)
    records = {r.header.step: r for r in map(read_record, list_records(tmp_path))}
    for step, record in records.items():
        for entry in record.header.entries:
            lags = {line.lag_steps: line for line in entry.staleness}
            assert len(lags) == len(entry.staleness)
            for lag, line in lags.items():
                # Lag 1 follows the record before; all others are of this record's gradient.
                made = step - 3 if lag == 1 else step - lag
                G = grads[made + lag][entry.name].double().numpy()
                P = records[made].arrays["train", entry.name].basis.astype(float)
                inside = P.T @ G if entry.side == "left" else G @ P
                expected = np.linalg.norm(inside) ** 2 / np.linalg.norm(G) ** 2
                assert line.captured == pytest.approx(expected, rel=1e-4)
                if lag != 1:
                    Q = record.arrays["train", entry.name].basis.astype(float)
                    assert line.overlap == pytest.approx(np.linalg.norm(P.T @ Q) ** 2 / 5, rel=1e-4)
    of_step = {s: [x.lag_steps for x in r.header.entries[0].staleness] for s, r in records.items()}
    assert of_step[0] == []
    assert of_step[3] == [1, 3]
    assert of_step[12] == [1, 3, 6, 12]  # renewed after 1, 2, 4 and 8 records
    assert of_step[24] == [1, 3, 6, 12, 24]
    assert of_step[27] == [1, 3]


def test_steps_count_from_where_a_run_resumes(tmp_path, make_net, net_loss, net_batch) -> None:
    model = make_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    with Recorder(model, optimizer, tmp_path, every=10, start_step=7):
        train(model, optimizer, net_loss, net_batch, steps=15)
    assert [open_record(path).header.step for path in list_records(tmp_path)] == [10, 20]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_and_zero_gradients(tmp_path, make_net, net_loss, net_batch, bad) -> None:
    model = make_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with Recorder(model, optimizer, tmp_path, every=1) as recorder:
        for step in range(3):
            net_loss(model, net_batch(step)).backward()
            if step == 1:
                model.layers[0].weight.grad[3, 4:6] = bad
                model.layers[1].weight.grad.zero_()
            optimizer.step()
            optimizer.zero_grad()
    assert recorder.step == 3
    files = [open_record(path) for path in list_records(tmp_path)]
    broken, zero = files[1].header.entries
    assert broken.flags == ("non_finite",)
    assert (broken.n_nan, broken.n_inf) == ((2, 0) if np.isnan(bad) else (0, 2))
    assert broken.fro is broken.epsilon is None and broken.staleness == ()
    assert zero.flags == ("zero_gradient",) and zero.fro == 0.0
    assert files[1].arrays(broken) is None and files[1].arrays(zero) is None


def test_a_weight_the_loss_does_not_reach(tmp_path, make_net, net_batch) -> None:
    model = make_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Recorder(model, optimizer, tmp_path):
        model.layers[0](model.embed(net_batch(0))).sum().backward()
        optimizer.step()
    reached, missed = open_record(list_records(tmp_path)[0]).header.entries
    assert reached.flags == () and missed.flags == ("no_gradient",)


def test_missing_gradients_fail_loudly(tmp_path, make_net) -> None:
    model = make_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Recorder(model, optimizer, tmp_path), pytest.raises(UsageError, match="backward"):
        optimizer.step()


def test_a_closure_fails_loudly(tmp_path, make_net, net_loss, net_batch) -> None:
    model = make_net()
    optimizer = torch.optim.LBFGS(model.parameters())

    def closure():
        optimizer.zero_grad()
        loss = net_loss(model, net_batch(0))
        loss.backward()
        return loss

    with Recorder(model, optimizer, tmp_path), pytest.raises(UsageError, match="closure"):
        optimizer.step(closure)


@pytest.mark.parametrize("fused", [False, True])
def test_grad_scaler(tmp_path, make_net, net_loss, net_batch, fused) -> None:
    """Recorded gradients are unscaled; a step with an overflow is neither recorded nor counted."""
    model = make_net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    exact = []
    with Recorder(model, optimizer, tmp_path, every=1):
        for step in range(3):
            loss = net_loss(model, net_batch(step))
            if step != 1:
                parameters = [model.layers[0].weight, model.layers[1].weight]
                exact.append(torch.autograd.grad(loss, parameters, retain_graph=True))
            scaler.scale(loss * (float("inf") if step == 1 else 1.0)).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
    records = [read_record(path) for path in list_records(tmp_path)]
    assert [record.header.step for record in records] == [0, 1]
    for record, gradients in zip(records, exact, strict=True):
        assert record.header.loss_scale == ((1024.0, 512.0)[record.header.step] if fused else 1.0)
        for entry, gradient in zip(record.header.entries, gradients, strict=True):
            assert entry.fro == pytest.approx(float(gradient.norm()), rel=1e-5)
            assert entry.n_tokens == TOKENS


def test_budget_doubles_the_distance_and_warns_once(
    tmp_path, make_net, net_loss, net_batch, caplog
) -> None:
    model = make_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with (
        caplog.at_level(logging.WARNING, "analyzer.recorder"),
        Recorder(model, optimizer, tmp_path, every=1, budget_ms=1e-3) as recorder,
    ):
        train(model, optimizer, net_loss, net_batch, steps=20)
        assert recorder.every > 4
    assert len(caplog.records) == 1
    assert len(list_records(tmp_path)) < 10
    with Recorder(model, optimizer, tmp_path / "rich", every=1, budget_ms=1e6) as recorder:
        train(model, optimizer, net_loss, net_batch, steps=6)
        assert recorder.every == 1


def test_a_closed_recorder_leaves_no_hooks(tmp_path, make_net, net_loss, net_batch) -> None:
    model = make_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = Recorder(model, optimizer, tmp_path)
    recorder.close()
    recorder.close()
    train(model, optimizer, net_loss, net_batch, steps=2)
    assert not list((tmp_path).iterdir())
    assert not optimizer._optimizer_step_pre_hooks
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_rank_other_than_zero_does_nothing(
    tmp_path, make_net, net_loss, net_batch, monkeypatch
) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    counts = []
    for rank in (0, 1):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        model = make_net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        folder = tmp_path / str(rank)
        with Recorder(model, optimizer, folder, every=1):
            assert bool(optimizer._optimizer_step_pre_hooks) == (rank == 0)
            train(model, optimizer, net_loss, net_batch, steps=1)
        counts.append(folder.exists())
    assert counts == [True, False]
    entry = open_record(list_records(tmp_path / "0")[0]).header.entries[0]
    assert entry.n_tokens == 2 * TOKENS  # the average over both ranks


def test_records_of_an_earlier_run_are_pointed_out(tmp_path, make_net, net_loss, net_batch, caplog):
    model = make_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Recorder(model, optimizer, tmp_path, every=1):
        train(model, optimizer, net_loss, net_batch, steps=3)
    with caplog.at_level(logging.WARNING, "analyzer.recorder"):
        Recorder(model, optimizer, tmp_path, start_step=3).close()
        assert not caplog.records
        Recorder(model, optimizer, tmp_path, start_step=1).close()
    assert "2 records from step 1 on" in caplog.text


@pytest.mark.parametrize(
    "options",
    [
        {"every": 0}, {"rank": 0}, {"sketch_width": 8}, {"side": "top"}, {"noise_batches": 1},
        {"budget_ms": 0.0}, {"hook": "step"}, {"accumulate": 0}, {"start_step": -1}, {"seed": -1},
        {"targets": "("}, {"targets": "nothing_like_this"},
        {"hook": "backward", "probe": lambda i: torch.zeros(())},
    ],
)  # fmt: skip
def test_options_that_make_no_sense(tmp_path: Path, make_net, options) -> None:
    model = make_net()
    with pytest.raises(UsageError):
        Recorder(model, torch.optim.SGD(model.parameters(), lr=0.1), tmp_path, **options)


def test_needs_the_optimizer(tmp_path, make_net) -> None:
    with pytest.raises(UsageError, match="optimizer"):
        Recorder(make_net(), None, tmp_path)


def test_autocast_around_the_step_changes_nothing(tmp_path, make_net, net_loss, net_batch) -> None:
    found = []
    for enabled in (False, True):
        model = make_net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with Recorder(model, optimizer, tmp_path / str(enabled), every=1):
            for step in range(2):
                net_loss(model, net_batch(step)).backward()
                with torch.autocast("cpu", enabled=enabled):
                    optimizer.step()
                optimizer.zero_grad()
        found.append([read_record(path) for path in list_records(tmp_path / str(enabled))])
    for plain, cast in zip(*found, strict=True):
        assert plain.header == cast.header
        for key, arrays in plain.arrays.items():
            assert np.array_equal(arrays.sketch, cast.arrays[key].sketch)


def test_bfloat16_gradients(tmp_path, make_net, net_loss, net_batch) -> None:
    model = make_net().to(torch.bfloat16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    grads: list = []
    with Recorder(model, optimizer, tmp_path, every=1):
        train(model, optimizer, net_loss, net_batch, steps=1, grads=grads)
    for entry in open_record(list_records(tmp_path)[0]).header.entries:
        assert entry.dtype == "bfloat16"
        assert entry.fro == pytest.approx(float(grads[0][entry.name].double().norm()), rel=1e-6)
