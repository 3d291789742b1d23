"""A projection store in memory: for tests, and the shortest text of what a store is."""
