"""Analyzer: spectral analysis and theory for neural-network checkpoints."""
