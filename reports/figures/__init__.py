"""Figures of a paper: functions from a view to a matplotlib figure, one module an analysis.

Call them inside `reports.style.paper()`; `reports.style.to_bytes` writes the file.
"""
