"""Attention heads against the norms below which LoRA has an almost linear-time algorithm."""

from __future__ import annotations

from typing import Any

from analyzer.store.reading import Store
from analyzer.views import limits, limits_summary, limits_sweeps
from analyzer.views.limits_words import head_words
from reports.document import Column, Equation, Paragraph, Picture, Section, Table
from reports.figures import limits as figures
from reports.figures import limits_curves as curve_figures
from reports.numbers import number, text, whole
from reports.scope import Scope
from reports.sections.collection import of_scope
from reports.sections.parts import pictures

_COLUMNS = (
    Column("checkpoint", "checkpoint", text, is_number=False),
    Column("L", "L", whole),
    Column("width_over_log", "d_h/ln L", number),
    Column("gamma_q_median", "Γ_q", number),
    Column("gamma_dq_max", "Γ_Δq max", number),
    Column("ratio_as", "as/√ln L", number),
    Column("ratio_logit", "logit/√ln L", number),
    Column("rank_exponent", "exponent", number),
    Column("certified", "certified", whole),
    Column("effective", "effective", whole),
    Column("borderline", "borderline", whole),
    Column("outside", "outside", whole),
    Column("undecided", "undecided", whole),
)
_EQUATION = Equation(
    'sqrt(beta d_h) max(norm(Q)_max, norm(K)_max) <= sqrt(ln L), quad "ratio_logit" ='
    " sqrt(max |S|) / sqrt(ln L)",
    r"\sqrt{\beta d_h}\,\max(\|Q\|_{\max}, \|K\|_{\max}) \le \sqrt{\ln L}, \quad"
    r" \text{ratio\_logit} = \frac{\sqrt{\max |S|}}{\sqrt{\ln L}}",
    "Largest entries of queries Q and keys K of a head of width d_h with softmax scale β, logits "
    "S and length L. ratio_as is the left side over √(ln L).",
)


def section(store: Store, scope: Scope) -> Section | None:
    """None where no attention head was judged."""
    known = set(limits.checkpoints(store))
    subject = next((name for name in (*scope.focus, scope.base) if name in known), None)
    if subject is None:
        return None
    source = limits.sources(store, subject)[0]
    summary = of_scope(limits_summary.summary(store, source), scope, "checkpoint")
    about = [name for name in (scope.base, subject) if name in known]
    return Section(
        "limits",
        "LoRA computational limits",
        findings=tuple(_finding(row) for row in summary.rows() if row["checkpoint"] in about),
        paragraphs=(
            *(Paragraph(words, ("hu2024",)) for words in head_words(store, subject, source)[:1]),
            *(Paragraph(words) for words in head_words(store, subject, source)[1:]),
            Paragraph(
                "A head above the threshold is not shown to be hard: the lower bound speaks of the "
                "worst input.",
                ("alman2023",),
            ),
        ),
        equations=(_EQUATION,),
        tables=(
            Table(
                summary,
                _COLUMNS,
                "Medians over the heads, and the number of heads by verdict. as, logit: ratio_as "
                "and ratio_logit.",
            ),
        ),
        pictures=_pictures(store, about, source),
        metrics=("ratio_as", "ratio_logit", "rank_exponent", "headroom", "lora_limits.verdict"),
    )


def _finding(row: dict[str, Any]) -> str:
    names = ("certified", "effective", "borderline", "outside", "undecided")
    told = ", ".join(f"{row[name]} {name}" for name in names if row[name])
    return (
        f"{row['checkpoint']}: of {row['heads']} attention heads {told} at L = {row['L']} "
        f"(median ratio_logit {number(row['ratio_logit'])}; below 1 the guarantee holds)."
    )


def _pictures(store: Store, about: list[str], source: str) -> tuple[Picture, ...]:
    found: list[Picture] = []
    for name in about:
        found += pictures(limits.head_map(store, name, source), figures.head_map, name)
    for name in about:
        sweep = limits_sweeps.length_sweep(store, name, limits_sweeps.ALL, "ratio_logit")
        found += pictures(sweep, curve_figures.length_sweep, name)
        found += pictures(limits_sweeps.phase(store, name, source), curve_figures.phase, name)
        found += pictures(limits.norms(store, name, source), figures.norms, name)
        found += pictures(limits_summary.bounds(store, name), figures.bounds, name)
        intervals = limits_sweeps.alpha_intervals(store, name)
        found += pictures(intervals, curve_figures.alpha_intervals, name)
    return tuple(found)
