"""The write side of the SQLite store."""
