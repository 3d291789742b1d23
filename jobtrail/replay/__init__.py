"""Replay: read the log as analysts do, ask what was true at any instant or position."""
