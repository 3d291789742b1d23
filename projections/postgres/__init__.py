"""A projection store in PostgreSQL."""
