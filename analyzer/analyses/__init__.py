"""One file an analysis: plain functions on arrays that return rows; row types in `rows_*.py`."""
