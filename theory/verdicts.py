"""A theorem's formula together with the condition that it rests on.

A formula can be evaluated where its condition fails; the number then says nothing. `value` is None
there, and `formula` keeps the number for comparisons with the paper it comes from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

Status = Literal["ok", "condition_violated", "parallel_component_zero", "not_converged"]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of checking one condition, such as ``eta <= 2/(lambda_2 + lambda_max)``."""

    status: Status
    condition: str
    value: float | None = None  # what was compared
    limit: float | None = None  # with what; None where any value will do

    @property
    def ok(self) -> bool:
        return self.status == "ok"


@dataclass(frozen=True, slots=True)
class Conditional(Generic[T]):
    """`formula`: the expression as it stands, whatever the verdict; None if it has no value."""

    verdict: Verdict
    formula: T | None

    @property
    def value(self) -> T | None:
        """What may be relied on; None unless the condition holds."""
        return self.formula if self.verdict.ok else None


def at_most(condition: str, value: float, limit: float) -> Verdict:
    """ok if value ≤ limit, up to a relative rounding of 1e-12."""
    holds = value <= limit + 1e-12 * abs(limit)
    return Verdict("ok" if holds else "condition_violated", condition, value, limit)


def exceeds(condition: str, value: float, limit: float) -> Verdict:
    """ok if value > limit."""
    return Verdict("ok" if value > limit else "condition_violated", condition, value, limit)


def first_failure(*verdicts: Verdict) -> Verdict:
    """The first verdict that is not ok, else the last one."""
    return next((v for v in verdicts if not v.ok), verdicts[-1])
