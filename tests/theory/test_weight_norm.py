"""Weight-norm gradients against autograd."""

import numpy as np
import pytest
import torch

from theory.weight_norm import weight_norm_gradients


def test_against_autograd():
    rng = np.random.default_rng(0)
    V = torch.tensor(rng.standard_normal((5, 7)), requires_grad=True)
    g = torch.tensor(rng.standard_normal(5), requires_grad=True)
    X, Y = torch.tensor(rng.standard_normal((7, 11))), torch.tensor(rng.standard_normal((5, 11)))
    W = g[:, None] * V / V.norm(dim=1, keepdim=True)
    W.retain_grad()
    ((W @ X - Y) ** 2).mean().backward()
    found = weight_norm_gradients(V.detach().numpy(), g.detach().numpy(), W.grad.numpy())
    np.testing.assert_allclose(found.magnitude, g.grad.numpy(), atol=1e-14)
    np.testing.assert_allclose(found.direction, V.grad.numpy(), atol=1e-14)
    along = np.sum(found.direction * V.detach().numpy(), axis=1)
    np.testing.assert_allclose(along, 0.0, atol=1e-14)


def test_bad_input():
    V = np.ones((3, 4))
    with pytest.raises(ValueError, match="shapes do not agree"):
        weight_norm_gradients(V, np.ones(4), V)
    V[1] = 0.0
    with pytest.raises(ValueError, match="row 1 of V is zero"):
        weight_norm_gradients(V, np.ones(3), V)
