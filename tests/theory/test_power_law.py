"""Tail fits against worked cases, their own sampling law, and the powerlaw package."""

import numpy as np
import pytest
from scipy.special import ndtri

from theory.power_law import (
    alpha_interval,
    bootstrap_alpha,
    fit_power_law,
    fit_with_rivals,
    pl_alpha_hill,
    scan_curve,
)
from theory.power_law_variants import fit_clipped, xmin_peak_range
from theory.random_matrix import mp_quantile

PARETO = (1 - (np.arange(500) + 0.5) / 500) ** (-1 / 1.5)
BODY_AND_TAIL = np.concatenate(
    [(np.arange(300) + 0.5) / 300, (1 - (np.arange(100) + 0.5) / 100) ** -0.5]
)
LOGNORMAL = np.exp(ndtri((np.arange(400) + 0.5) / 400))


def test_pareto_quantiles():
    fit = fit_power_law(PARETO)
    assert fit.n_tail == 500
    assert fit.xmin == pytest.approx(1.00066722272, rel=1e-9)
    assert fit.alpha == pytest.approx(2.50254453038, rel=1e-9)
    assert fit.ks_d == pytest.approx(0.00134535843619, rel=1e-9)
    assert fit.sigma == pytest.approx(0.0671958342, rel=1e-8)
    assert fit.alpha_unbiased == pytest.approx(2.49653435226, rel=1e-9)
    assert alpha_interval(fit) == pytest.approx([2.370838786, 2.633931833], rel=1e-9)


def test_tail_above_a_body():
    fit = fit_power_law(BODY_AND_TAIL)
    assert (fit.n_values - fit.n_tail, fit.n_tail) == (300, 100)
    assert fit.xmin == pytest.approx(1.00250941423, rel=1e-9)
    assert fit.alpha == pytest.approx(3.01709307075, rel=1e-9)
    assert fit.ks_d == pytest.approx(0.00673281842207, rel=1e-9)
    assert fit.alpha_unbiased == pytest.approx(2.97675120933, rel=1e-9)
    assert alpha_interval(fit) == pytest.approx([2.622999777, 3.409026565], rel=1e-9)


def test_lognormal_quantiles():
    fit = fit_power_law(LOGNORMAL)
    assert (fit.n_values - fit.n_tail, fit.n_tail) == (361, 39)
    assert fit.xmin == pytest.approx(3.68112722159, rel=1e-9)
    assert fit.alpha == pytest.approx(3.16765544862, rel=1e-9)
    assert fit.ks_d == pytest.approx(0.0493050547786, rel=1e-9)


def test_twelve_values_at_every_start():
    x = [0.1, 0.2, 0.3, 0.5, 0.8, 1.3, 2.1, 3.4, 5.5, 8.9, 14.4, 23.3]
    curve = scan_curve(x)
    expected_alpha = [1.357853, 1.424568, 1.457582, 1.521540, 1.592744, 1.693206, 1.830959,
                      2.039203, 2.385287, 3.078168, 5.156059]  # fmt: skip
    expected_d = [0.191522, 0.184650, 0.189514, 0.193569, 0.200843, 0.203501, 0.217363, 0.232121,
                  0.236622, 0.298775, 0.364665]  # fmt: skip
    np.testing.assert_allclose(curve.alphas, expected_alpha, atol=5.1e-7)
    np.testing.assert_allclose(curve.ks_ds, expected_d, atol=5.1e-7)
    np.testing.assert_array_equal(curve.xmins, x[:-1])
    assert fit_power_law(x).xmin == 0.2


@pytest.mark.parametrize("scale", [1e-290, 1e-12, 1e150])
def test_alpha_does_not_depend_on_scale_or_order(scale):
    plain = fit_power_law(LOGNORMAL)
    scaled = fit_power_law(np.random.default_rng(0).permutation(LOGNORMAL) * scale)
    assert scaled.alpha == pytest.approx(plain.alpha, rel=1e-10)
    assert scaled.xmin == pytest.approx(plain.xmin * scale, rel=1e-10)


@pytest.mark.filterwarnings("ignore")
def test_powerlaw_package_agrees_at_its_own_xmin():
    # version 2 compares other limits of the two distribution functions, hence another xmin
    powerlaw = pytest.importorskip("powerlaw")
    rng = np.random.default_rng(3)
    for x in (rng.pareto(1.5, 300) + 1, np.exp(rng.standard_normal(300)), rng.gamma(2, 1, 300)):
        other = powerlaw.Fit(x, verbose=0)
        curve = scan_curve(x)
        at = np.argmin(np.abs(curve.xmins - other.xmin))
        assert curve.alphas[at] == pytest.approx(other.power_law.alpha, rel=1e-9)
        assert curve.ks_ds[at] == pytest.approx(other.power_law.D, abs=1.0 / (300 - at))
        fixed = powerlaw.Fit(x, xmin=1.5, verbose=0)
        assert fit_power_law(x, xmin=1.5).alpha == pytest.approx(fixed.power_law.alpha, rel=1e-9)


@pytest.mark.filterwarnings("ignore")
def test_weightwatcher_agrees():
    reference = pytest.importorskip("weightwatcher.WW_powerlaw")
    rng = np.random.default_rng(4)
    for x in (
        rng.pareto(1.5, 300) + 1,
        np.exp(rng.standard_normal(200)) * 1e-3,
        rng.gamma(2, 1, 60),
        np.linalg.svd(rng.standard_normal((90, 200)), compute_uv=False) ** 2,
    ):
        other = reference.WWFit(x)
        fit = fit_power_law(x)
        assert fit.xmin == other.xmin and fit.n_tail == other.data.size
        assert fit.alpha == pytest.approx(other.alpha, rel=1e-9)
        assert fit.ks_d == pytest.approx(other.D, abs=1e-10)
        np.testing.assert_allclose(scan_curve(x).ks_ds, other.Ds, atol=1e-9)


def test_interval_covers_and_unbiased_is_unbiased():
    # The smallest of n Pareto values is the anchor, as in a scan that chose it.
    rng = np.random.default_rng(0)
    for n in (10, 50):
        draws = np.sort((1 - rng.random((4000, n))) ** (-1 / 0.5), axis=1)  # α = 1.5
        covered, unbiased, plain = 0, [], []
        for x in draws:
            log_sum = np.log(x / x[0]).sum()
            fit = _anchored(x, log_sum)
            low, high = alpha_interval(fit)
            covered += low <= 1.5 <= high
            unbiased.append(fit.alpha_unbiased)
            plain.append(fit.alpha)
        assert covered / 4000 == pytest.approx(0.95, abs=0.012)
        assert np.mean(unbiased) == pytest.approx(1.5, abs=0.012)
        assert np.mean(plain) - 1 == pytest.approx(0.5 * n / (n - 2), rel=0.02)


def _anchored(x, log_sum):
    from theory.power_law import PowerLawFit

    n = x.size
    return PowerLawFit(1 + n / log_sum, x[0], x[-1], 0.0, 0.0, n, n, log_sum, n - 1)


def test_a_given_xmin_leaves_all_logarithms_random():
    rng = np.random.default_rng(1)
    fits = [fit_power_law(2 * (1 - rng.random(20)) ** (-1 / 1.5), xmin=2.0) for _ in range(3000)]
    assert np.mean([f.alpha_unbiased for f in fits]) == pytest.approx(2.5, abs=0.025)
    inside = [low <= 2.5 <= high for low, high in map(alpha_interval, fits)]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.014)


def test_bootstrap_over_xmin_is_deterministic_and_wider():
    first = bootstrap_alpha(LOGNORMAL, replicates=300, seed=7)
    assert first == bootstrap_alpha(LOGNORMAL, replicates=300, seed=7)
    low, high = alpha_interval(fit_power_law(LOGNORMAL))
    assert first[1] - first[0] > high - low
    assert first[0] < fit_power_law(LOGNORMAL).alpha < first[1]


def test_xmin_range_and_drop_largest():
    fit = fit_power_law(BODY_AND_TAIL, xmin=(0.5, 0.8))
    assert 0.5 <= fit.xmin <= 0.8
    shorter = fit_power_law(BODY_AND_TAIL, drop_largest=5)
    assert shorter.alpha == fit_power_law(np.sort(BODY_AND_TAIL)[:-5]).alpha


def test_two_sided_distance_is_larger_by_at_most_one_step():
    one, two = scan_curve(LOGNORMAL), scan_curve(LOGNORMAL, ks="two-sided")
    steps = 1.0 / (LOGNORMAL.size - np.arange(one.ks_ds.size))
    assert np.all(two.ks_ds >= one.ks_ds) and np.all(two.ks_ds <= one.ks_ds + steps + 1e-12)


def test_duplicates_count_strictly_smaller_values():
    x = np.repeat([1.0, 2.0, 4.0, 8.0], 3)
    curve = scan_curve(x)
    np.testing.assert_array_equal(curve.xmins, [1.0, 2.0, 4.0])
    assert curve.alphas[2] == pytest.approx(1 + 6 / (3 * np.log(2)))
    assert curve.ks_ds[2] == pytest.approx(abs(1 - 2 ** (-6 / (3 * np.log(2))) - 0.5))


def test_hill_exponents():
    W = np.random.default_rng(0).standard_normal((128, 256)) / 16
    eigenvalues = np.linalg.svd(W, compute_uv=False) ** 2
    assert pl_alpha_hill(eigenvalues) == pytest.approx(2.724091947, rel=1e-9)
    spectrum = mp_quantile((np.arange(200) + 0.5) / 200, 0.5)
    assert pl_alpha_hill(spectrum) == pytest.approx(2.72441529, rel=1e-8)


def test_marchenko_pastur_quantiles_give_a_meaningless_exponent():
    fit = fit_power_law(mp_quantile((np.arange(200) + 0.5) / 200, 0.5))
    assert fit.alpha == pytest.approx(6.13237001, rel=1e-8)
    assert (fit.n_tail, round(fit.ks_d, 9)) == (32, 0.140935366)


def test_rivals_are_other_minima():
    fit, rivals = fit_with_rivals(BODY_AND_TAIL)
    assert fit == fit_power_law(BODY_AND_TAIL) and rivals.size == 0
    two_tails = np.concatenate([PARETO, 30 * (1 - (np.arange(60) + 0.5) / 60) ** (-1 / 6)])
    fit, rivals = fit_with_rivals(two_tails, share=50.0)
    curve = scan_curve(two_tails)
    inner = curve.ks_ds[1:-1]
    minima = (inner <= curve.ks_ds[:-2]) & (inner <= curve.ks_ds[2:])
    assert set(rivals) <= {*curve.alphas[1:-1][minima], curve.alphas[0], curve.alphas[-1]}


def test_peak_and_fingers():
    low, high = xmin_peak_range(BODY_AND_TAIL)
    assert high / low == pytest.approx(1.5 / 0.95)
    fingers = np.append(np.random.default_rng(2).gamma(9.0, 1.0, 400), [3e3, 4e3, 5e3])
    raw = fit_power_law(fingers)
    clipped = fit_clipped(fingers)
    assert clipped.raw_alpha == raw.alpha
    expected = [fit_power_law(fingers, drop_largest=k).alpha for k in range(2, 10)]
    fallen = [k for k, alpha in enumerate(expected, 2) if alpha + 1.0 < raw.alpha]
    assert clipped.num_fingers == (fallen[0] if fallen else 0)


def test_clipping_removes_outliers_above_a_tail():
    # a steep bulk whose scan prefers a short, steep end: without it α falls by more than 1
    tail = np.sort((1 - (np.arange(200) + 0.5) / 200) ** (-1 / 1.2))
    capped = np.append(np.minimum(tail, tail[-12]), [tail[-1] * 1.001, tail[-1] * 1.002])
    clipped = fit_clipped(capped)
    assert clipped.fit.alpha <= clipped.raw_alpha


@pytest.mark.parametrize("values", [[], [0.0, 1.0, 2.0], [-1.0, 2.0], [1.0, np.inf], [1.0, np.nan]])
def test_values_must_be_positive_and_finite(values):
    with pytest.raises(ValueError, match="positive finite"):
        fit_power_law(values)


def test_constant_values_have_no_tail():
    with pytest.raises(ValueError, match="all values are equal"):
        fit_power_law(np.ones(50))
    with pytest.raises(ValueError, match="no values above"):
        fit_power_law(PARETO, xmin=1e9)
    with pytest.raises(ValueError, match="constant"):
        pl_alpha_hill(np.ones(10))
