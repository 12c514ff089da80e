"""CountSketch: a linear, unbiased map with a fixed hash, and its cosine error."""

import numpy as np
import pytest
import torch

from analyzer.errors import UsageError
from analyzer.spectral import count_sketch
from analyzer.spectral.count_sketch import sketch_cosine


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    a, b = a.double().flatten(), b.double().flatten()
    return float(a @ b / a.norm() / b.norm())


def pair(kind: str, random: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random)

    if kind == "generic":
        a = normal(72, 101)
        return a, 0.5 * a + normal(72, 101)
    if kind == "rank one":
        return torch.outer(normal(72), normal(101)), torch.outer(normal(72), normal(101))
    if kind == "low rank":
        U, V = normal(72, 4), normal(4, 101)
        return U @ V, (U + normal(72, 4)) @ (V + normal(4, 101))
    a, b = 0.01 * normal(64, 256), 0.01 * normal(64, 256)  # as many columns as buckets
    a[:, 3] += normal(64)
    b[:, 3] += normal(64)
    return a, b


@pytest.mark.parametrize("width", [256, 1024])
@pytest.mark.parametrize("kind", ["generic", "rank one", "low rank", "one column"])
def test_cosine_error(kind: str, width: int) -> None:
    """Unbiased, rms about (1 − c²)/√w, around 95 % of pairs within 2/√w."""
    random = torch.Generator().manual_seed(width)
    errors = []
    for seed in range(400):
        a, b = pair(kind, random)
        found = sketch_cosine(count_sketch(a, width, seed), count_sketch(b, width, seed))
        assert found is not None
        errors.append(found - cosine(a, b))
    units = np.array(errors) * np.sqrt(width)
    assert np.mean(np.abs(units) < 2.0) > 0.92
    assert 0.3 < np.sqrt(np.mean(units**2)) < 1.1
    assert abs(units.mean()) < 4 * units.std() / np.sqrt(units.size)


def test_neighbours_of_equal_sign_cost_no_more_than_twice_the_variance() -> None:
    """The worst case of hashing 16 entries together: constant rows, orthogonal matrices."""
    a = torch.ones(96, 256)
    b = torch.where(torch.arange(256) < 128, 1.0, -1.0).expand(96, 256)
    cosines = [
        sketch_cosine(count_sketch(a, 512, seed), count_sketch(b, 512, seed)) for seed in range(200)
    ]
    rms = np.sqrt(np.mean(np.array(cosines, dtype=float) ** 2) * 512)
    assert rms < 1.25 * np.sqrt(2)


def test_every_entry_goes_to_one_bucket_and_its_bucket_is_uniform() -> None:
    """The map itself, from unit vectors: one ±1 a column, balanced buckets and signs."""
    units = torch.eye(1000)
    columns = torch.stack([count_sketch(unit, 32) for unit in units])
    assert torch.equal(columns.abs().sum(1), torch.ones(1000))
    assert torch.equal(columns.abs().amax(1), torch.ones(1000))
    load = columns.abs().sum(0)
    assert float(((load - 1000 / 32) ** 2 / (1000 / 32)).sum()) < 80  # χ², 31 degrees of freedom
    assert abs(float(columns.sum())) < 250
    # linear: the sketch of any vector is that combination
    x = torch.from_numpy(np.random.default_rng(0).standard_normal(1000)).float()
    torch.testing.assert_close(count_sketch(x.view(40, 25), 32), x @ columns, rtol=0, atol=1e-5)


def test_the_hash_is_the_same_on_every_machine() -> None:
    """Values fixed once: a change would make stored sketches incomparable."""
    sketch = count_sketch(torch.arange(1.0, 101.0), 16, seed=7)
    assert sketch.dtype == torch.float32
    assert sketch.tolist() == [
        -4, -30, 61, 137, 110, 230, 79, 137, -22, 50, 256, -200, -274, 18, -288, -396,
    ]  # fmt: skip


def test_repeats_to_the_bit_and_leaves_the_global_state_alone() -> None:
    G = torch.randn(50, 70, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    state, numpy_state = torch.get_rng_state(), str(np.random.get_state())
    first, second = count_sketch(G, seed=5), count_sketch(G, seed=5)
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)
    assert str(np.random.get_state()) == numpy_state
    assert not torch.equal(first, count_sketch(G, seed=6))


def test_layout_and_precision_of_the_matrix() -> None:
    """Row-major entries count, however they lie in memory; half precision is widened."""
    G = torch.randn(30, 41, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    assert torch.equal(count_sketch(G), count_sketch(G.float()))
    assert torch.equal(count_sketch(G.T), count_sketch(G.T.contiguous()))
    assert not torch.equal(count_sketch(G.T), count_sketch(G))


def test_zero_and_bad_arguments() -> None:
    zero = count_sketch(torch.zeros(3, 5))
    assert not zero.any()
    assert sketch_cosine(zero, count_sketch(torch.ones(3, 5))) is None
    assert count_sketch(torch.zeros(0, 5)).shape == (1024,)
    with pytest.raises(UsageError, match="width"):
        count_sketch(torch.ones(3), width=8)
    with pytest.raises(UsageError, match="compared"):
        sketch_cosine(zero, zero[:16])
