"""Functional Tucker fits of the spectra in a store."""
