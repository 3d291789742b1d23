"""Knowing what every job is doing: events, the fold, and the clients of the service."""
