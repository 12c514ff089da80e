"""The sections of a report, one module an analysis.

Each has `section(store, scope) -> Section | None`: None where the store holds nothing of it.
"""
