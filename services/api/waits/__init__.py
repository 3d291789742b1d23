"""Waits for the end of jobs."""
