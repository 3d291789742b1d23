"""The live end of the log: the tail, and what it knows beyond the projections."""
