"""The store against the log: what `projections.verify` is made of."""
