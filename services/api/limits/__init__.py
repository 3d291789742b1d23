"""How much a caller may ask for, and whose turn it is."""
