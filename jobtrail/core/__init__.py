"""The pure core: events, states, the fold, positions. No clock, no I/O, no random number."""
