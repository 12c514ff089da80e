"""Formulas on arrays: numpy and scipy only, no input or output, no torch, no state.

Every function names the equation it evaluates and where it was published.
"""
