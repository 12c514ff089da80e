"""Two worked models and two closed cases, to digits computed independently of this code."""

import numpy as np
import pytest

from theory.lora_limits.chain import chain
from theory.lora_limits.data_free import entry_bounds, logit_bound, logit_bound_rope, token_bound
from theory.lora_limits.normed_rows import NormLayer, normed_rows
from theory.lora_limits.norms import literal_norms, max_entry
from theory.lora_limits.projections import LowRankUpdate, project
from theory.lora_limits.scaling import alpha_room, scaling_interval
from theory.lora_limits.spherical import spherical_median
from theory.lora_limits.sweep import gaussian_crossover, prefix_ratios, running_maximum
from theory.lora_limits.thresholds import band, head_verdict, ratio, threshold

DIGITS = 1e-8
HEADS = (slice(0, 4), slice(4, 8))


def test_small_model():
    X = np.array([[1.0, 0], [0, 1], [1, 1], [2, -1]])
    WQ, WK = np.array([[0.5, 0], [0, -0.25]]).T, np.array([[0.2, 0.1], [0, 0.3]]).T
    update = LowRankUpdate([[1.0, 2.0]], [[0.5], [-1.0]], 0.2)
    q, k, v = project(X, WQ, None, update), project(X, WK), project(X, np.eye(2))
    norms = literal_norms(X, q, k, v, key_weight=WK, scaling=0.2)
    assert (norms.gamma_x, norms.c1, norms.gamma_q_base) == pytest.approx((2, 0.4, 1), abs=DIGITS)
    assert (norms.gamma_dq, norms.gamma_q, norms.gamma_k) == pytest.approx((0.6, 1, 0.4))
    assert norms.gamma_qkt == pytest.approx(0.255, abs=DIGITS)
    assert (norms.gamma_partial, norms.gamma_full) == pytest.approx((1.0, 2.0), abs=DIGITS)
    assert norms.gamma_hard == pytest.approx(0.6) and norms.c2 == norms.gamma_k_base

    entries, logits = chain(q.adapted, k.adapted, 2**-0.5)
    channels = entries.channels
    assert channels.gamma_as == pytest.approx(1.18920712, abs=DIGITS)
    assert channels.gamma_bal == pytest.approx(0.75212062, abs=DIGITS)
    assert channels.gamma_chan == pytest.approx(0.75212062, abs=DIGITS)
    assert channels.gamma_chansum == pytest.approx(0.72336645, abs=DIGITS)
    assert logits.gamma_logit == pytest.approx(0.53514320, abs=DIGITS)
    assert logits.gamma_range == pytest.approx(0.48305821, abs=DIGITS)
    assert entries.rem_ratio == pytest.approx(0.07169150, abs=DIGITS)
    assert logits.ipr == pytest.approx(0.25376373, abs=DIGITS)

    of_entries, of_logits = ratio(channels.gamma_as, 4), ratio(logits.gamma_logit, 4)
    assert (of_entries, of_logits) == pytest.approx((1.0100, 0.4545), abs=5e-5)
    assert band(of_entries) == "near" and head_verdict(of_entries, of_logits) == "effective"

    assert q.update is not None
    interval = scaling_interval(q.base, q.update / 0.2, threshold(4))
    assert interval.low == pytest.approx(-0.47580334, abs=DIGITS)
    assert alpha_room(interval, 0.2, 1).alpha_max == pytest.approx(0.30913667, abs=DIGITS)


def wave(a: float, b: float, size: float, rows: int, columns: int) -> np.ndarray:
    i, j = np.arange(rows)[:, None], np.arange(columns)
    return size * np.cos(a * i + b * j + 0.2 * i * j)


POSITION, CHANNEL = np.arange(12)[:, None], np.arange(8)
WAVES = 1.5 * np.sin(0.7 * POSITION + 1.3 * CHANNEL + 0.1 * POSITION * CHANNEL)
WQ, WK, WV = (wave(a, b, 0.5, 8, 8).T for a, b in [(0.9, 0.4), (0.3, 1.1), (1.7, 0.6)])
UPDATE = LowRankUpdate(wave(0.5, 0.8, 0.4, 2, 8), wave(1.2, 0.3, 0.4, 8, 2), 4 / 2)

LITERAL = [  # q_base, dq, q, k, qkt
    (2.79631308, 1.86542820, 3.96793711, 2.03155280, 4.92289625),
    (2.76642605, 1.46745520, 3.09490974, 2.81819449, 2.94278462),
]
ENTRIES = [  # as, bal, chan, chansum, rem
    (5.61151048, 4.01523941, 3.67042677, 2.49451024, 0.38242872),
    (4.37686333, 4.17661527, 4.17661527, 3.67084230, 1.03765410),
]
LOGITS = [  # logit, range, range causal, ipr, ipr causal
    (1.95677649, 1.74924458, 1.19199418, 0.13206441, 0.29044618),
    (2.39654809, 2.37497175, 2.37497175, 0.38981149, 0.59789657),
]


@pytest.mark.parametrize("head", [0, 1])
def test_wave_model(head):
    q, k = project(WAVES, WQ, None, UPDATE).head(HEADS[head]), project(WAVES, WK[HEADS[head]])
    n = literal_norms(WAVES, q, k, key_weight=WK[HEADS[head]])
    literal = (n.gamma_q_base, n.gamma_dq, n.gamma_q, n.gamma_k, n.gamma_qkt)
    assert literal == pytest.approx(LITERAL[head], abs=DIGITS)
    entries, full = chain(q.adapted, k.adapted, 0.5)
    _, causal = chain(q.adapted, k.adapted, 0.5, mask="causal")
    c = entries.channels
    of_entries = (c.gamma_as, c.gamma_bal, c.gamma_chan, c.gamma_chansum, entries.rem_ratio)
    of_logits = (full.gamma_logit, full.gamma_range, causal.gamma_range, full.ipr, causal.ipr)
    assert of_entries == pytest.approx(ENTRIES[head], abs=DIGITS)
    assert of_logits == pytest.approx(LOGITS[head], abs=DIGITS)


def test_wave_model_over_scalings_and_lengths():
    q = project(WAVES, WQ, None, UPDATE)
    assert max_entry(project(WAVES, WV).base) == pytest.approx(3.07187859, abs=DIGITS)
    direction = project(WAVES, WQ, None, LowRankUpdate(UPDATE.lora_A, UPDATE.lora_B, 1.0)).update
    assert direction is not None
    four, five = (scaling_interval(q.base, direction, g) for g in (4.0, 5.0))
    assert (four.low, four.high) == pytest.approx((-3.10598148, 2.03437590), abs=DIGITS)
    assert (five.low, five.high) == pytest.approx((-4.83819988, 3.10651580), abs=DIGITS)
    assert scaling_interval(q.base, direction, threshold(12)).empty
    ratios = prefix_ratios(running_maximum(q.adapted), [2, 4, 8, 12])
    expected = [4.76597818, 3.37005549, 2.75163878, 2.51715374]
    np.testing.assert_allclose(ratios, expected, atol=DIGITS, rtol=0)


def test_wave_model_without_data():
    norm = NormLayer("rmsnorm", 1 + 0.1 * np.arange(8))
    bounds = entry_bounds(normed_rows(WQ, norm))[:4]
    expected = [4.12790397, 3.66176057, 4.00849132, 3.78111228]
    np.testing.assert_allclose(bounds, expected, atol=DIGITS, rtol=0)
    for head, plain, rotated in zip(
        HEADS, (11.89358022, 12.07284909), (14.21235253, 14.68981132), strict=True
    ):
        q, k = normed_rows(WQ[head], norm), normed_rows(WK[head], norm)
        assert logit_bound(q, k, 0.5) == pytest.approx(plain, abs=DIGITS)
        both = logit_bound_rope(token_bound(q), token_bound(k), 0.5)
        assert both == pytest.approx(rotated, abs=DIGITS)


def test_one_channel_behind_a_norm():
    row, gain, bias = [[1, 2, -1, 0.5]], [1, 0.5, 2, 1], [0.1, -0.2, 0, 0.3]
    rms = normed_rows(row, NormLayer("rmsnorm", gain))
    layer = normed_rows(row, NormLayer("layernorm", gain, bias))
    assert entry_bounds(rms) == pytest.approx([5.0], abs=DIGITS)
    assert entry_bounds(layer) == pytest.approx([5.12493719], abs=DIGITS)


def test_typical_maxima():
    assert spherical_median(np.ones(12), 48, 512, "rmsnorm") == pytest.approx(
        3.62805891, abs=DIGITS
    )
    for std, length in ((0.5, 19.85), (0.6, 1217.7)):
        found = gaussian_crossover(std, 64)
        assert found is not None and 10**found == pytest.approx(length, rel=1e-3)
