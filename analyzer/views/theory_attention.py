"""When attention can be approximated cheaply: thresholds on norms, and this store's heads."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pyarrow as pa

from analyzer.store.reading import Store
from analyzer.views.view import View
from theory.lora_limits.hypercube import hypercube_point
from theory.lora_limits.thresholds import NEAR_FROM, NEAR_TO, threshold

HU = "Hu et al. 2024, arXiv 2406.03136; Alman & Song 2023, arXiv 2302.13214"
Norm = Literal["gamma_as", "gamma_logit"]
NORMS: dict[str, Norm] = {"of entries": "gamma_as", "of logits": "gamma_logit"}
LENGTHS = (1.0, 8.0)  # log₁₀ of the lengths drawn


def boundary(c: float) -> View:
    """`log10_L`, the threshold c·√(ln L), and the ends of what is called near."""
    exponents = np.linspace(*LENGTHS, 141)
    values = np.array([threshold(10.0**e, c) for e in exponents])
    table = pa.table(
        {
            "log10_L": exponents,
            "threshold": values,
            "near_from": NEAR_FROM * values,
            "near_to": NEAR_TO * values,
        }
    )
    return View(
        "attention_phase",
        "Norms up to which almost-linear attention is guaranteed",
        table,
        "Left of the curve the sufficient conditions hold with this c; right of it nothing is "
        "guaranteed for all inputs of that norm, which does not make a head hard. o(√log L) "
        f"carries no constant. Band: {NEAR_FROM:g} to {NEAR_TO:g} of the threshold.",
        HU,
        {"c": c},
    )


def own_heads(store: Store, norm: Norm, source: str, most: int = 2000) -> View:
    """One row a head: `norm`, `log10_L`, `verdict`, whose it is."""
    column = {"gamma_as": "gamma_as", "gamma_logit": "gamma_logit"}[norm]
    table = store.sql(
        f"""
        SELECT {column} AS norm, log10(L) AS log10_L, L, verdict, coalesce(adapter, model) AS name,
               adapter IS NULL AS is_base, layer, head, ipr,
               gamma_as * c / threshold AS rho
        FROM lora_limits WHERE source = ? AND {column} IS NOT NULL
        ORDER BY adapter IS NOT NULL, hash(checkpoint_id, layer, head) LIMIT ?
        """,
        [source, most],
    )
    return View("own_heads", "This store's heads", table, "", HU, {"norm": norm, "source": source})


def sources(store: Store) -> list[str]:
    """How norms were obtained: measured ones first."""
    query = "SELECT DISTINCT source FROM lora_limits ORDER BY source <> 'activations', source"
    return store.sql(query).column(0).to_pylist()


def hypercube(dimension: int) -> View:
    """Closed-form attention over 2^m tokens for ρ from 0 to 3: `rho`, `exponent`, `ipr`, `tau`."""
    points = [hypercube_point(dimension, float(rho)) for rho in np.linspace(0.0, 3.0, 121)]
    table = pa.table(
        {
            "rho": [p.rho for p in points],
            "exponent": [p.exponent for p in points],
            "ipr": [p.ipr for p in points],
            "tau": [p.tau for p in points],
        }
    )
    return View(
        "hypercube",
        "From spread-out to one-hot attention",
        table,
        "Queries and keys at the corners of a cube of dimension m = log₂ L; Σ_j F_ij² is 1/L for "
        "uniform attention and 1 for one-hot. One instance, which proves nothing about others.",
        "closed form: a Kronecker power of a 2 × 2 softmax",
        {"m": dimension, "L": 2**dimension},
    )


def heads_below(heads: View, c: float) -> int:
    """How many of `own_heads` have a norm below c·√(ln L) at their own length."""
    return sum(row["norm"] < threshold(row["L"], c) for row in heads.rows())
