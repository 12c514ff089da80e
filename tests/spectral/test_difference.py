"""W − W0 and W0 + s (W − W0), read in blocks, against the same matrices formed as a whole."""

import numpy as np
import pytest
import torch

from analyzer.errors import NonFinite, ShapeMismatch
from analyzer.spectral import CPU, BaseSVD, prepare, svd_topk, svdvals, topk
from analyzer.spectral.difference import Difference
from analyzer.spectral.gram import gram
from analyzer.spectral.torch_backend import TorchBackend

SHAPES = [(3000, 70), (70, 3000), (300, 290)]
DTYPES = [
    (torch.float32, torch.float32), (torch.bfloat16, torch.float32),
    (torch.float64, torch.float16), (torch.float8_e4m3fn, torch.float8_e5m2),
]  # fmt: skip
DEVICE = TorchBackend("cpu:0")  # named so, blocks take the way they take to a GPU


def operands(
    shape: tuple[int, int],
    dtypes: tuple[torch.dtype, torch.dtype] = DTYPES[0],
    *,
    turned: tuple[bool, bool] = (False, False),
) -> tuple[torch.Tensor, torch.Tensor]:
    """A tuned and a base matrix; `turned` stores them column by column."""
    random = torch.Generator().manual_seed(sum(shape))
    base = torch.randn(shape, generator=random)
    tuned = base + 0.3 * torch.randn(shape, generator=random)
    tuned, base = tuned.to(dtypes[0]), base.to(dtypes[1])
    return (
        tuned.T.contiguous().T if turned[0] else tuned,
        base.T.contiguous().T if turned[1] else base,
    )


def whole(tuned: torch.Tensor, base: torch.Tensor, factor: float, on_base: bool) -> np.ndarray:
    W, W0 = tuned.double().numpy(), base.double().numpy()
    return factor * (W - W0) + (W0 if on_base else 0.0)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtypes", DTYPES)
@pytest.mark.parametrize("turned", [(False, False), (True, True), (False, True), (True, False)])
@pytest.mark.parametrize(("factor", "on_base"), [(1.0, False), (2.5, True)])
def test_what_is_read_is_the_difference(shape, dtypes, turned, factor, on_base) -> None:
    tuned, base = operands(shape, dtypes, turned=turned)
    want = whole(tuned, base, factor, on_base)
    X = prepare.prepare(Difference(tuned, base, factor, on_base))
    assert X.largest == np.abs(want).max()
    np.testing.assert_array_equal(X.dense() * X.scale, want)
    tall = want if shape[0] >= shape[1] else want.T
    for device in ("cpu", "cpu:0"):
        read = [block.clone() for block in X.tall_blocks(257, device)]
        np.testing.assert_array_equal(torch.cat(read) * X.scale, tall)
    Y = torch.randn(X.p, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = prepare.tall_product(X, Y)
    np.testing.assert_allclose(found * X.scale, tall @ Y.numpy(), atol=1e-12 * np.abs(tall).sum())
    np.testing.assert_allclose(
        prepare.short_product(X, found), tall.T @ found.numpy() / X.scale, atol=1e-8
    )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("backend", [CPU, DEVICE])
def test_spectra_are_those_of_the_difference(shape, backend) -> None:
    tuned, base = operands(shape)
    want = np.linalg.svd(whole(tuned, base, 1.7, True), compute_uv=False)
    asked = Difference(tuned, base, 1.7, True)
    found = svdvals(asked, backend=backend)
    assert np.all(np.abs(found.singular_values - want) <= found.error + 1e-13 * want[0])
    assert found.fro_norm == pytest.approx(np.linalg.norm(want), rel=1e-12)
    top = svd_topk(asked, 5, backend=backend)
    np.testing.assert_allclose(top.S, want[:5], rtol=1e-12)
    np.testing.assert_allclose(BaseSVD.compute(asked, backend).s, want, atol=1e-12 * want[0])


@pytest.mark.parametrize("turned", [(False, False), (True, True)])
def test_lanczos_reads_it_too(monkeypatch, turned) -> None:
    monkeypatch.setattr(topk, "GRAM_UP_TO", 100)
    tuned, base = operands((300, 290), turned=turned)
    found = svd_topk(Difference(tuned, base), 5)
    want = np.linalg.svd(whole(tuned, base, 1.0, False), compute_uv=False)
    assert found.method == "lanczos_probe"
    np.testing.assert_allclose(found.S, want[:5], rtol=1e-12)


def test_a_rounded_difference_has_no_small_values_to_lose() -> None:
    """Of float32 matrices the Gram matrix is enough; of float64 ones all values are resolved."""
    tuned, base = operands((60, 60))
    u = torch.linalg.qr(tuned.double()).Q
    graded = u * torch.logspace(0, -12, 60, dtype=torch.float64)
    assert svdvals(Difference(base + graded.float(), base)).method == "gram"
    zero = torch.zeros(60, 60)
    exact = svdvals(Difference(graded, zero))
    assert exact.method == "direct_svd"
    np.testing.assert_allclose(exact.singular_values, np.logspace(0, -12, 60), rtol=1e-2)


def test_what_cannot_be_read() -> None:
    tuned, base = operands((300, 290))
    base[7, 3] = tuned[7, 3] = float("inf")  # ∞ − ∞
    tuned[250, 1] = -float("inf")
    with pytest.raises(NonFinite) as caught:
        prepare.prepare(Difference(tuned, base))
    assert "1 NaN" in str(caught.value) and "1 inf" in str(caught.value).lower()
    assert str(7 * 290 + 3) in str(caught.value)
    with pytest.raises(ShapeMismatch):
        Difference(tuned[:1], base)
    assert prepare.prepare(Difference(tuned[:0], base[:0])).largest == 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn])
@pytest.mark.parametrize("by_column", [False, True])
def test_fro_norm(dtype, by_column) -> None:
    W = operands((3000, 70), (dtype, dtype), turned=(by_column, by_column))[0]
    want = np.linalg.norm(W.double().numpy())
    assert prepare.fro_norm(W) == pytest.approx(want, rel=1e-13)
    assert prepare.fro_norm(W[:0]) == 0.0
    assert prepare.fro_norm(W.double().numpy()) == pytest.approx(want, rel=1e-13)


@pytest.mark.parametrize("shape", [(2000, 40), (40, 2000)])
@pytest.mark.parametrize("by_column", [False, True])
def test_gram_of_a_stored_matrix_in_either_order(shape, by_column) -> None:
    W = operands(shape, turned=(by_column, by_column))[0]
    X = prepare.prepare(W)
    tall = W.double().numpy() if shape[0] >= shape[1] else W.double().numpy().T
    np.testing.assert_allclose(
        CPU.symmetric(gram(X, CPU)) * X.scale**2, tall.T @ tall, rtol=1e-12, atol=1e-10
    )
