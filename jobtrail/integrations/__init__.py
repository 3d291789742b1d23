"""Integrations with other job systems; each needs its own extra."""
