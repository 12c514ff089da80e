"""The store: one DuckDB file that holds every result."""
