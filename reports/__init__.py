"""Paper report: reads the store only."""
