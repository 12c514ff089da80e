"""Panels of the Theory page, one a file: an equation, its source, sliders, curves and points."""
