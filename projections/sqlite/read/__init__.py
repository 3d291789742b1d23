"""The read side of the SQLite store."""
