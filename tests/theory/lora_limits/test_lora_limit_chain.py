"""The norms of a head against dense logits, and what must leave them unchanged."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from theory.lora_limits.chain import chain, channel_norms, entry_norms, softcapped
from theory.lora_limits.logits import row_logits

RNG = np.random.default_rng(11)
Q, K = RNG.normal(size=(23, 5)), RNG.normal(size=(23, 5)) * [1, 1, 1, 1, 9.0]
BETA = 5**-0.5


def flat(q, k, beta=BETA, **kwargs) -> dict[str, float]:
    entries, logits = chain(q, k, beta, **kwargs)
    values = dataclasses.asdict(entries) | dataclasses.asdict(logits)
    return values | values.pop("channels")


def dense(q, k, beta=BETA, *, hidden=None, added=0.0) -> dict[str, float]:
    S = beta * q @ k.T + added
    hidden = np.zeros(S.shape, bool) if hidden is None else hidden
    seen = np.ma.masked_array(S, hidden)
    spread, largest = np.asarray(np.ma.ptp(seen, axis=1)), np.asarray(np.abs(seen).max(axis=1))
    F = np.where(hidden, 0.0, np.exp(S - S.max()))
    F /= F.sum(axis=1, keepdims=True)
    return {
        "gamma_range": np.sqrt(spread.max() / 2),
        "gamma_logit": np.sqrt(largest.max()),
        "ipr": np.mean(np.sum(F**2, axis=1)),
        "range_q50": np.median(np.sqrt(spread / 2)),
        "range_q99": np.quantile(np.sqrt(spread / 2), 0.99),
        "logit_q50": np.median(np.sqrt(largest)),
        "logit_q99": np.quantile(np.sqrt(largest), 0.99),
    }


def assert_equal_values(one, other, names=None):
    for name in names or other:
        assert one[name] == pytest.approx(other[name], rel=1e-11), name


@pytest.mark.parametrize("block_rows", [1, 4, 22, 23, 100, None])
def test_blocks_do_not_matter(block_rows):
    assert_equal_values(flat(Q, K, block_rows=block_rows), dense(Q, K))
    later = np.triu(np.ones((23, 23), bool), 1)
    causal = flat(Q, K, mask="causal", block_rows=block_rows)
    assert_equal_values(causal, dense(Q, K, hidden=later))


def test_many_blocks_by_default():
    q, k = RNG.normal(size=(1100, 3)), RNG.normal(size=(1300, 3))  # more entries than one block
    assert_equal_values(flat(q, k), dense(q, k))


@pytest.mark.parametrize("block_rows", [3, None])
def test_padding_is_left_out(block_rows):
    padded = np.arange(23) % 4 == 1
    padded[:2] = True
    q, k = np.where(padded[:, None], 1e6, Q), np.where(padded[:, None], -1e6, K)
    both = {"padded_queries": padded, "padded_keys": padded, "block_rows": block_rows}
    kept = ~padded
    assert_equal_values(flat(q, k, **both), flat(Q[kept], K[kept]))
    causal = flat(q, k, mask="causal", **both)
    assert_equal_values(causal, flat(Q[kept], K[kept], mask="causal"))
    assert causal["n_keys"] == kept.sum()
    # keys alone, as in cross-attention
    assert_equal_values(flat(q, k[:20], padded_keys=padded[:20]), flat(q, k[:20][kept[:20]]))


def test_exact_logit_variance_in_linear_time():
    S = BETA * Q @ K.T
    expected = np.sqrt(np.mean(np.var(S, axis=1))) / np.sqrt(2 * np.log(23))
    assert entry_norms(Q, K, BETA).rem_ratio == pytest.approx(expected, rel=1e-13)


@given(seed=st.integers(0, 2**32 - 1), width=st.integers(1, 9), queries=st.integers(1, 12))
@settings(max_examples=150, deadline=None)
def test_each_norm_is_at_most_the_next(seed, width, queries):
    rng = np.random.default_rng(seed)
    q, k = (rng.choice([-1.0, 0.3, 1.0], (n, width)) for n in (queries, 7))  # many ties
    if seed % 2:
        q, k = q * rng.lognormal(0, 2, width), k * rng.normal(size=(7, width))
    for mask in ("none", "causal") if queries == 7 else ("none",):
        v = flat(q, k, 0.37, mask=mask)
        order = [v[f"gamma_{name}"] for name in ("range", "logit", "chansum", "chan", "bal", "as")]
        assert order == sorted(order)
        assert v["gamma_logit"] <= v["gamma_norm"] * (1 + 1e-12) <= v["gamma_bal"] * (1 + 3e-12)
        assert 1 / 7 - 1e-12 <= v["ipr"] <= 1 + 1e-12


def test_channels_of_equal_size_tie():
    norms = channel_norms(np.full(10, 0.1), np.full(10, 0.1), 1.0)  # ten times 0.01 sums below 0.1
    values = dataclasses.astuple(norms)
    assert list(values) == sorted(values) and values == pytest.approx([np.sqrt(0.1)] * 4)


def test_moving_scale_between_queries_and_keys():
    T = RNG.lognormal(0, 2, 5)
    base, moved, shared = flat(Q, K), flat(Q * T, K / T), flat(7.0 * Q, K / 7.0)
    logits = ["gamma_range", "gamma_logit", "ipr", "rem_ratio"]
    assert_equal_values(moved, base, [*logits, "gamma_chansum", "gamma_chan"])
    assert_equal_values(shared, base, [*logits, "gamma_chansum", "gamma_chan", "gamma_bal"])
    assert shared["gamma_as"] > base["gamma_as"]


def test_a_vector_added_to_all_keys():
    shifted, base = flat(Q, K + np.array([3.0, -1, 0, 8, 2])), flat(Q, K)
    assert_equal_values(shifted, base, ["gamma_range", "ipr", "rem_ratio"])
    assert shifted["gamma_logit"] > base["gamma_logit"]


def test_permuting_tokens():
    order = RNG.permutation(23)
    assert_equal_values(flat(Q[order], K[order]), flat(Q, K))
    assert flat(Q[order], K[order], mask="causal")["ipr"] != flat(Q, K, mask="causal")["ipr"]


def test_gamma_norm_survives_rope():
    angles = np.arange(23)[:, None] * np.array([1.0, 0.03])

    def rotated(x):
        a, b = x[:, :2], x[:, 2:]
        cos, sin = np.cos(angles), np.sin(angles)
        return np.hstack([a * cos - b * sin, b * cos + a * sin])

    before, after = flat(Q[:, :4], K[:, :4]), flat(rotated(Q[:, :4]), rotated(K[:, :4]))
    assert after["gamma_norm"] == pytest.approx(before["gamma_norm"], rel=1e-13)
    assert after["gamma_logit"] <= after["gamma_norm"]
    assert after["gamma_logit"] != pytest.approx(before["gamma_logit"], rel=1e-6)


@pytest.mark.parametrize("block_rows", [5, None])
def test_additive_bias_enters_the_logits_only(block_rows):
    def alibi(queries, keys):
        return -2.0 * np.abs(queries[:, None] - keys)

    positions = np.arange(23)
    later = np.triu(np.ones((23, 23), bool), 1)
    v = flat(Q, K, mask="causal", additive=alibi, block_rows=block_rows)
    assert_equal_values(v, dense(Q, K, hidden=later, added=alibi(positions, positions)))
    assert v["gamma_logit"] > v["gamma_chansum"] == flat(Q, K)["gamma_chansum"]
    padded = positions % 3 == 0  # positions are those before the padding is dropped
    kept = positions[~padded]
    v = flat(Q, K, additive=alibi, padded_queries=padded, padded_keys=padded, block_rows=block_rows)
    assert_equal_values(v, dense(Q[kept], K[kept], added=alibi(kept, kept)))


@pytest.mark.parametrize("size", [1e-20, 1e15, 3e38])
def test_range_of_bf16(size):
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        values = flat(size * Q, size * K, mask="causal")
    assert all(np.isfinite(x) for x in values.values())
    assert values["gamma_as"] == pytest.approx(size * flat(Q, K)["gamma_as"], rel=1e-12)
    if size == 1e-20:
        assert values["ipr"] == pytest.approx(np.mean(1 / np.arange(1, 24)))


def test_zero_and_constant_heads():
    v = flat(np.zeros((4, 2)), K[:4, :2])
    assert v["gamma_range"] == v["gamma_as"] * 0 == v["rem_ratio"] == 0.0
    assert v["ipr"] == pytest.approx(0.25)
    same = flat(Q, np.ones((23, 5)))
    assert same["gamma_range"] < 1e-7 and same["rem_ratio"] == 0.0


def test_alman_song_normalisation():
    d = 16
    q, k = RNG.normal(size=(6, d)), RNG.normal(size=(6, d))
    largest = max(np.abs(q).max(), np.abs(k).max())
    assert flat(q, k, d**-0.5)["gamma_as"] == pytest.approx(d**0.25 * largest)
    assert flat(q, k, 1 / d)["gamma_as"] == pytest.approx(largest)


def test_softcap():
    assert softcapped(0.1, 50.0) == pytest.approx(0.1, rel=1e-6)
    assert softcapped(1e10, 50.0) == pytest.approx(np.sqrt(50.0))
    S = 40.0
    assert softcapped(np.sqrt(S), 50.0) ** 2 == pytest.approx(50.0 * np.tanh(S / 50.0))


def test_refusals():
    with pytest.raises(ValueError, match=r"length must be finite and above 1 .*got 1"):
        chain(Q, K[:1], BETA)
    with pytest.raises(ValueError, match="above 1"):
        chain(Q, K, BETA, padded_keys=np.arange(23) > 0)
    with pytest.raises(ValueError, match=r"q of shape \(23, 5\) does not fit k of shape \(23, 4\)"):
        chain(Q, K[:, :4], BETA)
    with pytest.raises(ValueError, match="k contains NaN"):
        chain(Q, np.where(K > 2, np.nan, K), BETA)
    with pytest.raises(ValueError, match="beta must be finite and positive, got 0"):
        chain(Q, K, 0.0)
    with pytest.raises(ValueError, match="as many queries as keys, got 23 and 20"):
        chain(Q, K[:20], BETA, mask="causal")
    with pytest.raises(ValueError, match="position 0 sees no key"):
        row_logits(Q, K, BETA, mask="causal", padded_keys=np.arange(23) < 2)
    with pytest.raises(ValueError, match="all 23 keys are padded"):
        chain(Q, K, BETA, padded_keys=np.ones(23, bool))
    with pytest.raises(ValueError, match="boolean of shape"):
        chain(Q, K, BETA, padded_queries=np.zeros(22, bool))
    with pytest.raises(ValueError, match="boolean of shape"):
        chain(Q, K, BETA, padded_queries=np.zeros(23))
    with pytest.raises(ValueError, match="block_rows must be at least 1"):
        chain(Q, K, BETA, block_rows=0)
    with pytest.raises(ValueError, match="cannot be negative"):
        channel_norms([-1.0], [1.0], 1.0)
