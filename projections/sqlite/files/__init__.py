"""The files of a SQLite store: their schema, and whether they are intact."""
