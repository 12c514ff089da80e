"""Heads of whole checkpoints: the table of a paper, bounds beside measurements, condensation."""

from __future__ import annotations

import math

import pyarrow as pa

from analyzer.store.reading import Store
from analyzer.views.limits import HEADS, HU, KINDS, ORDER, lengths, named
from analyzer.views.view import View
from theory.lora_limits.hypercube import hypercube_point

CURVE = 60  # points of a curve


def summary(store: Store, source: str) -> View:
    """One row a checkpoint: L, d_h/ln L, medians and maxima over the heads, heads per verdict, and
    the least headroom."""
    table = store.sql(
        """
        SELECT c.name AS checkpoint, max(L) AS L, max(width_over_log) AS width_over_log,
               median(gamma_q) AS gamma_q_median, max(gamma_q) AS gamma_q_max,
               median(gamma_k) AS gamma_k_median, max(gamma_k) AS gamma_k_max,
               median(gamma_dq) AS gamma_dq_median, max(gamma_dq) AS gamma_dq_max,
               median(ratio_as) AS ratio_as, median(ratio_logit) AS ratio_logit,
               median(rank_exponent) AS rank_exponent,
               count(*) FILTER (verdict = 'certified') AS certified,
               count(*) FILTER (verdict = 'effective') AS effective,
               count(*) FILTER (verdict = 'borderline') AS borderline,
               count(*) FILTER (verdict = 'outside') AS outside,
               count(*) FILTER (verdict = 'undecided') AS undecided,
               min(headroom) AS min_headroom, count(*) AS heads
        FROM lora_limits l JOIN checkpoint c USING (checkpoint_id) WHERE source = ?
        GROUP BY c.name, c.kind, c.run, c.step
        ORDER BY c.kind <> 'base', c.run NULLS LAST, c.step, c.name
        """,
        [source],
    )
    return View(
        "limits_summary",
        "Checkpoints",
        table,
        f"{KINDS.get(source, source)}. Ratios and rank_exponent are medians over the heads; the "
        "theorems take d_h/ln L as bounded.",
        HU,
        {"source": source},
    )


def bounds(store: Store, checkpoint: str) -> View:
    """Bounds from weights alone beside what a text reached: `norm`, `place`, `head`, `measured`,
    `bound`, where both are known."""
    table = store.sql(
        """
        WITH heads AS (
            UNPIVOT (
                SELECT source, stack, l.layer, module, head, gamma_q AS "queries",
                       gamma_k AS "keys", gamma_logit AS "√max|S|"
                FROM lora_limits l JOIN checkpoint c USING (checkpoint_id) WHERE c.name = ?)
            ON "queries", "keys", "√max|S|" INTO NAME norm VALUE value)
        SELECT m.norm, m.layer, m.module, m.head, m.value AS measured, b.value AS bound
        FROM heads m JOIN heads b
             ON (b.module, b.head, b.norm) = (m.module, m.head, m.norm) AND b.source = 'data_free'
        WHERE m.source = 'activations'
        ORDER BY list_position(['queries', 'keys', '√max|S|'], m.norm), m.layer, m.module, m.head
        """,
        [checkpoint],
    )
    return View(
        "limits_bounds",
        "Bounds for every text beside the measured norms",
        table,
        "Each point is a head: across, the largest entry of queries or keys, or √max|S|, on the "
        "text; up, its bound for every text, from weights alone. On the line a text reaches its "
        "bound; expect bounds several times above.",
        HU,
        {"checkpoint": checkpoint},
    )


def condensation(store: Store, checkpoint: str) -> View:
    """How concentrated attention is against the spread of the logits: `kind` (heads, hypercube),
    `rem_ratio`, `ipr`, `place`, `head`; `uniform` is the ipr of even attention.

    The curve is the hypercube instance with 2^m tokens, m next to log₂ L, whose logits have
    variance (ρ²m ln 2)²/m, hence rem_ratio = ρ²√(ln 2/2).
    """
    heads = store.sql(
        f"""
        WITH {HEADS}
        SELECT 'heads' AS kind, rem_ratio, ipr, place, head, L, causal FROM heads
        WHERE rem_ratio IS NOT NULL AND ipr IS NOT NULL ORDER BY {ORDER}
        """,
        [checkpoint, "activations"],
    )
    facts = lengths(heads)
    if heads.num_rows:
        length, causal = heads.column("L")[0].as_py(), heads.column("causal")[0].as_py()
        facts["uniform"] = _uniform(length, causal)
    return View(
        "limits_condensation",
        "Concentration of attention",
        pa.concat_tables([_hypercube(heads), heads]),
        "ipr = mean_i Σ_j F_ij², 1 where every query looks at one key; rem_ratio = spread of the "
        "logits over √(2 ln L), a heuristic by which the softmax condenses near 1. The curve is "
        "attention over the corners of a cube, one instance without a mask; early queries of "
        "causal attention see few keys, which raises ipr, as the line of even attention shows.",
        "random-energy model; Alman & Song 2023, arXiv 2302.13214",
        named(checkpoint, "activations") | facts,
    )


def _uniform(length: int, causal: bool) -> float:
    """ipr of even attention: 1/L, or the mean of 1/i where query i sees i keys."""
    if not causal:
        return 1.0 / length
    return math.fsum(1.0 / i for i in range(1, length + 1)) / length


def _hypercube(heads: pa.Table) -> pa.Table:
    rows = []
    if heads.num_rows:
        length = heads.column("L")[0].as_py()
        dimension = max(1, round(math.log2(length)))
        largest = max(1.5, *heads.column("rem_ratio").to_pylist())
        for i in range(CURVE + 1):
            rem = largest * i / CURVE
            point = hypercube_point(dimension, math.sqrt(rem / math.sqrt(0.5 * math.log(2.0))))
            rows.append({"kind": "hypercube", "rem_ratio": rem, "ipr": point.ipr,
                         "L": 2**dimension})  # fmt: skip
    return pa.Table.from_pylist(rows, schema=heads.schema)
