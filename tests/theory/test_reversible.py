"""Gradients of reversible networks against automatic differentiation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from theory.reversible import (
    layer_views,
    log_softmax_form,
    log_softmax_gradient,
    logit_gradient,
    squared_loss_form,
)


def network(seed: int, size: float = 1.0) -> tuple[list[np.ndarray], np.ndarray, list[float]]:
    rng = np.random.default_rng(seed)
    shapes = [(5, 4), (6, 5), (3, 6)]
    return [size * rng.standard_normal(s) for s in shapes], rng.standard_normal(4), [0.0, 0.2, 1.0]


def autograd(weights, x, slopes, loss_of) -> list[np.ndarray]:
    """-∂L/∂W_l of leaky ReLU layers."""
    W = [torch.tensor(w, requires_grad=True) for w in weights]
    f = torch.tensor(x)
    for w, slope in zip(W, slopes, strict=True):
        f = torch.nn.functional.leaky_relu(w @ f, slope)
    loss_of(f).backward()
    return [-w.grad.numpy() for w in W]  # type: ignore[union-attr]


@pytest.mark.parametrize("seed", range(5))
def test_squared_loss(seed: int) -> None:
    weights, x, slopes = network(seed)
    y = np.random.default_rng(seed + 50).standard_normal(3)
    want = autograd(weights, x, slopes, lambda f: 0.5 * ((torch.tensor(y) - f) ** 2).sum())
    for view, G in zip(layer_views(weights, x, slopes), want, strict=True):
        form = squared_loss_form(view, y)
        found = form.constant - form.left @ view.weight @ form.right
        np.testing.assert_allclose(found, G, atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_log_softmax_is_exact_and_its_form_second_order(seed: int) -> None:
    errors = []
    for size in (0.2, 0.1):
        weights, x, slopes = network(seed, size)
        want = autograd(weights, x, slopes, lambda f: -torch.log_softmax(f, 0)[1])
        views = layer_views(weights, x, slopes)
        for view, G in zip(views, want, strict=True):
            np.testing.assert_allclose(log_softmax_gradient(view, 1), G, atol=1e-12)
        form = log_softmax_form(views[-1], 1).formula
        assert form is not None
        approximate = form.constant - form.left @ views[-1].weight @ form.right
        errors.append(np.linalg.norm(approximate - want[-1]) / np.linalg.norm(views[-1].activation))
    # logits scale as the third power of the weights, the error as their square
    assert errors[1] < errors[0] / 8


def test_worked_logits() -> None:
    found = logit_gradient([0.3, -0.2, 0.5, -0.1], 2)
    np.testing.assert_allclose(
        found.exact, [-0.28585693, -0.17338099, 0.65085356, -0.19161563], atol=1e-8
    )
    np.testing.assert_allclose(
        found.lemma.value, [-0.29202942, -0.17194536, 0.65993696, -0.19596217], atol=1e-8
    )
    assert found.gamma == pytest.approx(0.96067247, abs=1e-8)


def test_large_logits_are_no_case_for_the_lemma() -> None:
    found = logit_gradient([30.0, 0.0, 0.0], 0)
    assert not found.lemma.verdict.ok and found.lemma.value is None


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="label"):
        logit_gradient([1.0, 2.0], 2)
    with pytest.raises(ValueError, match="shape"):
        layer_views([np.ones((2, 3)), np.ones((2, 3))], np.ones(3), [1.0, 1.0])
