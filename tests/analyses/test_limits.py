"""Norm limits of attention heads: worked cases to their digits, dense computations, properties."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analyzer.analyses.limits import lora_limits
from analyzer.analyses.limits_arrays import HeadGain, LayerArrays, Linear, Norms
from analyzer.analyses.limits_bounds import data_free_limits
from analyzer.analyses.limits_measured import measured_limits
from analyzer.analyses.limits_tokens import base_tokens
from analyzer.analyses.limits_typical import spherical_limits
from analyzer.analyses.limits_verdicts import Length, cost_fields
from analyzer.analyses.rows_limits import HeadLimits, HeadSweep
from analyzer.checkpoints.attention.types import AttentionLayer, HeadNorm, Norm, Projection, Rotary
from analyzer.errors import UsageError
from theory.lora_limits.alibi import alibi_slopes
from theory.lora_limits.normed_rows import NormKind, NormLayer
from theory.lora_limits.polynomial import certified_degree
from theory.lora_limits.projections import DenseUpdate, LowRankUpdate, Update
from theory.lora_limits.sweep import gaussian_crossover

DIGITS = 1e-8
Array = np.ndarray
LITERAL = (
    "gamma_x", "gamma_q_base", "gamma_dq", "gamma_q", "gamma_k_base", "gamma_dk", "gamma_k",
    "gamma_v", "gamma_qkt", "c2", "c3", "gamma_partial", "gamma_full", "gamma_hard",
)  # fmt: skip
CHAIN = ("gamma_as", "gamma_bal", "gamma_chan", "gamma_chansum", "gamma_logit")


def values(row: HeadLimits, *names: str) -> tuple[float, ...]:
    return tuple(getattr(row, name) for name in names)


# Two worked models and closed cases, computed independently of this code.

SMALL_X = np.array([[1.0, 0], [0, 1], [1, 1], [2, -1]])
SMALL_Q, SMALL_K = np.array([[0.5, 0], [0, -0.25]]).T, np.array([[0.2, 0.1], [0, 0.3]]).T


def small(x: Array = SMALL_X, **others: Any) -> HeadLimits:
    update = LowRankUpdate([[1.0, 2.0]], [[0.5], [-1.0]], 0.2)
    (row,) = lora_limits(
        SMALL_Q, SMALL_K, np.eye(2), n_heads=1, q_update=update, lora_alpha=0.2, x=x,
        causal=False, **others,
    )  # fmt: skip
    return row


def test_small_model() -> None:
    row = small()
    assert (row.source, row.L, row.n_tokens, row.n_samples) == ("activations", 4, 4, 1)
    expected = {
        "threshold": 1.17741002, "beta": 2**-0.5, "gamma_x": 2.0, "c1": 0.4, "gamma_q_base": 1.0,
        "gamma_dq": 0.6, "gamma_q": 1.0, "gamma_k": 0.4, "gamma_k_base": 0.4, "gamma_dk": 0.0,
        "gamma_qkt": 0.255, "gamma_v": 2.0, "c2": 0.4, "c3": 2.0, "gamma_partial": 1.0,
        "gamma_full": 2.0, "gamma_hard": 0.6, "gamma_as": 1.18920712, "gamma_bal": 0.75212062,
        "gamma_chan": 0.75212062, "gamma_chansum": 0.72336645, "gamma_logit": 0.53514320,
        "gamma_range": 0.48305821, "rem_ratio": 0.07169150, "ipr": 0.25376373,
        "scaling_low": -0.47580334, "scaling_high": 0.30913667, "alpha_max": 0.30913667,
        "eps": 0.25, "scaling": 0.2,
    }  # fmt: skip
    for name, value in expected.items():
        assert getattr(row, name) == pytest.approx(value, abs=DIGITS), name
    assert row.ratio_as == pytest.approx(1.0100, abs=5e-5) and row.band_as == "near"
    assert row.ratio_logit == pytest.approx(0.4545, abs=5e-5) and row.band_logit == "below"
    assert row.verdict == "effective" and row.touches_qk and row.alpha_unbounded is False
    assert row.headroom == pytest.approx(0.30913667 / 0.2, abs=1e-7)
    assert row.log10_L_star_as == pytest.approx(1.18920712**2 / math.log(10), abs=DIGITS)


def wave(a: float, b: float, size: float, rows: int, columns: int) -> Array:
    i, j = np.arange(rows)[:, None], np.arange(columns)
    return size * np.cos(a * i + b * j + 0.2 * i * j)


POSITION, CHANNEL = np.arange(12)[:, None], np.arange(8)
WAVES = 1.5 * np.sin(0.7 * POSITION + 1.3 * CHANNEL + 0.1 * POSITION * CHANNEL)
WQ, WK, WV = (wave(a, b, 0.5, 8, 8).T for a, b in [(0.9, 0.4), (0.3, 1.1), (1.7, 0.6)])
UPDATE = LowRankUpdate(wave(0.5, 0.8, 0.4, 2, 8), wave(1.2, 0.3, 0.4, 8, 2), 4 / 2)
WAVE_NAMES = (
    "gamma_q_base", "gamma_dq", "gamma_q", "gamma_k", "gamma_qkt", "gamma_as", "gamma_bal",
    "gamma_chan", "gamma_chansum", "gamma_logit", "rem_ratio",
)  # fmt: skip
WAVE_NORMS = [
    (2.79631308, 1.86542820, 3.96793711, 2.03155280, 4.92289625, 5.61151048, 4.01523941,
     3.67042677, 2.49451024, 1.95677649, 0.38242872),
    (2.76642605, 1.46745520, 3.09490974, 2.81819449, 2.94278462, 4.37686333, 4.17661527,
     4.17661527, 3.67084230, 2.39654809, 1.03765410),
]  # fmt: skip
RANGES = {  # range, ipr
    False: [(1.74924458, 0.13206441), (2.37497175, 0.38981149)],
    True: [(1.19199418, 0.29044618), (2.37497175, 0.59789657)],
}


def waves(**others: Any) -> tuple[HeadLimits, ...]:
    options: dict[str, Any] = {"q_update": UPDATE, "lora_alpha": 4.0, "beta": 0.5} | others
    return lora_limits(WQ, WK, WV, n_heads=2, **options)


@pytest.mark.parametrize("causal", [False, True])
def test_wave_model(causal: bool) -> None:
    rows = waves(x=WAVES, causal=causal)
    assert [row.head for row in rows] == [0, 1]
    assert rows[0].threshold == pytest.approx(1.57635867, abs=DIGITS)
    assert max(row.c3 or 0.0 for row in rows) == pytest.approx(3.07187859, abs=DIGITS)
    for row, norms, of_range in zip(rows, WAVE_NORMS, RANGES[causal], strict=True):
        names = WAVE_NAMES[:-2] + WAVE_NAMES[-1:] if causal else WAVE_NAMES
        known = dict(zip(WAVE_NAMES, norms, strict=True))
        assert values(row, *names) == pytest.approx([known[name] for name in names], abs=DIGITS)
        assert values(row, "gamma_range", "ipr") == pytest.approx(of_range, abs=DIGITS)
        # the base alone exceeds the threshold
        assert values(row, "scaling_low", "scaling_high", "alpha_max", "headroom") == (None,) * 4
        assert row.alpha_unbounded is False


@pytest.mark.parametrize(
    ("limit", "low", "high"), [(4.0, -3.10598148, 2.03437590), (5.0, -4.83819988, 3.10651580)]
)
def test_wave_model_over_scalings(limit: float, low: float, high: float) -> None:
    """The constant c moves the threshold; an interval of all heads is the intersection."""
    rows = waves(x=WAVES, c=limit / math.sqrt(math.log(12)))
    assert rows[0].threshold == pytest.approx(limit)
    assert max(r.scaling_low or 0.0 for r in rows) == pytest.approx(low, abs=DIGITS)
    assert min(r.scaling_high or 0.0 for r in rows) == pytest.approx(high, abs=DIGITS)
    assert min(r.alpha_max or 0.0 for r in rows) == pytest.approx(2 * high, abs=DIGITS)


def test_wave_model_over_lengths() -> None:
    _, sweep = measured(WQ, WK, WAVES, n_heads=2, q_update=UPDATE, beta=0.5)
    ratios = {n: max(one.ratio_q for one in sweep if n == one.L) for n in (2, 4, 8, 12)}
    assert sorted({one.L for one in sweep}) == [2, 4, 8, 12]
    expected = [4.76597818, 3.37005549, 2.75163878, 2.51715374]
    np.testing.assert_allclose(list(ratios.values()), expected, atol=DIGITS, rtol=0)


@pytest.mark.parametrize(
    ("rotary", "logits"),
    [
        (None, (11.89358022, 12.07284909)),
        (Rotary(4, "half", (1.0, 0.1)), (14.21235253, 14.68981132)),
    ],
)
def test_wave_model_without_data(rotary: Rotary | None, logits: tuple[float, float]) -> None:
    norm = NormLayer("rmsnorm", 1 + 0.1 * np.arange(8))
    rows = waves(q_update=None, norm=norm, length=12, rotary=rotary)
    bounds = [row for row in rows if row.source == "data_free"]
    assert bounds[0].gamma_q == pytest.approx(4.12790397, abs=DIGITS)
    found = [row.gamma_logit**2 for row in bounds if row.gamma_logit]
    assert found == pytest.approx(logits, abs=DIGITS)


def test_one_channel_behind_a_norm() -> None:
    row, gain, bias = np.array([[1, 2, -1, 0.5]]), [1, 0.5, 2, 1], [0.1, -0.2, 0, 0.3]
    for norm, bound in (
        (NormLayer("rmsnorm", gain), 5.0),
        (NormLayer("layernorm", gain, bias), 5.12493719),
    ):
        found = lora_limits(row, row, n_heads=1, norm=norm, length=64)
        assert found[0].gamma_q == found[0].gamma_k == pytest.approx(bound, abs=DIGITS)


def test_typical_values() -> None:
    rows = np.eye(12, 48)
    norm = NormLayer("rmsnorm", np.ones(48))
    bound, typical = lora_limits(rows, 2 * rows, n_heads=1, norm=norm, length=512)
    assert (bound.source, typical.source) == ("data_free", "spherical")
    assert typical.gamma_q == pytest.approx(3.62805891, abs=DIGITS)
    assert typical.gamma_k == pytest.approx(2 * 3.62805891, abs=DIGITS)
    assert bound.gamma_q == pytest.approx(6.92820323, abs=DIGITS)
    assert typical.verdict is None and typical.gamma_logit is None


@pytest.mark.parametrize(
    ("width", "radius", "exponent"),
    [(8, 1, 0.86), (64, 1, 1.95), (128, 1, 2.35), (8, 10, 1.80), (64, 10, 5.27), (128, 10, 6.76)],
)
def test_cost_at_usual_widths(width: int, radius: float, exponent: float) -> None:
    cost = cost_fields(width, 4096, radius, relative=False)
    assert cost["rank_exponent"] == pytest.approx(exponent, abs=0.005)
    assert cost["rank_exponent"] * math.log10(4096) == pytest.approx(cost["log10_features"])


# Random layers, against dense computations.


def attention(**fields: Any) -> AttentionLayer:
    defaults: dict[str, Any] = {
        "name": "", "stack": None, "layer": 0, "query": Projection("q", "q", None, ()),
        "key": Projection("k", "k", None, ()), "value": None, "n_heads": 1, "n_kv_heads": 1,
        "beta": None, "causal": True, "norm": None,
    }  # fmt: skip
    merged = defaults | fields
    merged["beta"] = merged["beta"] or merged["head_width"] ** -0.5
    return AttentionLayer(**merged)


def measured(
    wq: Array,
    wk: Array,
    x: Array,
    *,
    q_update: Update | None = None,
    norms: Norms | None = None,
    tuned: Norms | None = None,
    padded: Array | None = None,
    **fields: Any,
) -> tuple[list[HeadLimits], list[HeadSweep]]:
    """What `lora_limits` leaves to the scan: windows, caps, biases, norms of queries and keys."""
    fields["n_heads"] = fields.get("n_heads", 1)
    fields["n_kv_heads"] = fields.get("n_kv_heads", fields["n_heads"])
    layer = attention(head_width=len(wq) // fields["n_heads"], **fields)
    arrays = LayerArrays(
        Linear(wq, None, q_update), Linear(wk), None, norms or Norms(), tuned or norms or Norms()
    )
    states = x if x.ndim == 3 else x[None]
    return measured_limits(layer, arrays, base_tokens(arrays, states, padded))


def turned(heads: Array, rotary: Rotary) -> Array:
    """Pairs as complex numbers, times e^{imω}."""
    found = heads.copy()
    half = rotary.width // 2
    first = np.arange(half) if rotary.layout == "half" else 2 * np.arange(half)
    second = first + (half if rotary.layout == "half" else 1)
    angles = np.outer(np.arange(len(heads)), np.asarray(rotary.frequencies))
    z = (heads[:, first] + 1j * heads[:, second]) * np.exp(1j * angles) * rotary.factor
    found[:, first], found[:, second] = z.real, z.imag
    return found


def dense(
    q: Array, k: Array, beta: float, visible: Array, bias: Array | float = 0.0
) -> dict[str, float]:
    """Every norm of the chain by its definition, from queries and keys after RoPE."""
    S = beta * q @ k.T + bias
    width = q.shape[1]
    qc, kc = np.abs(q).max(axis=0), np.abs(k).max(axis=0)
    low = np.where(visible, S, np.inf).min(axis=1)
    high = np.where(visible, S, -np.inf).max(axis=1)
    F = np.where(visible, np.exp(S - high[:, None]), 0.0)
    F /= F.sum(axis=1, keepdims=True)
    plain = beta * q @ k.T
    return {
        "gamma_as": math.sqrt(beta * width) * max(qc.max(), kc.max()),
        "gamma_bal": math.sqrt(beta * width * qc.max() * kc.max()),
        "gamma_chan": math.sqrt(beta * width * (qc * kc).max()),
        "gamma_chansum": math.sqrt(beta * (qc * kc).sum()),
        "gamma_logit": math.sqrt(np.abs(np.where(visible, S, 0.0)).max()),
        "gamma_range": math.sqrt((high - low).max() / 2),
        "ipr": float((F**2).sum(axis=1).mean()),
        "rem_ratio": math.sqrt(plain.var(axis=1).mean()) / math.sqrt(2 * math.log(len(k))),
    }


def causal_mask(n: int) -> Array:
    return np.tri(n, dtype=bool)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    "rotary",
    [
        None,
        Rotary(6, "half", (1.0, 0.2, 0.03)),
        Rotary(6, "adjacent", (1.0, 0.2, 0.03)),
        Rotary(4, "adjacent", (0.9, 0.3), factor=1.3),
    ],
)
def test_grouped_heads_against_dense(rotary: Rotary | None, causal: bool) -> None:
    rng = np.random.default_rng(3)
    L, d, width, heads, kv_heads = 13, 10, 6, 4, 2
    wq, wk, wv = (rng.standard_normal((n * width, d)) for n in (heads, kv_heads, kv_heads))
    bq, bk, bv = (rng.standard_normal(len(w)) for w in (wq, wk, wv))
    x = rng.standard_normal((L, d))
    updates = [
        LowRankUpdate(rng.standard_normal((2, d)), rng.standard_normal((len(w), 2)), 0.7)
        for w in (wq, wk, wv)
    ]
    rows = lora_limits(
        wq, wk, wv, n_heads=heads, n_kv_heads=kv_heads, q_bias=bq, k_bias=bk, v_bias=bv,
        q_update=updates[0], k_update=updates[1], v_update=updates[2], x=x, causal=causal,
        rotary=rotary, lora_alpha=1.4,
    )  # fmt: skip
    deltas = [u.scaling * np.asarray(u.lora_B) @ np.asarray(u.lora_A) for u in updates]
    visible = causal_mask(L) if causal else np.ones((L, L), dtype=bool)
    assert [row.kv_head for row in rows] == [0, 0, 1, 1]
    for h, row in enumerate(rows):
        of_q, of_k = (slice(n * width, (n + 1) * width) for n in (h, h // 2))
        merged_q, merged_k = (w + dw for w, dw in zip((wq, wk), deltas, strict=False))
        q, k = x @ merged_q[of_q].T + bq[of_q], x @ merged_k[of_k].T + bk[of_k]
        q0, k0 = x @ wq[of_q].T + bq[of_q], x @ wk[of_k].T + bk[of_k]
        v0 = x @ wv[of_k].T + bv[of_k]
        top = lambda *arrays: max(float(np.abs(a).max()) for a in arrays)  # noqa: E731
        qkt = q @ merged_k[of_k]
        expected = {
            "gamma_x": top(x), "gamma_q_base": top(q0), "gamma_dq": top(x @ deltas[0][of_q].T),
            "gamma_q": top(q), "gamma_k_base": top(k0), "gamma_dk": top(x @ deltas[1][of_k].T),
            "gamma_k": top(k), "gamma_v": top(v0 + x @ deltas[2][of_k].T), "gamma_qkt": top(qkt),
            "c1": 0.7 * top(x), "c2": top(k0), "c3": top(v0), "gamma_partial": top(q, k0),
            "gamma_full": top(q, k, qkt, x), "gamma_hard": top(k0, x @ deltas[0][of_q].T),
        }  # fmt: skip
        at = (lambda a: a) if rotary is None else (lambda a: turned(a, rotary))
        expected |= dense(at(q), at(k), width**-0.5, visible)
        change = at(q) @ centred(at(k)).T - at(q0) @ centred(at(k0)).T
        expected["delta_logit"] = np.abs(np.where(visible, change, 0.0)).max() * width**-0.5
        for name, value in expected.items():
            assert getattr(row, name) == pytest.approx(value, rel=1e-9), name
        rank = np.linalg.matrix_rank(change, rtol=1e-6)
        assert row.delta_rank == rank and (rotary is not None or rank <= 4)
        tokens = np.abs(q).max(axis=1)
        assert values(row, "q_token_q50", "q_token_q99") == pytest.approx(
            tuple(np.quantile(tokens, [0.5, 0.99]))
        )


def centred(keys: Array) -> Array:
    return keys - keys.mean(axis=0)


@pytest.mark.parametrize("causal", [False, True])
def test_cost_is_that_of_the_logits_that_are_left_after_a_shift(causal: bool) -> None:
    """Of the mean key where the accuracy is absolute, of the middle of each row where relative."""
    rng = np.random.default_rng(13)
    wq, wk, x = rng.standard_normal((4, 5)), rng.standard_normal((4, 5)), rng.random((2, 9, 5))
    (row,) = lora_limits(wq, wk, n_heads=1, x=x, causal=causal)
    radius = 0.0
    for one in x:
        q, k = one @ wq.T, one @ wk.T
        S = 0.5 * q @ (k if causal else centred(k)).T
        if causal:
            spread = [np.ptp(S[i, : i + 1]) for i in range(9)]
            radius = max(radius, max(spread) / 2)
        else:
            radius = max(radius, np.abs(S).max())
    degree = certified_degree(radius, 1 / 9, relative=causal)
    assert row.degree == degree
    features = math.comb(4 + degree, degree)
    assert row.log10_features == pytest.approx(math.log10(features))
    assert row.rank_exponent == pytest.approx(math.log(features) / math.log(9))
    assert row.log10_L_gaussian == gaussian_crossover(float((x @ wq.T).std()), 4)


def test_a_full_fine_tune_is_the_difference() -> None:
    rng = np.random.default_rng(4)
    wq, wk, dq = (rng.standard_normal((6, 5)) for _ in range(3))
    bias, moved = rng.standard_normal(6), rng.standard_normal(6)
    x = rng.standard_normal((9, 5))
    update = DenseUpdate(dq, moved)
    tuned = lora_limits(wq, wk, n_heads=2, q_bias=bias, q_update=update, x=x)
    merged = lora_limits(wq + dq, wk, n_heads=2, q_bias=bias + moved, x=x)
    change = np.abs(x @ dq.T + moved).max(axis=0)
    for row, other, part in zip(tuned, merged, (change[:3], change[3:]), strict=True):
        assert row.gamma_dq == pytest.approx(part.max(), rel=1e-12)
        names = ("gamma_q", *CHAIN, "gamma_range", "ipr", "gamma_qkt")
        assert values(row, *names) == pytest.approx(values(other, *names), rel=1e-9)
        assert row.r is None and row.alpha_max is None and not other.touches_qk


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1))
def test_factored_and_merged_weights_agree(seed: int) -> None:
    rng = np.random.default_rng(seed)
    d, r = int(rng.integers(4, 30)), int(rng.integers(1, 4))
    wq, wk = rng.standard_normal((2, 8, d))
    A, B = rng.standard_normal((r, d)), rng.standard_normal((8, r))
    s = float(rng.uniform(-3, 3))
    x = rng.standard_normal((11, d))
    factored = lora_limits(wq, wk, n_heads=2, q_update=LowRankUpdate(A, B, s), x=x)
    merged = lora_limits(wq + s * B @ A, wk, n_heads=2, x=x)
    names = ("gamma_q", "gamma_qkt", *CHAIN, "gamma_range", "rem_ratio", "ipr", "rank_exponent")
    for one, other in zip(factored, merged, strict=True):
        assert values(one, *names) == pytest.approx(values(other, *names), rel=1e-9)
        assert one.gamma_q_base is not None and one.touches_qk and not other.touches_qk


def test_scaling_lora_B_scales_its_norm() -> None:
    rows = waves(x=WAVES)
    other = waves(x=WAVES, q_update=replace(UPDATE, lora_B=-2.5 * np.asarray(UPDATE.lora_B)))
    for row, scaled in zip(rows, other, strict=True):
        assert scaled.gamma_dq == pytest.approx(2.5 * (row.gamma_dq or 0.0))


def test_a_batch_is_the_largest_of_its_samples() -> None:
    rng = np.random.default_rng(5)
    x = rng.standard_normal((3, 10, 8)) * np.array([1.0, 3.0, 0.5])[:, None, None]
    single = [waves(x=one) for one in x]
    names = (*LITERAL, "c1", *CHAIN, "gamma_range", "rem_ratio", "delta_logit")
    for h, row in enumerate(waves(x=x)):
        assert (row.n_samples, row.n_tokens, row.L) == (3, 30, 10)
        for name in names:
            largest = max(getattr(rows[h], name) for rows in single)
            assert getattr(row, name) == pytest.approx(largest, rel=1e-12), name
        assert row.ipr == pytest.approx(sum(rows[h].ipr or 0.0 for rows in single) / 3)


def test_padding_is_left_out() -> None:
    rng = np.random.default_rng(6)
    x = rng.standard_normal((2, 9, 8))
    x[0, 6:] = 1e6  # what stands under the padding must not matter
    padded = np.zeros((2, 9), dtype=bool)
    padded[0, 6:] = True
    cut, whole = waves(x=x[0, :6]), waves(x=x[1])
    names = (*LITERAL, *CHAIN, "gamma_range")
    for row, one, other in zip(waves(x=x, padded=padded), cut, whole, strict=True):
        largest = tuple(map(max, values(one, *names), values(other, *names)))
        assert values(row, *names) == pytest.approx(largest, rel=1e-12)
        assert (row.n_tokens, row.L) == (15, 9)
    only = waves(x=x[0], padded=padded[0])
    assert [values(r, *names) for r in only] == [values(r, *names) for r in cut]


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**32 - 1))
def test_sweep_rows_are_those_of_prefixes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    wq, wk = rng.standard_normal((2, 8, 6))
    x = rng.standard_normal((int(rng.integers(1, 3)), int(rng.integers(5, 20)), 6))
    rotary = Rotary(4, "half", (1.0, 0.1)) if rng.random() < 0.5 else None
    rows, sweep = measured(wq, wk, x, n_heads=2, rotary=rotary)
    lengths = sorted({one.L for one in sweep})
    assert lengths[0] == 2 and lengths[-1] == x.shape[1] == rows[0].L
    for head in (0, 1):
        of_head = sorted((one for one in sweep if one.head == head), key=lambda one: one.L)
        for one, last in zip(of_head[1:], of_head, strict=False):
            for name in ("gamma_q", "gamma_as", "gamma_chansum", "gamma_logit"):
                assert getattr(one, name) >= getattr(last, name)
        for one in of_head:
            row = measured(wq, wk, x[:, : one.L], n_heads=2, rotary=rotary)[0][head]
            names = (
                "threshold", "gamma_q", "gamma_as", "gamma_chansum", "gamma_logit", "ratio_as",
                "ratio_logit",
            )  # fmt: skip
            of_prefix = values(row, *names)
            assert tuple(getattr(one, n) for n in names) == pytest.approx(of_prefix, rel=1e-9)
            assert one.ratio_q == pytest.approx(one.gamma_q / one.threshold)


def test_bidirectional_attention_has_no_sweep() -> None:
    assert measured(WQ, WK, WAVES, n_heads=2, causal=False)[1] == []


@pytest.mark.parametrize("heads", [1, 4, 6, 12])
def test_alibi_slopes_are_those_of_bloom(heads: int) -> None:
    import torch
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor

    mask = torch.ones(1, 3)
    theirs = build_alibi_tensor(mask, heads, torch.float64)[:, 0, 1].numpy()
    np.testing.assert_allclose(alibi_slopes(heads), theirs, rtol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_alibi_enters_logits_and_not_entries(scale: float) -> None:
    rng = np.random.default_rng(7)
    wq, wk = 0.2 * rng.standard_normal((2, 12, 5))
    x = rng.standard_normal((10, 5))
    fields: dict[str, Any] = {"n_heads": 3, "logit_bias": "alibi", "bias_scale": scale}
    rows, _ = measured(wq, wk, x, **fields)
    plain, _ = measured(wq, wk, x, n_heads=3)
    distance = np.arange(10)[None, :] - np.arange(10)[:, None]
    for h, (row, other) in enumerate(zip(rows, plain, strict=True)):
        part = slice(4 * h, 4 * h + 4)
        bias = scale * alibi_slopes(3)[h] * distance
        expected = dense(x @ wq[part].T, x @ wk[part].T, 0.5, causal_mask(10), bias)
        for name, value in expected.items():
            assert getattr(row, name) == pytest.approx(value, rel=1e-9), name
        assert row.gamma_logit != other.gamma_logit
        assert values(row, *CHAIN[:4]) == values(other, *CHAIN[:4])


@pytest.mark.parametrize("window", [1, 3, 8, 50])
def test_a_window_hides_earlier_keys(window: int) -> None:
    rng = np.random.default_rng(8)
    wq, wk = rng.standard_normal((2, 4, 5))
    x = rng.standard_normal((20, 5))
    ((row,), sweep) = measured(wq, wk, x, window=window)
    distance = np.arange(20)[:, None] - np.arange(20)
    visible = (distance >= 0) & (distance < window)
    for name, value in dense(x @ wq.T, x @ wk.T, 0.5, visible).items():
        assert getattr(row, name) == pytest.approx(value, rel=1e-9, abs=1e-12), name
    assert sweep[-1].gamma_logit == pytest.approx(row.gamma_logit, rel=1e-12)


@pytest.mark.parametrize(("tokens", "seen"), [(5, True), (6, False), (12, False)])
def test_a_window_to_both_sides_says_why_there_are_no_logits(tokens: int, seen: bool) -> None:
    """A query of a window of 9 sees 4 keys on each side."""
    rng = np.random.default_rng(8)
    wq, wk = rng.standard_normal((2, 4, 5))
    x = rng.standard_normal((tokens, 5))
    ((row,), _) = measured(wq, wk, x, window=9, causal=False)
    distance = np.abs(np.arange(tokens)[:, None] - np.arange(tokens))
    assert seen == bool((distance <= 9 // 2).all())
    if seen:
        everything = dense(x @ wq.T, x @ wk.T, 0.5, distance <= 4)
        assert row.gamma_logit == pytest.approx(everything["gamma_logit"], rel=1e-9)
        assert row.warnings is None
    else:
        assert row.gamma_logit is None and row.gamma_as is not None
        assert row.warnings is not None and "window of 9" in row.warnings


@pytest.mark.parametrize("cap", [0.5, 30.0])
def test_a_softcap_is_reported_beside_the_logit(cap: float) -> None:
    rng = np.random.default_rng(9)
    wq, wk = rng.standard_normal((2, 4, 5))
    x = rng.standard_normal((12, 5))
    ((row,), _) = measured(wq, wk, x, softcap=cap)
    ((plain,), _) = measured(wq, wk, x)
    S = np.where(causal_mask(12), 0.5 * (x @ wq.T) @ (x @ wk.T).T, 0.0)
    assert row.gamma_logit == plain.gamma_logit == pytest.approx(math.sqrt(np.abs(S).max()))
    assert row.gamma_logit_capped == pytest.approx(
        math.sqrt(np.abs(cap * np.tanh(S / cap)).max()), rel=1e-12
    )
    assert plain.gamma_logit_capped is None


def test_unknown_positions_leave_the_literal_norms() -> None:
    rotary = Rotary(4, "half", None, detail="scaling of positions 'new' is not supported")
    rows = waves(x=WAVES, rotary=rotary)
    for row, norms in zip(rows, WAVE_NORMS, strict=True):
        assert values(row, *WAVE_NAMES[:5]) == pytest.approx(norms[:5], abs=DIGITS)
        assert values(row, *CHAIN, "verdict", "rank_exponent") == (None,) * 7
        assert row.warnings is not None and "'new' is not supported" in row.warnings


# Bounds.


def random_tokens(rng: np.random.Generator, n: int, norm: NormLayer) -> Array:
    """Outputs of the norm layer, among them some that point along one channel."""
    gain = np.asarray(norm.gain)
    z = rng.standard_normal((n, gain.size)) * np.exp(2 * rng.standard_normal(gain.size))
    z[0] = np.eye(gain.size)[0]
    if norm.kind == "layernorm":
        z -= z.mean(axis=1, keepdims=True)
    z *= math.sqrt(gain.size) / np.linalg.norm(z, axis=1, keepdims=True)
    return z * gain + (0.0 if norm.bias is None else np.asarray(norm.bias))


def random_norm(rng: np.random.Generator, d: int, kind: NormKind) -> NormLayer:
    return NormLayer(kind, rng.standard_normal(d), rng.choice([0, 1]) * rng.standard_normal(d))


def random_rotary(rng: np.random.Generator, width: int) -> Rotary | None:
    turning = int(rng.choice([0, 2, width]))
    if not turning:
        return None
    layout = "half" if rng.random() < 0.5 else "adjacent"
    frequencies = tuple(rng.uniform(0, 2, turning // 2))
    return Rotary(turning, layout, frequencies, factor=float(rng.choice([1.0, 1.4, 0.7])))


@settings(deadline=None, max_examples=120)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["layernorm", "rmsnorm"]))
def test_bounds_hold_for_what_is_measured(seed: int, kind: NormKind) -> None:
    rng = np.random.default_rng(seed)
    width, heads, d = 4, 4, int(rng.integers(5, 12))
    kv_heads = int(rng.choice([1, 2, 4]))
    norm = random_norm(rng, d, kind)
    x = np.stack([random_tokens(rng, 7, norm) for _ in range(2)])
    weights = [rng.standard_normal((n * width, d)) for n in (heads, kv_heads, kv_heads)]
    biases = [rng.choice([0, 1]) * rng.standard_normal(len(w)) for w in weights]
    updates: list[Update | None] = [None, None, None]
    for i, weight in enumerate(weights):
        n = len(weight)
        updates[i] = (
            None,
            LowRankUpdate(rng.standard_normal((2, d)), rng.standard_normal((n, 2)), 0.5),
            DenseUpdate(rng.standard_normal((n, d)), rng.standard_normal(n)),
        )[int(rng.integers(3))]
    rows = lora_limits(
        *weights, n_heads=heads, n_kv_heads=kv_heads, q_bias=biases[0], k_bias=biases[1],
        v_bias=biases[2], q_update=updates[0], k_update=updates[1], v_update=updates[2], x=x,
        norm=norm, causal=bool(rng.random() < 0.5), rotary=random_rotary(rng, width),
    )  # fmt: skip
    values_of, bounds_of = (
        [row for row in rows if row.source == source] for source in ("activations", "data_free")
    )
    assert len(values_of) == len(bounds_of) == heads
    for value, bound in zip(values_of, bounds_of, strict=True):
        assert (value.head, value.kv_head) == (bound.head, bound.kv_head)
        for name in (*LITERAL, *CHAIN):
            small_one, large = getattr(value, name), getattr(bound, name)
            assert large >= small_one * (1 - 1e-12), name
        assert bound.touches_qk == value.touches_qk
        ordered = values(bound, *CHAIN)
        assert list(ordered) == sorted(ordered, reverse=True)


def test_bounds_of_entries_are_attained() -> None:
    """By the input along a channel's own row."""
    rng = np.random.default_rng(10)
    wq, wk, wv = rng.standard_normal((3, 4, 9))
    norm = NormLayer("layernorm", rng.standard_normal(9), rng.standard_normal(9))
    for w, name in ((wq, "gamma_q"), (wk, "gamma_k"), (wv, "gamma_v")):
        A = w * np.asarray(norm.gain)
        A -= A.mean(axis=1, keepdims=True)
        z = 3 * A / np.linalg.norm(A, axis=1, keepdims=True)
        x = np.concatenate([z, -z]) * np.asarray(norm.gain) + np.asarray(norm.bias)
        value, bound, _ = lora_limits(wq, wk, wv, n_heads=1, x=x, norm=norm)
        assert getattr(value, name) == pytest.approx(getattr(bound, name), rel=1e-12)


def gained(kind: NormKind, gain: Array, bias: Array | None, per_head: bool) -> HeadGain:
    return HeadGain(kind, gain, bias, 1e-6, per_head)


def own_norms(rng: np.random.Generator, heads: int, kv_heads: int, width: int) -> Norms:
    """Norms of queries and keys, of each head or of all at once."""
    per_head = bool(rng.random() < 0.5)
    kind: NormKind = "rmsnorm" if rng.random() < 0.5 else "layernorm"
    gains = []
    for n in (heads, kv_heads):
        size = width if per_head else n * width
        bias = rng.standard_normal(size) if kind == "layernorm" else None
        gains.append(gained(kind, rng.standard_normal(size), bias, per_head))
    return Norms(None, None, *gains)


QK_NORM = HeadNorm(Norm("rmsnorm", None, None, 1e-6), per_head=True)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_bounds_behind_norms_of_queries_and_keys(seed: int, in_front: bool) -> None:
    """They need no norm in front, and hold for an update of any size."""
    rng = np.random.default_rng(seed)
    width, heads, kv_heads, d = 4, 4, 2, 6
    norms = own_norms(rng, heads, kv_heads, width)
    if in_front:
        front = random_norm(rng, d, "rmsnorm")
        norms = replace(norms, queries=front, keys=front)
        x = random_tokens(rng, 8, front)
    else:
        x = 100 * rng.standard_normal((8, d))
    wq, wk = rng.standard_normal((heads * width, d)), rng.standard_normal((kv_heads * width, d))
    update = LowRankUpdate(10 * rng.standard_normal((1, d)), rng.standard_normal((16, 1)), 3.0)
    layer = attention(
        n_heads=heads, n_kv_heads=kv_heads, head_width=width, query_norm=QK_NORM,
        key_norm=QK_NORM, rotary=random_rotary(rng, width),
    )  # fmt: skip
    arrays = LayerArrays(Linear(wq, None, update), Linear(wk), None, norms, norms)
    found, _ = measured_limits(layer, arrays, base_tokens(arrays, x[None]))
    bounds = data_free_limits(layer, arrays, Length(8, "activations"))
    names = ("gamma_q_base", "gamma_q", "gamma_k_base", "gamma_k", "gamma_partial", *CHAIN)
    for value, bound in zip(found, bounds, strict=True):
        assert value.qk_norm and bound.qk_norm
        for name in names:
            assert getattr(bound, name) >= getattr(value, name) * (1 - 1e-12), name
    assert spherical_limits(layer, arrays, Length(8, "activations")) == []


def test_norms_of_queries_and_keys_against_dense() -> None:
    rng = np.random.default_rng(11)
    wq, wk, x = rng.standard_normal((8, 5)), rng.standard_normal((4, 5)), rng.random((9, 5))
    A, B = rng.standard_normal((1, 5)), rng.standard_normal((8, 1))
    gq, gk = rng.standard_normal((2, 4))
    norms = Norms(None, None, *(gained("rmsnorm", g, None, True) for g in (gq, gk)))
    rotary = Rotary(4, "half", (1.0, 0.3))
    rows, _ = measured(
        wq, wk, x, n_heads=2, n_kv_heads=1, norms=norms, rotary=rotary, query_norm=QK_NORM,
        key_norm=QK_NORM, q_update=LowRankUpdate(A, B, 2.0),
    )  # fmt: skip

    def rms(heads: Array, gain: Array) -> Array:
        return gain * heads / np.sqrt((heads**2).mean(axis=1, keepdims=True) + 1e-6)

    for h, row in enumerate(rows):
        part = slice(4 * h, 4 * h + 4)
        q0 = rms(x @ wq[part].T, gq)
        q, k = rms(x @ (wq + 2.0 * B @ A)[part].T, gq), rms(x @ wk.T, gk)
        expected = dense(turned(q, rotary), turned(k, rotary), 0.5, causal_mask(9))
        expected |= {"gamma_q": np.abs(q).max(), "gamma_dq": np.abs(q - q0).max()}
        for name, value in expected.items():
            assert getattr(row, name) == pytest.approx(value, rel=1e-9), name
        # the change is not linear in alpha, and X W_Q W_Kᵀ is not what enters the softmax
        assert row.alpha_max is None and row.gamma_qkt is None


def test_a_certificate_of_norms_on_queries_and_keys_ignores_weights_and_adapter() -> None:
    rng = np.random.default_rng(12)
    gq, gk = 0.3 * rng.standard_normal((2, 4))
    norms = Norms(None, None, *(gained("rmsnorm", g, None, True) for g in (gq, gk)))
    layer = attention(n_heads=2, n_kv_heads=2, head_width=4, query_norm=QK_NORM, key_norm=QK_NORM)
    found = []
    for scale in (1.0, 1e3):
        wq, wk = scale * rng.standard_normal((2, 8, 6))
        update = LowRankUpdate(rng.standard_normal((2, 6)), rng.standard_normal((8, 2)), scale)
        for change in (None, update):
            arrays = LayerArrays(Linear(wq, None, change), Linear(wk), None, norms, norms)
            rows = data_free_limits(layer, arrays, Length(1024, "config"))
            found.append([replace(row, touches_qk=False) for row in rows])
    assert all(rows == found[0] for rows in found)
    row = found[0][0]
    assert row.gamma_q == pytest.approx(2 * np.abs(gq).max())
    assert row.gamma_logit == pytest.approx(math.sqrt(0.5 * 4 * np.abs(gq * gk).max()))
    assert row.verdict == "certified"


# Verdicts, adapters, errors.


@pytest.mark.parametrize(
    ("ratio_logit", "verdict"),
    [(0.2, "certified"), (0.75, "effective"), (1.0, "borderline"), (1.3, "outside")],
)
def test_verdicts_follow_the_bands(ratio_logit: float, verdict: str) -> None:
    """Logits are quadratic in the input, so that ratio_logit is linear in it."""
    now = small().ratio_logit
    assert now is not None
    row = small(SMALL_X * ratio_logit / now)
    assert row.ratio_logit == pytest.approx(ratio_logit)
    assert row.verdict == verdict
    assert (row.band_as == "below") == (verdict == "certified")


@pytest.mark.parametrize("scale", [1e-3, 0.3, 1.0, 30.0])
def test_bounds_never_say_that_a_head_is_outside(scale: float) -> None:
    norm = NormLayer("rmsnorm", np.full(8, scale))
    rows = [r for r in waves(norm=norm, length=64) if r.source == "data_free"]
    for row in rows:
        assert row.ratio_as is not None and row.ratio_logit is not None
        wanted = "undecided"
        if row.ratio_as < 0.8:
            wanted = "certified"
        elif row.ratio_logit < 0.8:
            wanted = "effective"
        assert row.verdict == wanted
    found = {row.verdict for row in rows}
    assert scale > 1e-3 or found == {"certified"}
    assert scale < 30 or found == {"undecided"}


def test_a_measured_head_is_never_undecided() -> None:
    for scale in (0.01, 0.3, 1.0, 10.0):
        assert all(row.verdict not in ("undecided", None) for row in waves(x=scale * WAVES))


@pytest.mark.parametrize("weight", [1.0, 0.1])
def test_a_fresh_adapter_changes_nothing(weight: float) -> None:
    fresh = LowRankUpdate(UPDATE.lora_A, np.zeros((8, 2)), 2.0)
    options: dict[str, Any] = {"n_heads": 2, "x": WAVES, "beta": 0.5}
    base = lora_limits(weight * WQ, WK, WV, **options)
    rows = lora_limits(weight * WQ, WK, WV, q_update=fresh, lora_alpha=4.0, **options)
    for row, before in zip(rows, base, strict=True):
        assert row.gamma_dq == 0.0 and row.gamma_q == row.gamma_q_base == before.gamma_q
        assert values(row, *CHAIN) == values(before, *CHAIN)
        assert values(row, "alpha_max", "headroom") == (None, None)
        passes = before.gamma_q is not None and before.gamma_q <= row.threshold
        assert passes == (weight < 1)
        assert row.alpha_unbounded is passes
        assert before.alpha_unbounded is None


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_alpha_may_be_raised_to_alpha_max(seed: int, rank_stabilised: bool) -> None:
    rng = np.random.default_rng(seed)
    wq, wk = 0.1 * rng.standard_normal((2, 8, 6))
    x = rng.standard_normal((16, 6))
    A, B, r = rng.standard_normal((3, 6)), rng.standard_normal((8, 3)), 3
    by = math.sqrt(r) if rank_stabilised else r

    def at(alpha: float) -> tuple[HeadLimits, ...]:
        return lora_limits(
            wq, wk, n_heads=2, q_update=LowRankUpdate(A, B, alpha / by), lora_alpha=alpha, x=x,
            rank_stabilised=rank_stabilised,
        )  # fmt: skip

    for head, row in enumerate(at(2.0)):
        if row.alpha_max is None:
            assert row.gamma_q_base is not None and row.gamma_q_base > row.threshold
            continue
        assert row.headroom == pytest.approx(row.alpha_max / 2.0)
        assert at(row.alpha_max)[head].gamma_q == pytest.approx(row.threshold, rel=1e-9)
        above = at(1.001 * row.alpha_max)[head]
        assert above.gamma_q is not None and above.gamma_q > row.threshold
        # the room does not depend on the alpha that was trained
        assert above.alpha_max == pytest.approx(row.alpha_max, rel=1e-9)
        assert above.headroom is not None and above.headroom < 1.0


def test_weight_scale_brings_the_queries_to_the_threshold() -> None:
    row = waves(x=WAVES, q_update=None)[0]
    assert row.weight_scale is not None
    scaled = lora_limits(row.weight_scale * WQ, WK, n_heads=2, x=WAVES)[0]
    assert scaled.gamma_q == pytest.approx(row.threshold)


def test_length_and_constant_of_the_threshold() -> None:
    norm = NormLayer("rmsnorm", np.ones(8))
    bound = waves(norm=norm, length=4096, c=0.5)[0]
    assert (bound.L, bound.length_from, bound.c) == (4096, "assumed", 0.5)
    assert bound.threshold == pytest.approx(0.5 * math.sqrt(math.log(4096)))
    assert bound.width_over_log == pytest.approx(4 / math.log(4096))
    measured_row = waves(x=WAVES)[0]
    assert measured_row.length_from == "activations"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"x": WAVES[:1]}, r"length.*got 1"),
        ({"x": np.where(np.arange(8) == 3, np.nan, WAVES)}, "NaN"),
        ({"x": WAVES[:, :7]}, r"\(12, 7\).*\(8, 8\)"),
        ({"x": WAVES, "padded": np.zeros((1, 5), dtype=bool)}, r"\(1, 5\).*\(1, 12, 8\)"),
        ({"x": WAVES, "padded": np.ones((1, 12), dtype=bool)}, "sample 0 has no token"),
        ({}, "hidden states x, or the norm"),
        ({"norm": NormLayer("rmsnorm", np.ones(8))}, "length"),
        ({"norm": NormLayer("rmsnorm", np.ones(8)), "length": 1}, "got 1"),
        ({"norm": NormLayer("rmsnorm", np.ones(7)), "length": 9}, r"\(8,\).*\(7,\)"),
        ({"x": WAVES, "q_update": LowRankUpdate(np.ones((2, 8)), np.ones((6, 2)), 1.0)},
         r"\(6, 2\).*\(2, 8\).*\(8, 8\)"),
        ({"x": WAVES, "q_update": LowRankUpdate(np.ones((0, 8)), np.ones((8, 0)), 1.0)}, "lora_A"),
        ({"x": WAVES, "q_update": DenseUpdate(np.ones((8, 7)))}, r"\(8, 7\).*\(8, 8\)"),
        ({"x": WAVES, "n_heads": 3}, r"3 query heads.*\(8, 8\)"),
        ({"x": WAVES, "n_kv_heads": 4}, "do not fit 4 key heads"),
        ({"x": WAVES, "beta": -1.0}, "beta"),
        ({"x": WAVES, "c": 0.0}, "constant c"),
    ],
)  # fmt: skip
def test_bad_input_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        lora_limits(WQ, WK, **{"n_heads": 2, "q_update": UPDATE} | options)


@pytest.mark.parametrize("name", ["q_weight", "k_weight", "v_weight"])
def test_a_weight_that_is_not_finite_is_refused(name: str) -> None:
    weights: dict[str, Any] = {"q_weight": WQ, "k_weight": WK, "v_weight": WV}
    weights[name] = np.where(np.eye(8) > 0, np.inf, WQ)
    with pytest.raises(UsageError, match="NaN or infinity"):
        lora_limits(**weights, n_heads=2, x=WAVES)
