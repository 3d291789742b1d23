"""Bounds of what a caller may ask for, and fair turns between callers."""
