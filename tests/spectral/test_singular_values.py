"""All singular values: closed forms, forty-digit references, scaling, edge cases."""

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from analyzer.errors import NonFinite, ShapeMismatch
from analyzer.spectral import BaseSVD, batched_svdvals, get_backend, svd_topk, svdvals, topk
from analyzer.spectral.prepare import prepare

BACKENDS = ["cpu", "torch-cpu"]


def bidiagonal(n: int) -> np.ndarray:
    return np.eye(n) - np.eye(n, k=1)


@pytest.mark.parametrize("device", BACKENDS)
@pytest.mark.parametrize("n", [8, 200])
def test_bidiagonal_closed_form(n: int, device: str) -> None:
    """1 on the diagonal, −1 above: σ_k = 2 cos(kπ/(2n+1))."""
    exact = 2 * np.cos(np.arange(1, n + 1) * np.pi / (2 * n + 1))
    found = svdvals(bidiagonal(n), backend=get_backend(device))
    assert np.all(np.abs(found.singular_values - exact) <= found.error + 1e-15)
    if n == 8:
        known = [1.9659461993678036, 1.8649444588087116, 0.18453671892660399]
        np.testing.assert_allclose(found.singular_values[[0, 1, -1]], known, atol=1e-14)


def test_powers_of_two_scale_exactly() -> None:
    W = torch.tensor(bidiagonal(8), dtype=torch.float32)
    plain = svdvals(W).singular_values
    tiny = svdvals(W * 2.0**-120).singular_values
    np.testing.assert_array_equal(tiny, plain * 2.0**-120)


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e30, 1e300])
def test_extreme_scales(scale: float) -> None:
    W = np.random.default_rng(0).standard_normal((30, 20))
    want = np.linalg.svd(W, compute_uv=False)
    np.testing.assert_allclose(svdvals(W * scale).singular_values / scale, want, rtol=1e-11)


HILBERT = {1: 1.7519196702651775, 5: 1.2874961427637708e-4, 8: 2.1474388173504786e-9,
           10: 1.0931538193796658e-13}  # fmt: skip


def test_hilbert_needs_the_direct_path_and_the_gram_path_says_so() -> None:
    W = scipy.linalg.hilbert(10)
    gram = svdvals(W, method="gram")
    auto = svdvals(W)
    assert auto.method == "direct_svd"
    for k, exact in HILBERT.items():
        assert abs(gram.singular_values[k - 1] - exact) <= gram.error[k - 1]
        assert abs(auto.singular_values[k - 1] - exact) <= auto.error[k - 1]
    assert gram.error[9] > gram.singular_values[9] / 2
    assert svdvals(torch.tensor(W, dtype=torch.float32)).method == "gram"


@given(
    st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1), st.booleans()
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_bounds_hold_for_random_matrices(m: int, n: int, seed: int, graded: bool) -> None:
    rng = np.random.default_rng(seed)
    W = rng.standard_normal((m, n))
    if graded:
        W = W * np.logspace(0, -9, n)
    want = np.linalg.svd(W, compute_uv=False)
    for method in ("gram", "auto"):
        found = svdvals(W, method=method)
        # The reference itself is only good to a few ε σ₁.
        slack = 1e-14 * want[0] * np.sqrt(min(m, n))
        assert np.all(np.abs(found.singular_values - want) <= found.error + slack)
        np.testing.assert_allclose(found.fro_norm, np.linalg.norm(W), rtol=1e-9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_every_dtype_is_decoded_exactly(dtype: torch.dtype) -> None:
    W = torch.randn(5000, 12, generator=torch.Generator().manual_seed(1)).to(dtype)
    want = np.linalg.svd(W.to(torch.float64).numpy(), compute_uv=False)
    np.testing.assert_allclose(svdvals(W).singular_values, want, rtol=1e-13)
    np.testing.assert_allclose(svdvals(W.T).singular_values, want, rtol=1e-13)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_is_named(bad: float) -> None:
    W = np.ones((4, 5))
    W[1, 2] = W[3, 3] = bad
    with pytest.raises(NonFinite) as caught:
        svdvals(W)
    assert caught.value.n_nan + caught.value.n_inf == 2
    assert caught.value.first_index == 7


def test_degenerate_shapes() -> None:
    assert svdvals(np.zeros((0, 5))).singular_values.size == 0
    assert svdvals(np.zeros((4, 3))).singular_values.tolist() == [0, 0, 0]
    np.testing.assert_allclose(svdvals(np.array([[3.0, 4.0]])).singular_values, [5.0])
    with pytest.raises(ShapeMismatch):
        svdvals(np.ones(3))


def test_batches_of_small_matrices() -> None:
    stack = np.random.default_rng(2).standard_normal((7, 5, 9)) * 1e-200
    want = np.linalg.svd(stack * 1e200, compute_uv=False)
    np.testing.assert_allclose(batched_svdvals(stack) * 1e200, want, rtol=1e-12)


@pytest.mark.parametrize("device", BACKENDS)
def test_noise_of_a_rank_deficient_matrix_is_no_more_than_its_error(device: str) -> None:
    rng = np.random.default_rng(3)
    W = rng.standard_normal((60, 5)) @ rng.standard_normal((5, 40))
    for method in ("gram", "direct", "auto"):
        found = svdvals(W, method=method, backend=get_backend(device))
        assert np.all(found.singular_values[5:] <= found.error[5:])
        assert np.all(found.singular_values[:5] > found.error[:5])


def test_the_same_question_has_the_same_answer() -> None:
    W = np.random.default_rng(4).standard_normal((120, 90))
    np.testing.assert_array_equal(svdvals(W).singular_values, svdvals(W).singular_values)
    for method in ("gram_eigh", "lanczos_probe"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(topk, "GRAM_UP_TO", 1536 if method == "gram_eigh" else 10)
            one, two = svd_topk(W, 4), svd_topk(W, 4)
        assert one.method == method
        np.testing.assert_array_equal(one.U, two.U)
    base = BaseSVD.compute(W)
    P, Q = W[:, :3], W[:90, 3:6] / 9
    np.testing.assert_array_equal(base.update(P, Q).topk(4).X, base.update(P, Q).topk(4).X)


def test_only_blocks_are_decoded() -> None:
    for shape in ((5000, 12), (12, 5000)):
        W = torch.arange(60000).remainder(97).to(torch.bfloat16).reshape(shape)
        X = prepare(W)
        read = [(tuple(block.shape), float(block.sum())) for block in X.tall_blocks(rows=1024)]
        assert [shape for shape, _ in read] == [(1024, 12)] * 4 + [(904, 12)]
        assert sum(total for _, total in read) * X.scale == float(W.double().sum())


def test_sizes_that_take_the_two_stage_reduction() -> None:
    W = np.random.default_rng(3).standard_normal((1300, 1290))
    want = np.linalg.svd(W, compute_uv=False)
    found = svdvals(W, method="gram")
    assert np.all(np.abs(found.singular_values - want) <= found.error + 1e-13 * want[0])
