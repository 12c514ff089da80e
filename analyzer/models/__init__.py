"""Fitted models on top of stored results or weights."""
