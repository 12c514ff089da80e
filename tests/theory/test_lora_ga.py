"""LoRA-GA against worked digits, random competitors, a real SGD step and PEFT's own module."""

import numpy as np
import pytest
import torch

from theory.lora_ga import (
    explained_energy,
    first_step,
    lora_ga_init,
    peft_lora_ga_init,
    start_weight,
)


def closed(m, n, a=1.0, b=0.37, c=0.0):
    i, j = np.arange(1, m + 1)[:, None], np.arange(1, n + 1)[None]
    return np.sin(a * i * np.sqrt(j) + b * j + c)


def test_worked_case():
    init = lora_ga_init(closed(6, 8), 2)
    assert init.eta == pytest.approx(11.31370850, abs=5e-9)
    assert init.zeta == pytest.approx(19.59591794, abs=5e-9)
    assert np.linalg.norm(init.A[0]) == pytest.approx(0.39127115, abs=5e-9)
    assert init.error == pytest.approx(28.36453138, abs=5e-9)
    assert init.optimum == pytest.approx(28.36453138, abs=5e-9)
    W = closed(6, 8, c=1.0)
    moved = start_weight(W, init) - W
    assert np.linalg.norm(moved) == pytest.approx(2.44948974, abs=5e-9)
    np.testing.assert_allclose(start_weight(W, init) + init.eta * init.B @ init.A, W, atol=1e-14)


@pytest.mark.parametrize("shape", [(6, 8), (9, 5), (7, 7)])
def test_no_competitor_is_better(shape):
    rng = np.random.default_rng(0)
    G, r = rng.standard_normal(shape), 2
    init = lora_ga_init(G, r, alpha=8.0, gamma=4.0)
    assert init.error == pytest.approx(init.optimum, rel=1e-9)
    assert init.relative_error == pytest.approx(init.relative_optimum, rel=1e-9)
    for trial in range(300):
        size = 10.0 ** rng.uniform(-3, 0) if trial % 2 else 0.0  # near the optimum, or anywhere
        near = size > 0.0
        A = size * rng.standard_normal(init.A.shape) + init.A * near
        B = size * rng.standard_normal(init.B.shape) + init.B * near
        if not near:
            A, B = (0.7 * rng.standard_normal(x.shape) for x in (A, B))
        error = np.linalg.norm(init.eta**2 * first_step(G, A, B) - init.zeta * G)
        assert error >= init.error * (1 - 1e-12)


def test_first_step_is_what_gradient_descent_does():
    init = lora_ga_init(closed(6, 8), 2)
    A = torch.tensor(init.A, requires_grad=True)
    B = torch.tensor(init.B, requires_grad=True)
    G, lr = torch.tensor(closed(6, 8)), 1e-6
    (G * (init.eta * B @ A)).sum().backward()
    assert A.grad is not None and B.grad is not None
    moved = init.eta * ((B - lr * B.grad) @ (A - lr * A.grad) - B @ A)
    expected = -lr * init.eta**2 * first_step(G.numpy(), init.A, init.B)
    np.testing.assert_allclose(moved.detach().numpy(), expected, rtol=1e-3, atol=1e-9)


def test_peft_variant_is_peft_s_and_misses_the_optimum():
    from peft import LoraConfig, LoraGAConfig, get_peft_model

    G = closed(10, 12)
    model = torch.nn.Sequential(torch.nn.Linear(12, 10, bias=False))
    model[0]._peft_loraga_grad = torch.tensor(G, dtype=torch.float32)
    config = LoraConfig(
        r=2, lora_alpha=16, target_modules=["0"], init_lora_weights="lora_ga",
        lora_ga_config=LoraGAConfig(),
    )  # fmt: skip
    torch.manual_seed(0)  # its SVD is randomised
    layer = get_peft_model(model, config).base_model.model[0]
    A = layer.lora_A["default"].weight.detach().double().numpy()
    B = layer.lora_B["default"].weight.detach().double().numpy()
    ours = peft_lora_ga_init(G, 2, alpha=16.0, gamma=16.0)
    assert ours.eta == layer.scaling["default"]
    np.testing.assert_allclose(first_step(G, ours.A, ours.B), first_step(G, A, B), rtol=2e-3)
    assert ours.relative_error > 1.05 * ours.relative_optimum
    assert ours.error > ours.optimum
    assert peft_lora_ga_init(G, 2, rank_stabilised=True).eta == lora_ga_init(G, 2).eta


def test_explained_energy():
    s = [4.0, 3.0, 2.0, 1.0]
    assert explained_energy(s, 1) == pytest.approx(25 / 30)
    assert explained_energy(s, 3) == 1.0
    assert explained_energy([0.0, 0.0], 1) is None
    G = closed(6, 8)
    init = lora_ga_init(G, 2)
    energy = explained_energy(np.linalg.svd(G, compute_uv=False), 2)
    assert init.relative_error == pytest.approx(np.sqrt(1 - energy), rel=1e-9)
    for rank in (0, 5):
        with pytest.raises(ValueError, match=f"1..4, got {rank}"):
            explained_energy(s, rank)


def test_edges_and_bad_input():
    exact = lora_ga_init(np.outer(np.ones(6), np.arange(1.0, 9.0)), 2)
    assert exact.error < 1e-9 and exact.relative_error < 1e-12
    zero = lora_ga_init(np.zeros((6, 8)), 2)
    assert zero.error == 0.0 and zero.relative_error is None and zero.relative_optimum is None
    with pytest.raises(ValueError, match=r"at most 3, half of the short side of a 6 x 8 .* got 4"):
        lora_ga_init(closed(6, 8), 4)
    with pytest.raises(ValueError, match=r"1..6 for a 6 x 8 matrix, got 0"):
        lora_ga_init(closed(6, 8), 0)
    with pytest.raises(ValueError, match=r"must be positive, got 16\.0 and 0\.0"):
        lora_ga_init(closed(6, 8), 2, gamma=0.0)
