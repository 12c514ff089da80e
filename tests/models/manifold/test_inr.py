"""Implicit networks of weights: sizes, exact routing, losses, sampling, training, files."""

import copy
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.func import functional_call

import theory.implicit_weights as theory
from analyzer.errors import (
    CorruptFile,
    NonFinite,
    QuantUnknown,
    ShapeMismatch,
    UnsupportedFormat,
    UsageError,
)
from analyzer.models.manifold.groups import PermutationGroup, Site, blocks
from analyzer.models.manifold.inr import (
    ResidualMLP,
    TrainingSettings,
    WeightNetwork,
    design_for,
    evaluate,
    fit_implicit,
    generate,
    load_network,
    resized_shapes,
    sample,
    save_network,
    train_implicit,
)
from analyzer.models.manifold.inr.encoding import coordinates, normalised, positional_encoding
from analyzer.models.manifold.inr.losses import norm_penalty, reconstruction_loss
from analyzer.models.manifold.inr.network import seeded
from analyzer.models.manifold.inr.training import at_chance, update_average

FULL = 6


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def conv_net(width: int) -> nn.Sequential:
    """Kernels of 3 × 3 and 1 × 1, and a linear layer that reads flattened 2 × 2 maps."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, width, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4 * width, 3),
    )


GROUPS = (
    PermutationGroup(
        "a", "channels", FULL, (Site("0.weight", 0), Site("0.bias", 0), Site("2.weight", 1))
    ),
    PermutationGroup(
        "b",
        "channels",
        FULL,
        (Site("2.weight", 0), Site("2.bias", 0), Site("5.weight", 1, blocks(4))),
    ),
)


def weights_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def shapes_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in model.named_parameters()}


@pytest.fixture
def targets() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return weights_of(conv_net(FULL))


@pytest.fixture
def network(targets) -> WeightNetwork:
    return WeightNetwork(design_for(shapes_of(conv_net(FULL)), hidden=16, n_layers=3), seed=3)


def batches(n: int = 8, size: int = 16, seed: int = 0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, size, 1, 2, 2, generator=g)
    return [(one, one.flatten(1).mean(1).gt(0).long() + one[:, 0, 0, 0].gt(0.5)) for one in x]


# --- sizes, coordinates, encoding


@pytest.mark.parametrize(("kernel", "count"), [(3, 250_636), (5, 254_748)])
def test_published_parameter_counts(kernel, count):
    design = design_for({"w": (32, 16, kernel, kernel)}, n_freqs=16)
    assert (design.hidden, design.n_layers) == (256, 4)
    built = sum(p.numel() for p in WeightNetwork(design).parameters())
    assert built == design.inr_params == count
    assert design.model_params == 32 * 16 * kernel**2


def test_blocks_and_frequencies_follow_the_tensors(network):
    assert len(network.blocks) == 6
    assert network.design.output_dim == 9
    assert network.design.n_freqs == math.ceil(math.log2(4 * FULL))
    assert sum(p.numel() for p in network.parameters()) == network.design.inr_params


def test_coordinates_are_those_of_the_theory():
    for k, shape in enumerate([(5, 3), (4,), (6, 2, 3, 3)]):
        n = shape[0] * theory.fan_in(shape)
        exact = theory.raw_coordinates(k, shape, 3)
        raw = coordinates(k, shape, 3, torch.arange(n))
        np.testing.assert_array_equal(raw, exact.reshape(n, 6))
        np.testing.assert_array_equal(
            normalised(raw, 7.0), theory.normalised(exact, 7.0).reshape(n, 6)
        )


def test_worked_coordinate_and_encoding():
    raw = coordinates(2, (16, 8), 8, torch.tensor([5 * 8 + 3]))
    v = normalised(raw, 16.0)
    assert v.tolist() == [[0.25, 0.3125, 0.375, 0.5, 1.0, 0.5]]
    waves = [0.707107, 0.707107, 0.83147, 0.55557, 0.92388, 0.382683, 1, 0, 0, -1, 1, 0]
    encoded = positional_encoding(v, 1, 0, torch.float32)
    np.testing.assert_allclose(encoded[0], [*v[0].tolist(), *waves], atol=5e-7)


@pytest.mark.parametrize(("n_freqs", "first"), [(4, 0), (32, 0), (4, 28)])
def test_many_frequencies_stay_exact_in_float32(n_freqs, first):
    raw = coordinates(1, (48, 20), 3, torch.arange(960)) + 0.3
    v = normalised(raw, 48.0)
    encoded = positional_encoding(v, n_freqs, first, torch.float32)
    exact = theory.positional_encoding(v.numpy(), n_freqs, first)
    assert encoded.dtype == torch.float32
    np.testing.assert_allclose(encoded, exact, atol=1e-6)


def test_regression_of_a_smooth_function():
    u, v = (np.arange(24) + 0.5) / 24, (np.arange(16) + 0.5) / 16
    f = np.sin(2 * np.pi * u)[:, None] * np.cos(np.pi * v) + np.outer(u, v) / 2
    assert np.linalg.norm(f) == pytest.approx(10.9110784983)
    grid = np.stack(np.broadcast_arrays(2 * u[:, None] - 1, 2 * v - 1), axis=-1).reshape(-1, 2)
    encoded = positional_encoding(torch.from_numpy(grid), 4, 0, torch.float32)
    target = torch.from_numpy(f.reshape(-1, 1)).float()
    net = ResidualMLP(18, 64, 3, 1, seeded(0, "regression"))
    assert net.scales.tolist() == pytest.approx([0.1, 0.1])
    net.scales.requires_grad_(False)
    learned = [p for p in net.parameters() if p.requires_grad]
    assert sum(p.numel() for p in learned) == 9601
    optimizer = torch.optim.Adam(learned, lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 600)
    for _ in range(600):
        loss = ((net(encoded) - target / target.std()) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    off = (net(encoded).detach() * target.std() - target).norm() / target.norm()
    assert float(off) < 0.02


# --- generation


def test_forward_is_the_published_formula(network):
    """Against the formula written out in float64 NumPy, for each kind of tensor."""
    design, made = network.design, generate(network)
    for k, (name, shape) in enumerate(design.shapes):
        p = {n: v.detach().double().numpy() for n, v in network.blocks[k].named_parameters()}
        v = theory.normalised(theory.raw_coordinates(k, shape, 6), design.full_width)
        g = theory.positional_encoding(v, design.n_freqs)
        h = np.maximum(g @ p["first.weight"].T + p["first.bias"], 0)
        for layer in range(2):
            w, b = p[f"residual.{layer}.weight"], p[f"residual.{layer}.bias"]
            h = p["scales"][layer] * np.maximum(h @ w.T + b, 0) + h
        out = (h @ p["last.weight"].T + p["last.bias"]) / theory.fan_in(shape)
        if len(shape) == 4:
            out = out[..., theory.kernel_slice(9, shape[2] * shape[3])]
        else:
            out = out[..., 0]
        np.testing.assert_allclose(made[name].detach(), out.reshape(shape), atol=1e-6)


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_each_tensor_depends_on_its_own_block_alone(network, noise):
    made = generate(network, noise=noise, generator=seeded(0, "noise"))
    for k, (name, _) in enumerate(network.design.shapes):
        grads = torch.autograd.grad(
            made[name].square().sum(),
            list(network.parameters()),
            retain_graph=True,
            allow_unused=True,
        )
        owners = {
            full.split(".")[1]
            for (full, _), grad in zip(network.named_parameters(), grads, strict=True)
            if grad is not None
        }
        assert owners == {str(k)}


def output_layer(network: WeightNetwork, k: int) -> nn.Linear:
    layer = network.get_submodule(f"blocks.{k}.last")
    assert isinstance(layer, nn.Linear)
    return layer


def constant_blocks(network: WeightNetwork, answer: float | None = None) -> None:
    """Every block gives `answer`, by default block k gives k + 1, whatever it is asked."""
    with torch.no_grad():
        for k in range(len(network.blocks)):
            output_layer(network, k).weight.zero_()
            output_layer(network, k).bias.fill_(k + 1.0 if answer is None else answer)


def test_noise_leaves_routing_fan_in_and_sizes_unchanged(network):
    constant_blocks(network)
    made = generate(network, noise=1.0, generator=seeded(1, "noise"))
    for k, (name, shape) in enumerate(network.design.shapes):
        assert made[name].shape == shape
        expected = torch.full(shape, (k + 1.0) / theory.fan_in(shape))
        torch.testing.assert_close(made[name], expected, rtol=1e-6, atol=0)


def test_noise_reaches_the_encoding(network):
    still, moved = generate(network), generate(network, noise=1.0, generator=seeded(1, "noise"))
    assert all(not torch.equal(still[name], moved[name]) for name in still)
    again = generate(network, noise=1.0, generator=seeded(1, "noise"))
    assert all(torch.equal(again[name], moved[name]) for name in still)


def test_published_routing_asks_the_previous_block_half_of_the_time():
    design = design_for({"a": (4, 4), "b": (3000,), "c": (3000,)}, hidden=4, n_layers=1, n_freqs=1)
    network = WeightNetwork(design)
    constant_blocks(network)
    made = generate(network, noise=1.0, generator=seeded(2, "noise"), published_routing=True)
    # a bias is divided by U(0.5, 1.5): 3 by block 2 becomes 2 to 6, 2 by block 1 becomes 4/3 to 4
    c = made["c"].detach()
    assert c.min() < 1.5 and c.max() > 5.0
    lower, upper = 4.0 / 3.0, 6.0
    assert c.min() >= lower - 1e-4 and c.max() <= upper + 1e-4
    # the owner follows from the mean: E[1/U] = ln 3
    share = (3 - float(c.mean()) / math.log(3.0)) / (3 - 2)
    assert share == pytest.approx(0.5, abs=0.05)
    exact = generate(network, published_routing=True)
    torch.testing.assert_close(exact["c"].detach(), torch.full((3000,), 3.0))


def test_published_routing_without_noise_is_exact(network):
    plain, published = generate(network), generate(network, published_routing=True)
    for name, value in plain.items():
        torch.testing.assert_close(published[name], value, rtol=1e-5, atol=1e-7)


def test_width_changes_hidden_widths_only(network):
    full = dict(network.design.shapes)
    for width in (2, 4, FULL, 9):
        shapes = resized_shapes(full, GROUPS, {"a": width, "b": width})
        assert shapes == shapes_of(conv_net(width))
        made = generate(network, shapes)
        conv_net(width).load_state_dict(made)
    only_b = resized_shapes(full, GROUPS, {"b": 2})
    assert only_b["0.weight"] == full["0.weight"] and only_b["2.weight"] == (2, FULL, 1, 1)
    assert only_b["5.weight"] == (3, 8) and full["5.weight"] == (3, 24)


def test_refused_shapes(network):
    full = dict(network.design.shapes)
    with pytest.raises(ShapeMismatch, match=r"0\.weight.*more than width"):
        generate(network, full | {"0.weight": (6, 1, 5, 5)})
    with pytest.raises(UsageError, match="names differ"):
        generate(network, {"0.weight": (6, 1, 3, 3)})
    with pytest.raises(UsageError, match="noise"):
        generate(network, noise=2.0)
    with pytest.raises(UsageError, match="'c'"):
        resized_shapes(full, GROUPS, {"c": 4})
    experts = PermutationGroup("e", "mlp", 4, (Site("0.weight", 0, index=1),))
    with pytest.raises(UsageError, match="experts"):
        resized_shapes(full, [experts], {"e": 2})
    with pytest.raises(UsageError, match="no channels"):
        design_for({"scale": ()})


def test_pieces_of_large_tensors_fit_together(network, monkeypatch):
    whole = generate(network)
    monkeypatch.setattr("analyzer.models.manifold.inr.generation.PAIRS_AT_ONCE", 7)
    for name, value in generate(network).items():
        torch.testing.assert_close(value, whole[name], rtol=1e-5, atol=1e-7)


def test_sample_is_the_mean_with_a_first_generation_without_noise(network):
    plain = {name: value.detach() for name, value in generate(network).items()}
    assert all(torch.equal(v, plain[n]) for n, v in sample(network, k=1, noise=1.0).items())
    three = sample(network, k=3, noise=1.0, seed=5)
    stream = seeded(5, "manifold sampling")
    noisy = [generate(network, noise=1.0, generator=stream) for _ in range(2)]
    for name, value in three.items():
        mean = (plain[name].double() + sum(d[name].detach().double() for d in noisy)) / 3
        torch.testing.assert_close(value, mean.float())
        assert not value.requires_grad
    with pytest.raises(UsageError, match="at least 1"):
        sample(network, k=0)


# --- losses


def test_losses_equal_the_theory(targets):
    worked = reconstruction_loss(
        {"w": torch.tensor([1.5, -1.0, 0.0])}, {"w": torch.tensor([1.0, -2.0, 0.5])}
    )
    assert float(worked) == pytest.approx(0.3958333, abs=1e-6)
    made = {name: value + 0.1 * torch.randn_like(value) for name, value in targets.items()}
    exact = theory.reconstruction_loss(list(made.values()), list(targets.values()))
    assert float(reconstruction_loss(made, targets)) == pytest.approx(exact, rel=1e-5)
    penalty = theory.norm_penalty(list(made.values()))
    assert float(norm_penalty(made.values())) == pytest.approx(penalty, rel=1e-5)


# --- reconstruction


def test_reconstruction_needs_no_data_and_reports_sizes(targets):
    design = design_for(shapes_of(conv_net(FULL)), hidden=32, n_layers=3)
    seen = []
    fit = fit_implicit(
        targets,
        design=design,
        steps=300,
        learning_rate=5e-3,
        progress=lambda step, loss: seen.append((step, loss)),
    )
    assert [step for step, _ in seen] == list(range(1, 301))
    assert fit.losses == tuple(loss for _, loss in seen)
    made = generate(fit.network)
    for name, error in fit.rel_fro.items():
        off = np.linalg.norm((made[name].detach() - targets[name]).numpy())
        assert error == pytest.approx(off / np.linalg.norm(targets[name].numpy()), rel=1e-4)
        assert error is not None and error < 0.25
    assert fit.diverged == ()
    assert fit.losses[0] == pytest.approx(
        theory.reconstruction_loss(
            [v.detach().numpy() for v in generate(WeightNetwork(design, 0)).values()],
            [v.numpy() for v in targets.values()],
        ),
        rel=1e-4,
    )
    assert (fit.inr_params, fit.model_params) == (
        sum(p.numel() for p in fit.network.parameters()),
        sum(p.numel() for p in targets.values()),
    )


def test_reconstruction_seeds_and_pieces(targets, monkeypatch):
    design = design_for(shapes_of(conv_net(FULL)), hidden=8, n_layers=2)
    state = torch.get_rng_state()
    one, two, other = (fit_implicit(targets, design=design, steps=5, seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert one.losses == two.losses != other.losses
    monkeypatch.setattr("analyzer.models.manifold.inr.reconstruction.PAIRS_AT_ONCE", 11)
    pieces = fit_implicit(targets, design=design, steps=200, learning_rate=5e-3)
    assert np.mean(pieces.losses[-20:]) < 0.5 * pieces.losses[0]


def test_other_widths_are_fitted_too(targets):
    """Without them the network says at another width what it was never asked to."""
    torch.manual_seed(1)
    narrow = weights_of(conv_net(3)) | {"5.bias": targets["5.bias"]}  # one set of coordinates
    design = design_for(shapes_of(conv_net(FULL)), hidden=32, n_layers=3)
    errors = {}
    for others in ((), (narrow,)):
        fit = fit_implicit(targets, others=others, design=design, steps=400, learning_rate=1e-2)
        assert all(e is not None and e < 0.5 for e in fit.rel_fro.values())  # at full width
        made = generate(fit.network, shapes_of(conv_net(3)))
        errors[len(others)] = [
            float((made[name] - w).detach().norm() / w.norm())
            for name, w in narrow.items()
            if name != "5.bias"
        ]
    assert max(errors[1]) < 0.35 and min(errors[0]) > 1.0  # worse than zeros
    with pytest.raises(UsageError, match="names differ"):
        fit_implicit(targets, others=[{"0.bias": targets["0.bias"]}])
    with pytest.raises(ShapeMismatch, match=r"5\.bias"):
        fit_implicit(targets, others=[narrow | {"5.bias": torch.zeros(3, 1)}])


def test_divergence_and_zero_tensors_are_reported(targets):
    small = {"w": torch.full((4, 3), 1e-3), "z": torch.zeros(5)}
    fit = fit_implicit(small, steps=0, design=design_for({"w": (4, 3), "z": (5,)}, hidden=8))
    assert fit.diverged == ("w",) and fit.rel_fro["z"] is None
    assert fit.rel_fro["w"] is not None and fit.rel_fro["w"] > 1.0
    wild = fit_implicit(targets, steps=50, learning_rate=1e20)
    assert not math.isfinite(wild.losses[-1]) and len(wild.losses) < 50
    assert wild.diverged == tuple(targets) and wild.rel_fro["0.weight"] == math.inf


def test_targets_that_cannot_be_fitted(targets):
    with pytest.raises(QuantUnknown, match=r"0\.bias"):
        fit_implicit(targets | {"0.bias": torch.ones(6, dtype=torch.int8)})
    with pytest.raises(NonFinite, match=r"0\.bias: 1 NaN and 1 infinite.*flat index 1"):
        fit_implicit(targets | {"0.bias": torch.tensor([0.0, math.nan, math.inf, 0.0, 0.0, 0.0])})
    with pytest.raises(UsageError, match="other tensors"):
        fit_implicit(targets, design=design_for({"w": (2, 2)}))


# --- training

QUICK = TrainingSettings(steps=1, coordinate_noise=0.0, ce_ramp=0.0, abort_at_chance=False)


def test_evaluation_equals_a_loaded_model(network):
    shapes = shapes_of(conv_net(4))
    made = generate(network, shapes)
    model = conv_net(4)
    before = weights_of(model)
    found = evaluate(model, made, batches())
    assert all(torch.equal(value, before[name]) for name, value in weights_of(model).items())
    model.load_state_dict(made)
    x, y = (torch.cat(part) for part in zip(*batches(), strict=True))
    with torch.no_grad():
        logits = model(x)
    assert found.n == len(y)
    assert found.loss == pytest.approx(float(nn.functional.cross_entropy(logits, y)), rel=1e-5)
    assert found.accuracy == pytest.approx(float((logits.argmax(1) == y).float().mean()))
    with pytest.raises(UsageError, match="no batch"):
        evaluate(model, made, [])


def test_loss_is_the_sum_of_its_parts(network, targets):
    settings = replace(QUICK, ce_weight=2.0, recon_weight=3.0, reg_weight=0.5)
    (step,) = train_implicit(network, targets, conv_net, [FULL], batches(), settings).trace
    made = generate(network)
    arrays = [value.detach().numpy() for value in made.values()]
    recon = theory.reconstruction_loss(arrays, [value.numpy() for value in targets.values()])
    ce = evaluate(conv_net(FULL), made, batches()[:1]).loss
    assert step.recon == pytest.approx(recon, rel=1e-4)
    assert step.ce == pytest.approx(ce, rel=1e-5)
    total = 2.0 * ce + 3.0 * recon + 0.5 * theory.norm_penalty(arrays)
    assert step.loss == pytest.approx(total, rel=1e-5)


def test_reconstruction_counts_at_full_width_only(network, targets):
    settings = replace(QUICK, steps=40)
    done = train_implicit(network, targets, conv_net, [3, 4, FULL], batches(), settings)
    assert {step.width for step in done.trace} == {3, 4, FULL}
    assert all((step.recon is not None) == (step.width == FULL) for step in done.trace)
    with pytest.raises(UsageError, match="none of the widths"):
        train_implicit(network, targets, conv_net, [3, 4], batches(), settings)


def test_task_loss_is_ramped_in_and_reconstruction_can_fade(network, targets):
    settings = replace(
        QUICK, steps=10, learning_rate=0.0, weight_decay=0.0, reg_weight=0.0, ce_ramp=0.4
    )
    settings = replace(settings, recon_weight=50.0, recon_decay=0.5)
    done = train_implicit(network, targets, conv_net, [FULL], batches(), settings)
    for step in done.trace:
        assert step.recon is not None
        ce_weight = min(1.0, (step.step + 1) / 4)
        recon_weight = 50.0 * max(0.0, 1 - step.step / 5)
        assert step.loss == pytest.approx(ce_weight * step.ce + recon_weight * step.recon, rel=1e-5)


def test_average_of_weights():
    mean, value = nn.Linear(2, 2), nn.Linear(2, 2)
    start = [p.detach().clone() for p in mean.parameters()]
    for _ in range(2):
        update_average(list(mean.parameters()), list(value.parameters()), 0.995)
    for old, now, new in zip(start, mean.parameters(), value.parameters(), strict=True):
        torch.testing.assert_close(now.data, 0.995**2 * old + (1 - 0.995**2) * new.data)


def test_training_returns_the_average_of_its_steps(network, targets):
    raw, averaged = (
        train_implicit(
            network, targets, conv_net, [FULL], batches(), replace(QUICK, ema_decay=decay)
        ).network
        for decay in (0.0, 0.9)
    )
    for start, last, mean in zip(
        network.parameters(), raw.parameters(), averaged.parameters(), strict=True
    ):
        torch.testing.assert_close(mean.data, 0.9 * start.data + 0.1 * last.data)
    moved = [
        float((a - b).detach().abs().max())
        for a, b in zip(network.parameters(), raw.parameters(), strict=True)
    ]
    assert max(moved) > 5e-4  # the first step of Adam is the learning rate


def test_steps_are_those_of_a_loop_written_out(network, targets):
    """AdamW with decoupled decay on gradients clipped by value, three steps at full width."""
    settings = replace(QUICK, steps=3, weight_decay=0.5, clip=1e-4, ema_decay=0.0)
    kept = []
    own = copy.deepcopy(network)
    optimizer = torch.optim.AdamW(own.parameters(), lr=1e-3, weight_decay=0.5)
    for (x, y), rate in zip(batches(), (1e-3, 1e-3, 1e-5), strict=False):
        optimizer.param_groups[0]["lr"] = rate  # both milestones of 3 steps come after the second
        made = generate(own)
        loss = nn.functional.cross_entropy(functional_call(conv_net(FULL), made, (x,)), y)
        loss = loss + reconstruction_loss(made, targets) + 1e-4 * norm_penalty(made.values())
        kept.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        clipped = 0
        for p in own.parameters():
            assert p.grad is not None
            clipped += int((p.grad.abs() > 1e-4).sum())
            p.grad.clamp_(-1e-4, 1e-4)
        assert clipped > 0
        optimizer.step()
    done = train_implicit(network, targets, conv_net, [FULL], batches(), settings)
    assert [step.loss for step in done.trace] == pytest.approx(kept, rel=1e-5)
    for mine, theirs in zip(own.parameters(), done.network.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=2e-6)


def test_published_schedule(network, targets):
    """Adam moves a parameter with a steady gradient by the learning rate in every step."""
    dead = copy.deepcopy(network)
    constant_blocks(dead, 100.0)
    settings = replace(QUICK, weight_decay=0.0, ema_decay=0.0, ce_weight=0.0, recon_weight=0.0)
    settings = replace(settings, reg_weight=1.0)  # the norm's gradient keeps its sign and size
    places = []
    for steps in (4, 8):
        done = train_implicit(
            dead, targets, conv_net, [FULL], batches(), replace(settings, steps=steps)
        )
        places.append(100.0 - output_layer(done.network, 1).bias[0].item())
    # a half of the steps at 1e-3, a quarter at a tenth of it, a quarter at a hundredth
    assert places == pytest.approx([1e-3 * (2 + 0.1 + 0.01), 1e-3 * (4 + 0.2 + 0.02)], rel=0.02)


def test_training_learns_at_every_width_and_reproduces(targets):
    design = design_for(shapes_of(conv_net(FULL)), hidden=32, n_layers=3)
    start = fit_implicit(targets, design=design, steps=200, learning_rate=5e-3).network
    settings = TrainingSettings(steps=400, coordinate_noise=0.0, learning_rate=3e-3)
    seen = []
    one = train_implicit(
        start, targets, conv_net, [3, 4, FULL], batches(), settings, seed=4, progress=seen.append
    )
    assert one.status == "ok" and one.trace == tuple(seen) and len(seen) == 400
    for width in (3, 4, FULL):
        made = generate(one.network, shapes_of(conv_net(width)))
        assert (
            evaluate(conv_net(width), made, batches()).accuracy > 0.65
        )  # the largest class has 0.39
    assert (one.inr_params, one.model_params) == (design.inr_params, design.model_params)
    short = replace(settings, steps=5, coordinate_noise=1.0)
    runs = [
        train_implicit(start, targets, conv_net, [3, FULL], batches(), short, seed=seed)
        for seed in (7, 7, 8)
    ]
    assert runs[0].trace == runs[1].trace != runs[2].trace


def test_training_stops_at_chance(network, targets):
    assert at_chance([math.log(3) * 1.009, math.log(3) * 0.995], 3)
    assert not at_chance([math.log(3) * 1.011], 3) and not at_chance([math.log(3) * 0.98], 3)
    constant_blocks(network, 0.0)
    settings = TrainingSettings(steps=50, learning_rate=1e-9)
    done = train_implicit(network, targets, conv_net, [3, FULL], batches(), settings)
    assert done.status == "at_chance" and len(done.trace) == 5
    through = train_implicit(
        network, targets, conv_net, [FULL], batches(), replace(settings, abort_at_chance=False)
    )
    assert through.status == "at_chance" and len(through.trace) == 50


class Guesses(nn.Module):
    """Inputs are the logits: the data say what the loss is."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(2, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 0.0 * self.w.sum()


def test_only_the_end_of_a_tenth_decides():
    even, sure = torch.zeros(4, 3), torch.tensor([[9.0, 0.0, 0.0]]).repeat(4, 1)
    right, wrong = torch.zeros(4, dtype=torch.long), torch.ones(4, dtype=torch.long)
    targets = {"w": torch.ones(2, 1)}
    start = fit_implicit(targets, steps=0, design=design_for({"w": (2, 1)}, hidden=4)).network
    for data, status, steps in (
        ([(sure, wrong)] * 2 + [(even, right)] * 2, "at_chance", 4),
        ([(even, right)] * 2 + [(sure, right)] * 2, "ok", 40),
        ([(sure, right)] * 16 + [(even, right)] * 4, "at_chance", 20),
    ):
        done = train_implicit(
            start, targets, lambda _: Guesses(), [1], data, TrainingSettings(steps=40)
        )
        assert (done.status, len(done.trace)) == (status, steps)


def test_training_reports_divergence(network, targets):
    x, y = batches()[0]
    done = train_implicit(
        network, targets, conv_net, [FULL], [(x * math.inf, y)], replace(QUICK, steps=9)
    )
    assert done.status == "diverged" and len(done.trace) == 1
    same = zip(done.network.parameters(), network.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in same)


def test_part_of_a_model_can_be_generated(targets):
    chosen = {name: targets[name] for name in ("2.weight", "2.bias")}
    start = fit_implicit(chosen, steps=0).network
    model = conv_net(FULL)
    before = weights_of(model)
    train_implicit(start, chosen, lambda _: model, [FULL], batches(), replace(QUICK, steps=3))
    assert all(torch.equal(value, before[name]) for name, value in weights_of(model).items())
    with pytest.raises(UsageError, match=r"2\.weight: the model has no such parameter"):
        train_implicit(start, chosen, lambda _: conv_net(FULL)[:2], [FULL], batches(), QUICK)


def test_refused_training(network, targets):
    def run(settings=QUICK, data=None, widths=(FULL,)):
        data = batches() if data is None else data
        train_implicit(network, targets, conv_net, widths, data, settings)

    for bad in ({"steps": 0}, {"ema_decay": 1.0}, {"clip": 0.0}, {"ce_ramp": 1.5}):
        with pytest.raises(UsageError):
            run(replace(QUICK, **bad))
    with pytest.raises(UsageError, match="negative"):
        run(replace(QUICK, ce_weight=-1.0))
    with pytest.raises(UsageError, match="no batch"):
        run(data=[])
    with pytest.raises(UsageError, match="no batch"):
        run(replace(QUICK, steps=20), data=iter(batches()))
    with pytest.raises(UsageError, match="at least one width"):
        run(widths=())


# --- files


def test_saved_networks_generate_the_same_bits(network, tmp_path):
    path = tmp_path / "inr.safetensors"
    save_network(network, path)
    loaded = load_network(path)
    assert loaded.design == network.design
    shapes = shapes_of(conv_net(4))
    for name, value in generate(network, shapes).items():
        assert torch.equal(value, generate(loaded, shapes)[name])
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
    assert int(header["inr_params"]) == network.design.inr_params
    assert int(header["model_params"]) == network.design.model_params
    assert [p.name for p in tmp_path.iterdir()] == ["inr.safetensors"]


def test_files_that_cannot_be_read(network, tmp_path):
    path = tmp_path / "inr.safetensors"
    with pytest.raises(UsageError, match="no such file"):
        load_network(path)
    with pytest.raises(UsageError, match="cannot be written"):
        save_network(network, tmp_path / "absent" / "inr.safetensors")
    save_file({"w": torch.ones(2)}, path)
    with pytest.raises(UnsupportedFormat):
        load_network(path)
    save_network(network, path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(CorruptFile):
        load_network(path)
    path.write_bytes(content)
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    design = json.loads(header["design"])
    for change in ({"hidden": 15}, {"surprise": 1}, {"shapes": [["w"]]}):
        save_file(tensors, path, header | {"design": json.dumps(design | change)})
        with pytest.raises(CorruptFile):
            load_network(path)
