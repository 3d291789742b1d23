"""Waits until jobs have ended."""
