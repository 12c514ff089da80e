"""What failed, was refused or skipped, and why."""

from __future__ import annotations

from analyzer.store.reading import Store
from analyzer.views import collection
from reports.document import Column, Section, Table
from reports.numbers import text
from reports.scope import Scope
from reports.sections.collection import of_scope

_COLUMNS = (
    Column("checkpoint", "checkpoint", text, is_number=False),
    Column("matrix", "matrix", text, is_number=False),
    Column("code", "status", text, is_number=False),
    Column("message", "reason", text, is_number=False),
)


def section(store: Store, scope: Scope) -> Section | None:
    """None where everything went well."""
    view = of_scope(collection.problems(store), scope, "checkpoint", strangers=True)
    if view.is_empty:
        return None
    caption = "Matrices that could not be analysed, and the messages of the last scan."
    return Section("problems", "Failures and skips", tables=(Table(view, _COLUMNS, caption),))
