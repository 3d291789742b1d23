"""One suite for every store and every endpoint."""
