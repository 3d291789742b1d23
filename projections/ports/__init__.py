"""The two ports of a projection store: what writes to it, and what reads from it."""
