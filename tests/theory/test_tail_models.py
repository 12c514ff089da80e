"""Alternative tails against worked cases, direct numerical integration and the powerlaw package."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import minimize
from scipy.special import ndtri

from theory.exponential_integral import log_expint, moments
from theory.model_comparison import best_model, compare, compare_with_power_law, verdict
from theory.power_law import fit_power_law
from theory.tail_models import fit_models

BODY_AND_TAIL = np.concatenate(
    [(np.arange(300) + 0.5) / 300, (1 - (np.arange(100) + 0.5) / 100) ** -0.5]
)
LOGNORMAL = np.exp(ndtri((np.arange(400) + 0.5) / 400))


def models_of(x):
    return fit_models(x, fit_power_law(x).xmin)


def test_pareto_tail():
    models = models_of(BODY_AND_TAIL)
    likelihoods = {name: m.log_likelihood for name, m in models.items()}
    assert likelihoods["power_law"] == pytest.approx(-79.661181, abs=5.1e-7)
    assert likelihoods["exponential"] == pytest.approx(-93.4931, abs=5.1e-5)
    assert likelihoods["truncated_power_law"] == pytest.approx(-79.620895, abs=5.1e-7)
    assert likelihoods["lognormal"] == pytest.approx(-79.6539, abs=5.1e-5)
    assert models["truncated_power_law"].parameters == pytest.approx((2.93907, 0.022446), abs=6e-6)
    found = compare_with_power_law(models)
    assert found["exponential"].normalized == pytest.approx(1.776455, abs=5.1e-7)
    assert found["exponential"].p == pytest.approx(0.0757, abs=5.1e-5)
    assert found["truncated_power_law"].p == pytest.approx(0.7765, abs=5.1e-5)
    assert models["lognormal"].degenerate and found["lognormal"] is None
    assert best_model(models) == "power_law"


def test_lognormal_tail():
    models = models_of(LOGNORMAL)
    parameters = {name: m.parameters for name, m in models.items()}
    assert parameters["lognormal"] == pytest.approx((0.10870, 0.96103), abs=6e-6)
    assert parameters["exponential"] == pytest.approx((0.366316,), abs=6e-7)
    assert parameters["truncated_power_law"] == pytest.approx((2.10819, 0.114716), abs=6e-6)
    assert parameters["stretched_exponential"] == pytest.approx((7.87729, 0.427407), rel=1e-5)
    found = compare_with_power_law(models)
    expected = {
        "lognormal": (-0.61564, 0.53814),
        "exponential": (0.24652, 0.80528),
        "truncated_power_law": (-0.7393, 0.30139),
        "stretched_exponential": (-0.64394, 0.51961),
    }
    for name, (normalized, p) in expected.items():
        assert (found[name].normalized, found[name].p) == pytest.approx((normalized, p), abs=2e-5)


@pytest.mark.filterwarnings("ignore")
def test_powerlaw_package_agrees():
    powerlaw = pytest.importorskip("powerlaw")
    xmin = fit_power_law(LOGNORMAL).xmin
    other, models = powerlaw.Fit(LOGNORMAL, xmin=xmin, verbose=0), fit_models(LOGNORMAL, xmin)
    tail = LOGNORMAL[LOGNORMAL >= xmin]  # noqa: SIM300
    for name in ("exponential", "truncated_power_law", "lognormal", "stretched_exponential"):
        likelihood = float(np.sum(getattr(other, name).loglikelihoods(tail)))
        assert models[name].log_likelihood == pytest.approx(likelihood, abs=1e-5), name
        assert models[name].log_likelihood >= likelihood - 1e-9, name


def density(name, parameters, y):
    """Unnormalised densities in y = x/xmin ≥ 1 at xmin = 1, from CSN table 2.1."""
    if name == "power_law":
        return y ** -parameters[0]
    if name == "exponential":
        return np.exp(-parameters[0] * y)
    if name == "lognormal":
        mu, s = parameters
        return np.exp(-((np.log(y) - mu) ** 2) / (2 * s**2)) / y
    if name == "truncated_power_law":
        return y ** -parameters[0] * np.exp(-parameters[1] * y)
    rate, b = parameters
    return (y * rate) ** (b - 1) * np.exp(-((rate * y) ** b - rate**b))


@pytest.mark.parametrize(
    "name",
    ["power_law", "exponential", "lognormal", "truncated_power_law", "stretched_exponential"],
)
@pytest.mark.parametrize("seed", range(4))
def test_densities_are_normalised_and_likelihoods_maximal(name, seed):
    rng = np.random.default_rng(seed)
    x = [
        1 + rng.exponential(2.0, 120),
        np.exp(np.abs(rng.normal(0.5, 0.6, 120))),
        1 + rng.weibull(0.8, 120),
        rng.gamma(3.0, 1.0, 400),
    ][seed]
    x = x[x >= 1.0]
    model = fit_models(x, 1.0)[name]

    def negative(parameters):
        total = sum(
            quad(lambda v: density(name, parameters, np.exp(v)) * np.exp(v), *ends, limit=200)[0]
            for ends in ((0, 2), (2, 10), (10, 60))
        )
        return -np.sum(np.log(density(name, parameters, x))) + x.size * np.log(total)

    assert -negative(model.parameters) == pytest.approx(model.log_likelihood, rel=1e-6)
    if not model.degenerate and not (name == "truncated_power_law" and model.parameters[0] <= -5):
        nearby = minimize(negative, model.parameters, method="Nelder-Mead").fun
        assert model.log_likelihood >= -nearby - 1e-5


@settings(max_examples=60, deadline=None)
@given(a=st.floats(-5, 10), exponent=st.floats(-10, 2.7))
def test_exponential_integral(a, exponent):
    mpmath = pytest.importorskip("mpmath")
    z = 10.0**exponent
    assert log_expint(a, z) == pytest.approx(float(mpmath.log(mpmath.expint(a, z))), abs=1e-10)


def test_moments_are_derivatives_of_the_integral():
    h = 1e-5
    for a, z in ((2.5, 0.3), (0.5, 1e-3), (-3.0, 4.0)):
        found = moments(a, z)
        by_a = -(log_expint(a + h, z) - log_expint(a - h, z)) / (2 * h)
        by_z = -(log_expint(a, z * (1 + h)) - log_expint(a, z * (1 - h))) / (2 * h * z)
        assert found.mean == pytest.approx([by_a, by_z], rel=1e-6)
        curve = (moments(a + h, z).mean - moments(a - h, z).mean) / (2 * h)
        assert -curve == pytest.approx(found.covariance[0], rel=1e-6)
    with pytest.raises(ValueError, match="diverges"):
        log_expint(0.5, 0.0)


def test_exponents_outside_the_usual_range_are_found():
    # an exponential is the truncated power law of exponent 0
    x = 1 + np.random.default_rng(0).exponential(1.0, 4000)
    models = fit_models(x, 1.0)
    assert models["truncated_power_law"].parameters[0] == pytest.approx(0.0, abs=0.25)
    gain = models["truncated_power_law"].log_likelihood - models["exponential"].log_likelihood
    assert 0.0 <= gain < 4.0


def test_lighter_than_pareto_moments_make_alternatives_degenerate():
    # ln y is more spread than an exponential variable: no lognormal, no stretched exponential
    x = np.exp(np.random.default_rng(1).pareto(3.0, 400))
    models = fit_models(x, float(x.min()))
    assert models["lognormal"].degenerate and models["stretched_exponential"].degenerate
    assert np.isfinite([m.log_likelihood for m in models.values()]).all()


def test_comparison_is_antisymmetric_and_aic_counts_parameters():
    models = models_of(LOGNORMAL)
    one = compare(models["power_law"], models["exponential"])
    two = compare(models["exponential"], models["power_law"])
    assert one.ratio == pytest.approx(-two.ratio) and one.p == pytest.approx(two.p)
    same = compare(models["power_law"], models["power_law"])
    assert (same.ratio, same.normalized, same.p) == (0.0, 0.0, 1.0)
    lognormal = models["lognormal"]
    assert lognormal.aic == pytest.approx(4 - 2 * lognormal.log_likelihood)
    assert lognormal.bic == pytest.approx(2 * np.log(39) - 2 * lognormal.log_likelihood)


def test_verdicts():
    pareto = compare_with_power_law(models_of(BODY_AND_TAIL))
    assert verdict(0.5, pareto, 100) == "plausible"  # a truncated power law fits as well
    assert verdict(0.05, pareto, 100) == "rejected"
    x = 1 + np.random.default_rng(0).exponential(1.0, 2000)
    assert verdict(0.5, compare_with_power_law(fit_models(x, 1.0)), 2000) == "rejected"
    won = {
        "exponential": compare(*[models_of(BODY_AND_TAIL)[n] for n in ("power_law", "exponential")])
    }
    assert verdict(0.5, won, 100) == "supported" and verdict(0.5, won, 40) == "plausible"


def test_a_tail_needs_spread():
    with pytest.raises(ValueError, match="two different values"):
        fit_models(np.ones(30), 1.0)
