"""Altair charts of the pages: functions from a view to a chart, one module an analysis."""
