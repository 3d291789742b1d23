"""Tests of the pure parts, and of what needs no server."""
