"""A power-law tail of finitely many values: what an estimate of its exponent can say."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from analyzer.store.reading import Store
from analyzer.views.view import View
from theory.power_law import PowerLawFit, alpha_interval, fit_power_law

SOURCE = "Clauset, Shalizi & Newman 2009, arXiv 0706.1062"
SIZES = np.unique(np.geomspace(10, 3000, 40).round().astype(int))


def drawn_tail(alpha: float, n: int, seed: int) -> View:
    """`n` seeded values above 1 of density ∝ x^(-alpha): `x`, `ccdf`, `law`, thinned."""
    x = np.sort(np.random.default_rng(seed).pareto(alpha - 1.0, n) + 1.0)
    fit = fit_power_law(x, xmin=1.0)
    low, high = alpha_interval(fit)
    keep = np.unique((n - np.geomspace(1, n, 400)).round().astype(int)) if n > 400 else np.arange(n)
    ccdf = 1.0 - np.arange(n) / n
    table = pa.table({"x": x[keep], "ccdf": ccdf[keep], "law": x[keep] ** (1.0 - fit.alpha)})
    return View(
        "drawn_tail",
        "A drawn power-law tail and its fit",
        table,
        "Share of the values of at least x; a power law is a straight line. The estimate knows "
        "xmin = 1; a searched xmin adds error.",
        SOURCE,
        {
            "alpha": alpha, "n": n, "seed": seed, "estimate": f"{fit.alpha:.3f}",
            "unbiased": f"{fit.alpha_unbiased:.3f}", "95 % interval": f"{low:.3f} to {high:.3f}",
        },
    )  # fmt: skip


def interval_by_size(alpha: float) -> View:
    """95 % interval of the exponent for tails of 10 … 3,000 values with this estimate."""
    rows = []
    for n in SIZES:
        total = n / (alpha - 1.0)
        fit = PowerLawFit(
            alpha=alpha, xmin=1.0, xmax=np.inf, ks_d=0.0, sigma=(alpha - 1.0) / np.sqrt(n),
            n_tail=int(n), n_values=int(n), log_sum=total, free_logs=int(n) - 1,
        )  # fmt: skip
        low, high = alpha_interval(fit)
        rows.append({"n": int(n), "lo": low, "hi": high, "alpha": alpha})
    return View(
        "interval_by_size",
        "What a tail of n values can say of its exponent",
        pa.Table.from_pylist(rows),
        "Exact interval given xmin: 2T(α-1) is χ² with 2(n-1) degrees of freedom. Points are this "
        "store's tails with their own intervals.",
        SOURCE,
        {"estimate": alpha},
    )


def own_tails(store: Store, most: int = 1000) -> View:
    """This store's tails of weights: `n`, `alpha`, `lo`, `hi`, a sample of them."""
    table = store.sql(
        """
        SELECT c.name AS checkpoint, m.name AS matrix, t.n_tail AS n, t.alpha, t.alpha_lo AS lo,
               t.alpha_hi AS hi
        FROM tail t JOIN matrix m USING (matrix_id) JOIN checkpoint c USING (checkpoint_id)
        WHERE t.kind = 'weight' AND t.status = 'ok' ORDER BY c.kind <> 'base', hash(t.matrix_id)
        LIMIT ?
        """,
        [most],
    )
    return View("own_tails", "This store's tails", table, "", SOURCE)
