"""Producers: events made and delivered to the log."""
