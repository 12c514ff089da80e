"""Attention layers of a collection, base and tuned, as units of a scan."""
