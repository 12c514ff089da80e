"""Functional Bayesian Tucker decomposition of values at continuous indexes.

`fit_funbat` fits, `FunbatFit` predicts, `save_fit` and `load_fit` keep a fit in a file. From the
data to a prediction: `entries` (sorted rows) → `messages` (sums over entries) → `factors` and
`core` (posterior of functions, core, noise), driven by `variational` or `message_passing`, started
by `initialise` → `model`.
"""

from analyzer.lazy import lazy_names

_HOME = {
    "BadInput": "analyzer.models.funbat.checks",
    "CanonicalForm": "analyzer.models.funbat.canonical",
    "FunbatFit": "analyzer.models.funbat.model",
    "Functions": "analyzer.models.funbat.model",
    "MessagePassing": "analyzer.models.funbat.message_passing",
    "Prediction": "analyzer.models.funbat.prediction",
    "Progress": "analyzer.models.funbat.fit",
    "ResidualFit": "analyzer.models.funbat.residual",
    "Variational": "analyzer.models.funbat.variational",
    "canonical_form": "analyzer.models.funbat.canonical",
    "fit_funbat": "analyzer.models.funbat.fit",
    "fit_residuals": "analyzer.models.funbat.residual",
    "load_fit": "analyzer.models.funbat.saving",
    "save_fit": "analyzer.models.funbat.saving",
    "tucker_tensor": "analyzer.models.funbat.canonical",
}

__getattr__, __dir__ = lazy_names(__name__, _HOME)
