"""Spectra of a store as one tensor over depth, training step, role and quantile, and its fit.

From the store to rows: `observations` (spectra → log singular values at quantiles) → `fitting`
(functional Tucker model and residual process) → `holdout` (how wrong it is on scans it did not
see) → `tables` (rows). `suggestion` asks which scan would tell most, with fits from
`pretending` that it had been made.
"""
