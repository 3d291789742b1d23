"""The bridge from pg-boss, with pg-boss itself: its versions from npm on a real PostgreSQL."""
