"""What a store's spectra become: quantiles, places, what is left out."""

from __future__ import annotations

import numpy as np
import pytest

from analyzer.errors import UsageError
from analyzer.models.spectral_tensor.observations import (
    SMALLEST,
    log_quantiles,
    observe_spectra,
    runs_of,
)
from analyzer.store.connection import reader


@pytest.mark.parametrize("n", [1, 5, 24, 100])
def test_quantiles_interpolate_linearly_between_positions(n: int) -> None:
    rng = np.random.default_rng(n)
    sigma = np.sort(np.exp(rng.normal(size=n)))[::-1]
    q = (np.arange(24) + 0.5) / 24
    found = log_quantiles(sigma, q)
    for value, place in zip(found, q * n - 0.5, strict=True):
        place = min(max(place, 0.0), n - 1.0)
        low = int(place)
        high = min(low + 1, n - 1)
        share = place - low
        want = (1 - share) * np.log(sigma[low]) + share * np.log(sigma[high])
        assert value == pytest.approx(want, abs=1e-12)
    assert np.all(np.diff(found) <= 1e-12)


def test_zero_singular_values_have_a_floor() -> None:
    found = log_quantiles(np.array([2.0, 0.0]), np.array([0.25, 0.75]))
    np.testing.assert_allclose(found, [np.log(2.0), np.log(SMALLEST)])


def test_each_value_stands_at_the_place_of_its_spectrum(observed) -> None:
    seen = observed((10, 100), (0, 1, 3), n_quantiles=20)  # as many as singular values
    assert seen.roles == ("attn_q", "mlp_up")
    assert seen.n_scans == 12 and seen.values.shape == (240,)
    assert set(seen.step) == {10.0, 100.0} and set(seen.depth) == {0.0, 1.0, 3.0}
    t, d, q = np.log1p(seen.step) / 8, seen.depth / 4, seen.quantile
    want = 0.3 * seen.role - 1.5 * q**2 * (1 + d / 2) + 0.4 * np.sin(3 * t) * (1 - q) + np.sin(d)
    np.testing.assert_allclose(seen.values, want, atol=1e-12)
    assert seen.varying(("depth", "step", "role", "quantile")) == (
        "depth", "step", "role", "quantile",
    )  # fmt: skip
    np.testing.assert_array_equal(seen.column("step"), np.log1p(seen.step))


def test_the_base_is_step_0_and_experts_and_other_tensors_are_left_out(builder) -> None:
    base = builder.checkpoint("base", kind="base")
    builder.scan(base, 0, (0, 1))
    builder.matrices(base, [("embed", None, np.ones(4))], stack=None)
    for step in (10, 20):
        number = builder.checkpoint(f"run/{step}", run="run", step=step, base=base)
        builder.scan(number, step, (0, 1))
        builder.matrices(number, [("expert_up", 0, np.full(6, 9.0))], expert=3)
    with reader(builder.db) as connection:
        runs = {run.name: run for run in runs_of(connection)}
        seen = observe_spectra(connection, runs["run"])
        alone = observe_spectra(connection, runs["base"])
    assert set(seen.step) == {0.0, 10.0, 20.0}
    assert seen.roles == ("attn_q", "mlp_up") and seen.n_scans == 12
    assert alone.n_scans == 4 and set(alone.step) == {0.0}
    assert alone.varying(("depth", "step", "role", "quantile")) == ("depth", "role", "quantile")
    assert alone.inputs_sha256 != seen.inputs_sha256


def test_a_run_with_a_step_0_of_its_own_takes_no_base(builder) -> None:
    base = builder.checkpoint("base", kind="base")
    for step in (0, 10):
        builder.checkpoint(f"run/{step}", run="run", step=step, base=base)
    with reader(builder.db) as connection:
        runs = {run.name: run for run in runs_of(connection)}
    assert runs["run"].base_id is None and base not in runs["run"].checkpoint_ids


def test_adapters_have_updates_and_no_base(builder) -> None:
    base = builder.checkpoint("base", kind="base")
    builder.scan(base, 0, (0, 1))
    builder.checkpoint("lone", kind="adapter", base=base)
    for step in (5, 9):
        number = builder.checkpoint(
            f"lora/{step}", kind="adapter", run="lora", step=step, base=base
        )
        builder.matrices(number, [("attn_q", 0, np.ones(2)), ("attn_q", 1, np.ones(2))],
                         kind="delta")  # fmt: skip
    with reader(builder.db) as connection:
        runs = {run.name: run for run in runs_of(connection)}
        assert set(runs) == {"base", "lora"}
        seen = observe_spectra(connection, runs["lora"], kind="delta")
        with pytest.raises(UsageError, match="no weight spectrum of lora"):
            observe_spectra(connection, runs["lora"])
    assert set(seen.step) == {5.0, 9.0} and seen.n_scans == 4


def test_two_stacks_are_told_apart(builder) -> None:
    number = builder.checkpoint("t5")
    for stack, size in (("decoder", 1.0), ("encoder", 2.0)):
        builder.matrices(number, [("attn_q", d, np.full(3, size)) for d in (0, 1)], stack=stack)
    with reader(builder.db) as connection:
        (run,) = runs_of(connection)
        both = observe_spectra(connection, run)
        assert both.roles == ("decoder.attn_q", "encoder.attn_q")
        np.testing.assert_allclose(both.values, np.log(1.0 + both.role))
        assert observe_spectra(connection, run, roles=["attn_q"]).roles == both.roles
        one = observe_spectra(connection, run, roles=["encoder.attn_q"])
    assert one.roles == ("encoder.attn_q",)
    np.testing.assert_allclose(one.values, np.log(2.0))


def test_matrices_have_numbers_of_their_own_and_none_lies_between_blocks(observed) -> None:
    seen = observed((10,), (0, 1, 2))
    pairs = {(d, r, m) for d, r, m in zip(seen.depth, seen.role, seen.matrix, strict=True)}
    assert len(pairs) == len({m for *_, m in pairs}) == 6
    between = seen.matrix_at(np.array([0.5, 1.5]), np.array([0.0, 0.0]))
    assert not np.isin(between, seen.matrix).any()


def test_runs_of_one_name_in_two_folders_are_two(builder) -> None:
    for root in ("/a/", "/b/"):
        for step in (10, 20):
            number = builder.checkpoint(f"run/{step}", run="run", step=step, root=root)
            builder.scan(number, step, (0, 1))
    with reader(builder.db) as connection:
        runs = runs_of(connection)
        assert [run.name for run in runs] == ["/b/run", "run"]
        assert [run.checkpoint_ids for run in runs] == [(3, 4), (1, 2)]
        assert [observe_spectra(connection, run).n_scans for run in runs] == [8, 8]
