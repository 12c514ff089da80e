"""Heads against the threshold as the text grows, and as alpha does."""

from __future__ import annotations

import itertools
import math

import pyarrow as pa

from analyzer.store.reading import Store
from analyzer.views.limits import HEADS, HU, ORDER, named
from analyzer.views.view import View
from theory.lora_limits.thresholds import threshold

CURVE = 100  # points of a curve
ALL = "all layers"
RATIOS = ("ratio_logit", "ratio_as", "ratio_q")


def length_sweep(store: Store, checkpoint: str, place: str, ratio: str) -> View:
    """Ratio of a head against the length of the text: `line`, `L`, `ratio`, `low`, `high`.

    Lines are the heads of one layer; with `place` = "all layers" they are layers, medians over
    their heads with the least and the largest. Raises ValueError for an unknown ratio.
    """
    if ratio not in RATIOS:
        raise ValueError(f"the ratio must be one of {RATIOS}, got {ratio!r}")
    whole = place == ALL
    table = store.sql(
        f"""
        WITH {HEADS}, swept AS (
            SELECT place, stack, layer, module, s.L, CASE WHEN ? THEN NULL ELSE s.head END AS head,
                   CASE ? WHEN 'ratio_logit' THEN s.ratio_logit WHEN 'ratio_as' THEN s.ratio_as
                          ELSE s.ratio_q END AS ratio
            FROM lora_limits_sweep s JOIN heads h ON (h.matrix_id, h.head) = (s.matrix_id, s.head))
        SELECT CASE WHEN head IS NULL THEN 'layer ' || place ELSE 'head ' || head END AS line, L,
               median(ratio) AS ratio, min(ratio) AS low, max(ratio) AS high
        FROM swept WHERE ratio IS NOT NULL AND (? OR place = ?)
        GROUP BY stack, layer, module, place, head, L
        ORDER BY stack NULLS FIRST, layer, module, head, L
        """,
        [checkpoint, "activations", whole, ratio, whole, place],
    )
    return View(
        "limits_lengths",
        "Ratio against the length of the text",
        table,
        "Of the first L tokens of each text; 1 is the threshold √(ln L), which grows with L: a "
        "head of fixed norms leaves the guarantee as the text gets shorter."
        + (" Lines are medians, bands least and largest over the heads." if whole else ""),
        HU,
        {"checkpoint": checkpoint, "layer": place, "ratio": ratio},
    )


def phase(store: Store, checkpoint: str, source: str) -> View:
    """The threshold against L, and where the heads are: `kind` (threshold, heads, swept), `L`,
    `norm`, `low`, `high`, `place`, `head`.

    `heads` are points √max|S| at the L they were judged at (√(β·d_h)·max entry where a source has
    no logits); `swept` is their median over prefixes of the text, with the least and the largest.
    """
    points = store.sql(
        f"""
        WITH {HEADS}, swept AS (
            SELECT s.L::DOUBLE AS L, median(s.gamma_logit) AS norm, min(s.gamma_logit) AS low,
                   max(s.gamma_logit) AS high
            FROM lora_limits_sweep s SEMI JOIN heads h
                 ON (h.matrix_id, h.head, h.source) = (s.matrix_id, s.head, 'activations')
            WHERE s.gamma_logit IS NOT NULL GROUP BY ALL)
        SELECT 'heads' AS kind, L::DOUBLE AS L, coalesce(gamma_logit, gamma_as) AS norm,
               NULL::DOUBLE AS low, NULL::DOUBLE AS high, place, head, verdict, c
        FROM heads
        UNION ALL BY NAME SELECT 'swept' AS kind, * FROM swept
        ORDER BY kind, L, place, head
        """,
        [checkpoint, source],
    )
    return View(
        "limits_phase",
        "Heads and the threshold √(ln L)",
        pa.concat_tables([_threshold_curve(points), points]),
        "Below the curve an almost linear-time algorithm is guaranteed, with the constant 1 that "
        "we chose; above it nothing is guaranteed, which does not make a head hard. "
        f"{'√(β·d_h)·max entry' if source == 'spherical' else '√max|S|'} of every head at the L it "
        "was judged at.",
        HU,
        named(checkpoint, source),
    )


def alpha_intervals(store: Store, checkpoint: str) -> View:
    """For which alpha the largest query entry stays within the threshold: `place`, `head`, `line`,
    `low`, `high` (in units of lora_alpha, low at least 0), `headroom`, `alpha_max`, `state`.

    `state` is within, over (the adapter exceeds the threshold, a smaller alpha would not), base
    over (none from 0 up to some alpha helps) or unbounded.
    """
    table = store.sql(
        f"""
        WITH {HEADS}, tuned AS (
            SELECT *, CASE WHEN scaling <> 0 THEN scaling_low / scaling END AS a,
                   CASE WHEN scaling <> 0 THEN scaling_high / scaling END AS b
            FROM heads WHERE lora_alpha > 0 AND alpha_unbounded IS NOT NULL)
        SELECT place, head, place || '.' || head AS line,
               CASE WHEN isfinite(least(a, b)) AND greatest(a, b) >= 0
                    THEN greatest(least(a, b), 0) END AS low,
               CASE WHEN isfinite(greatest(a, b)) AND greatest(a, b) >= 0
                    THEN greatest(a, b) END AS high,
               headroom, alpha_max, lora_alpha, gamma_q_base / threshold AS ratio_base,
               gamma_q / threshold AS ratio_adapted,
               CASE WHEN alpha_unbounded THEN 'unbounded'
                    WHEN gamma_q_base > threshold THEN 'base over'
                    WHEN gamma_q > threshold THEN 'over' ELSE 'within' END AS state
        FROM tuned ORDER BY {ORDER}
        """,
        [checkpoint, "activations"],
    )
    return View(
        "limits_alpha",
        "For which alpha the queries stay within the threshold",
        table,
        "The exact interval of alpha, over the adapter's own alpha, in which max|X W_Q* + s·X B A| "
        "is at most √(ln L); its upper end is the headroom. Measured on the text; the condition on "
        "the keys does not depend on alpha. Heads whose base alone is over have no such interval "
        "from 0.",
        f"{HU}, theorem 3.1",
        {"checkpoint": checkpoint},
    )


def alpha_curve(store: Store, checkpoint: str, place: str, head: int) -> View:
    """Largest query entry of one head over the threshold against alpha: `alpha`, `lower`, `upper`,
    and the head's interval `low`, `high` and own `lora_alpha` in every row.

    The entry is a convex function of alpha that the store knows at 0, at the adapter's own alpha
    and at the ends of the interval, and whose slope is at most max|X B A|: between `lower` and
    `upper` is all that these leave open.
    """
    rows = store.sql(
        f"""
        WITH {HEADS}
        SELECT gamma_q_base / threshold AS base, gamma_q / threshold AS adapted,
               gamma_dq / threshold / lora_alpha AS slope, lora_alpha,
               scaling_low * lora_alpha / scaling AS low,
               scaling_high * lora_alpha / scaling AS high
        FROM heads WHERE place = ? AND head = ? AND lora_alpha > 0 AND scaling <> 0
              AND alpha_unbounded IS NOT NULL AND gamma_dq IS NOT NULL LIMIT 1
        """,
        [checkpoint, "activations", place, head],
    ).to_pylist()
    return View(
        "limits_alpha_curve",
        "Largest query entry against alpha",
        pa.Table.from_pylist(_bracket(rows[0]) if rows else [], schema=_BRACKET),
        "max|X W_Q* + s·X B A| over √(ln L). It is convex in alpha and known at 0, at the "
        "adapter's own alpha and at the ends of the shaded interval, which is exact; the band is "
        "what convexity and the largest slope leave open between.",
        f"{HU}, theorem 3.1",
        {"checkpoint": checkpoint, "layer": place, "head": head},
    )


_BRACKET = pa.schema(
    [(name, pa.float64()) for name in ("alpha", "lower", "upper", "low", "high", "lora_alpha")]
)


def _bracket(head: dict[str, float | None]) -> list[dict[str, float | None]]:
    """Rows of the curve of one head."""
    base, adapted, slope, own = (head[n] or 0.0 for n in ("base", "adapted", "slope", "lora_alpha"))
    ends = [x for x in (head["low"], head["high"]) if x is not None and math.isfinite(x)]
    known = {**dict.fromkeys(ends, 1.0), 0.0: base, own: adapted}
    right = 1.2 * max([2.0 * own, *(x for x in ends if x <= 50.0 * own)])
    grid = {right * i / CURVE for i in range(CURVE + 1)} | {x for x in known if 0.0 <= x <= right}
    rows: list[dict[str, float | None]] = []
    for x in sorted(grid):
        lower, upper = _between(x, sorted(known.items()), slope, base)
        rows.append(
            {"alpha": x, "lower": lower, "upper": upper, "low": head["low"], "high": head["high"],
             "lora_alpha": own}
        )  # fmt: skip
    return rows


def _between(
    x: float, known: list[tuple[float, float]], slope: float, base: float
) -> tuple[float, float]:
    """Bounds of g(x) = ‖Q0 + xU‖∞ from its values at `known`, ‖U‖∞ and ‖Q0‖∞."""
    upper = min(g + slope * abs(x - at) for at, g in known)
    lower = max(slope * abs(x) - base, *(g - slope * abs(x - at) for at, g in known))
    for (a, ga), (b, gb) in itertools.combinations(known, 2):
        on_line = ga + (gb - ga) * (x - a) / (b - a)
        if a <= x <= b:
            upper = min(upper, on_line)
        else:
            lower = max(lower, on_line)
    return min(lower, upper), upper  # they meet at known points, up to rounding


def _threshold_curve(points: pa.Table) -> pa.Table:
    """c·√(ln L) over two octaves on either side of the heads, in the columns of `points`."""
    lengths = [n for n in points.column("L").to_pylist() if n is not None]
    constants = [c for c in points.column("c").to_pylist() if c is not None]
    rows = []
    if lengths and constants:
        low, high = max(2.0, min(lengths) / 4.0), 16.0 * max(lengths)
        for i in range(CURVE + 1):
            length = low * (high / low) ** (i / CURVE)
            norm = threshold(length, constants[0])
            rows.append({"kind": "threshold", "L": length, "norm": norm, "c": constants[0]})
    return pa.Table.from_pylist(rows, schema=points.schema)
