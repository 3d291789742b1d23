"""Files that are written whole or not at all, and those that are their user's alone."""
