"""GaLore and Fira steps against worked digits, torch's Adam and element-wise loops."""

import numpy as np
import pytest
import torch

from theory.galore_projection import (
    captured_energy,
    fit_projector,
    project,
    project_back,
    projection_side,
)
from theory.galore_step import GaLoreSettings, fira_step, galore_step


def closed(m, n, a=1.0, b=0.37, c=0.0):
    i, j = np.arange(1, m + 1)[:, None], np.arange(1, n + 1)[None]
    return np.sin(a * i * np.sqrt(j) + b * j + c)


def run(step, W, gradients, settings, **options):
    results, state = [], None
    for G in gradients:
        results.append(step(W, G, state, settings, **options))
        W, state = results[-1].weight, results[-1].state
    return results


def torch_adam(W, gradients, lr):
    p = torch.nn.Parameter(torch.tensor(W))
    optimizer = torch.optim.Adam([p], lr=lr, eps=1e-30)
    for G in gradients:
        p.grad = torch.tensor(G)
        optimizer.step()
    return p.detach().numpy()


def test_side_rules_differ_only_for_square_matrices():
    for rule in ("paper", "code"):
        assert projection_side(3, 5, "std", rule) == "left"
        assert projection_side(5, 3, "std", rule) == "right"
        assert projection_side(5, 3, "reverse_std", rule) == "left"
        assert projection_side(5, 3, "full", rule) == "full"
        assert projection_side(3, 5, "right", rule) == "right"
    assert projection_side(4, 4, "std", "paper") == "left"
    assert projection_side(4, 4, "std", "code") == "right"
    assert projection_side(4, 4, "reverse_std", "paper") == "right"
    assert projection_side(4, 4, "reverse_std", "code") == "left"


@pytest.mark.parametrize("side", ["left", "right", "full"])
def test_projection_keeps_the_top_energy(side):
    G = closed(6, 8)
    s = np.linalg.svd(G, compute_uv=False)
    P = fit_projector(G, 3, side)
    assert captured_energy(P, G) == pytest.approx(np.sum(s[:3] ** 2) / np.sum(s**2), rel=1e-12)
    U, _, Vt = np.linalg.svd(G)
    best = (U[:, :3] * s[:3]) @ Vt[:3]
    np.testing.assert_allclose(project_back(P, project(P, G)), best, atol=1e-12)
    assert captured_energy(P, np.zeros((6, 8))) is None
    assert captured_energy(P, 1e-200 * closed(6, 8, c=1.0)) == pytest.approx(
        captured_energy(P, closed(6, 8, c=1.0))
    )


def test_gradient_of_lower_rank_leaves_columns_undetermined():
    G = np.outer(np.arange(1.0, 6.0), np.ones(7))
    assert fit_projector(G, 3, "left").determined == 1
    assert fit_projector(np.zeros((5, 7)), 3, "left").determined == 0
    assert fit_projector(closed(5, 7), 3, "left").determined == 3


@pytest.mark.parametrize(("shape", "side"), [((5, 7), "left"), ((7, 5), "right")])
def test_full_rank_is_adam_in_the_singular_basis(shape, side):
    rng = np.random.default_rng(1)
    W, gradients = rng.standard_normal(shape), rng.standard_normal((6, *shape))
    settings = GaLoreSettings(rank=5, update_proj_gap=100, scale=1.0, eps=1e-30)
    got = run(galore_step, W, gradients, settings)[-1]
    P = fit_projector(gradients[0], 5, side)
    rotated = torch_adam(project(P, W), [project(P, G) for G in gradients], settings.lr)
    np.testing.assert_allclose(got.weight, project_back(P, rotated), atol=1e-12)


def test_full_rank_is_plain_adam_where_the_singular_basis_is_the_axes():
    rng = np.random.default_rng(2)
    W, gradients = rng.standard_normal((4, 6)), rng.standard_normal((5, 4, 6))
    gradients[0] = np.diag([3.0, 1.0, 4.0, 2.0]) @ np.linalg.qr(rng.standard_normal((6, 4)))[0].T
    settings = GaLoreSettings(rank=4, update_proj_gap=100, scale=1.0, eps=1e-30)
    got = run(galore_step, W, gradients, settings)[-1]
    np.testing.assert_allclose(got.weight, torch_adam(W, gradients, settings.lr), atol=1e-12)


def test_refresh_keeps_the_moments():
    gradients = [closed(4, 6, c=0.5 * t) for t in range(5)]
    settings = GaLoreSettings(rank=2, update_proj_gap=2)
    steps = run(galore_step, np.zeros((4, 6)), gradients, settings)
    assert [s.refreshed for s in steps] == [True, False, True, False, True]
    M = V = 0.0
    for t, (step, G) in enumerate(zip(steps, gradients, strict=True)):
        expected = fit_projector(gradients[t - t % 2], 2, "left").left
        np.testing.assert_array_equal(step.state.projector.left, expected)
        M, V = 0.9 * M + 0.1 * expected.T @ G, 0.999 * V + 0.001 * (expected.T @ G) ** 2
        np.testing.assert_allclose(step.state.exp_avg, M, atol=1e-15)
        np.testing.assert_allclose(step.state.exp_avg_sq, V, atol=1e-15)
        assert step.state.step == t + 1
        assert step.captured == captured_energy(step.state.projector, G)
    assert steps[0].captured > captured_energy(steps[0].state.projector, gradients[1])


def test_first_step_scale_and_decay():
    W, G = closed(4, 6, c=2.0), closed(4, 6)
    plain = galore_step(W, G, None, GaLoreSettings(rank=2, scale=0.25, eps=1e-30)).weight
    P = fit_projector(G, 2, "left").left
    np.testing.assert_allclose(plain, W - 0.01 * 0.25 * P @ np.sign(P.T @ G), atol=1e-14)
    decayed = galore_step(W, G, None, GaLoreSettings(rank=2, eps=1e-30, weight_decay=0.1)).weight
    np.testing.assert_allclose(decayed, plain * (1 - 0.01 * 0.1), atol=1e-15)


@pytest.mark.parametrize("residual", ["paper", "code"])
def test_fira_worked_case(residual):
    gradients = [c * closed(4, 6, 1, 0.37, 0.4 * t) for t, c in enumerate((1, 1, 5))]
    settings = GaLoreSettings(rank=2, scale=1.0, eps=1e-6)
    steps = run(fira_step, np.zeros((4, 6)), gradients, settings, residual=residual)
    np.testing.assert_allclose([s.limiter for s in steps], [1, 1.61196624, 2.57420890], atol=1e-8)
    np.testing.assert_allclose(
        [s.residual_norm for s in steps], [4.81939948, 4.86759349, 4.91626943], atol=1e-8
    )
    np.testing.assert_allclose(
        [np.linalg.norm(s.weight) for s in steps], [0.03784327, 0.07099266, 0.09355802], atol=1e-8
    )
    np.testing.assert_allclose(
        steps[0].scaling,
        [3.22511545, 3.5672896, 3.13634509, 4.18353285, 3.2077053, 3.79600651],
        atol=1e-8,
    )


@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (5, 5)])
@pytest.mark.parametrize("residual", ["paper", "code"])
@pytest.mark.parametrize("scaling", ["vector", "matrix"])
def test_fira_by_loops(shape, residual, scaling):
    rng = np.random.default_rng(3)
    W, gradients = np.zeros(shape), rng.standard_normal((4, *shape)) * [[[1]], [[1]], [[9]], [[1]]]
    alpha, gamma, lr, eps = 0.25, 1.05, 0.02, 1e-6
    settings = GaLoreSettings(rank=2, scale=alpha, lr=lr, eps=eps, side_rule="code")
    steps = run(fira_step, W, gradients, settings, gamma=gamma, residual=residual, scaling=scaling)
    transposed = shape[0] >= shape[1]  # work on the orientation that is projected from the left
    X = W.T if transposed else W
    U = np.linalg.svd(gradients[0])[2].T if transposed else np.linalg.svd(gradients[0])[0]
    P, M, V, before = U[:, :2], 0.0, 0.0, None
    for t, (G, step) in enumerate(zip(gradients, steps, strict=True), start=1):
        G = G.T if transposed else G
        R = P.T @ G
        M, V = 0.9 * M + 0.1 * R, 0.999 * V + 0.001 * R**2
        N = M / (np.sqrt(V) + eps)
        S = G - (1.0 if residual == "paper" else alpha) * P @ R
        for j in range(S.shape[1]):
            ratio = np.linalg.norm(N[:, j]) / (np.linalg.norm(R[:, j]) + 1e-8)
            whole = np.linalg.norm(N) / (np.linalg.norm(R) + 1e-8)
            S[:, j] *= ratio if scaling == "vector" else whole
        if before is not None:
            growth = np.linalg.norm(S) / (before + 1e-8)
            S = S / (max(growth, gamma) / gamma)
            assert (step.limiter > 1.0) == (growth > gamma)
        before = np.linalg.norm(S)
        X = X - lr * np.sqrt(1 - 0.999**t) / (1 - 0.9**t) * (alpha * P @ N + S)
        np.testing.assert_allclose(step.weight.T if transposed else step.weight, X, atol=1e-12)
    assert steps[2].limiter > 1.0
    # growth is never more than γ
    assert steps[2].residual_norm <= gamma * (steps[1].residual_norm + 1e-8) * (1 + 1e-12)


def test_fira_at_full_rank_has_no_residual():
    gradients = [closed(4, 6, c=0.3 * t) for t in range(3)]
    settings = GaLoreSettings(rank=4, scale=0.5)
    fira = run(fira_step, np.zeros((4, 6)), gradients, settings)[-1]
    galore = run(galore_step, np.zeros((4, 6)), gradients, settings)[-1]
    np.testing.assert_allclose(fira.weight, galore.weight, atol=1e-13)
    code = run(fira_step, np.zeros((4, 6)), gradients, settings, residual="code")[-1]
    assert np.linalg.norm(code.weight - galore.weight) > 1e-3  # half of the gradient is left in S


def test_zero_gradient_moves_nothing():
    Z = np.zeros((4, 6))
    for step in (galore_step, fira_step):
        result = step(Z + 1.0, Z, None, GaLoreSettings(rank=2))
        np.testing.assert_array_equal(result.weight, Z + 1.0)
        assert result.captured is None and result.state.projector.determined == 0


def test_bad_input():
    G, settings = closed(4, 6), GaLoreSettings(rank=5)
    with pytest.raises(ValueError, match=r"1..4 for a 4 x 6 matrix, got 5"):
        galore_step(G, G, None, settings)
    for name, value, message in [
        ("rank", 0, "rank must be at least 1, got 0"),
        ("update_proj_gap", 0, "update_proj_gap must be at least 1, got 0"),
        ("beta1", 1.0, "beta1 must lie in .0, 1., got 1.0"),
        ("eps", 0.0, "eps must be positive, got 0.0"),
    ]:
        with pytest.raises(ValueError, match=message):
            GaLoreSettings(**{"rank": 2, name: value})
    two = GaLoreSettings(rank=2)
    with pytest.raises(ValueError, match=r"gamma must be at least 1, got 0\.99"):
        fira_step(G, G, None, two, gamma=0.99)
    with pytest.raises(ValueError, match="one side"):
        fira_step(G, G, None, GaLoreSettings(rank=2, proj_type="full"))
    with pytest.raises(ValueError, match="1 of 24 elements"):
        galore_step(G, np.where(np.max(G) > G, G, np.nan), None, two)
    with pytest.raises(ValueError, match="one shape"):
        galore_step(G, G.T, None, two)
    state = galore_step(G, G, None, two).state
    with pytest.raises(ValueError, match="do not fit"):
        galore_step(closed(4, 7), closed(4, 7), state, GaLoreSettings(rank=2, update_proj_gap=1))
