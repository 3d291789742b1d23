"""Jobs and transitions folded out of a log of any length."""
