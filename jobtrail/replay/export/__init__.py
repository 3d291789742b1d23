"""Tables written to files: CSV, NDJSON, Parquet, DuckDB."""
