"""How endpoints read the projections, and how fresh their answers are."""
