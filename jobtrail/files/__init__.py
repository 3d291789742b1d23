"""Files that are written atomically, and files that only their owner may access."""
