"""The tests: of the pure parts, of contracts, of the whole, and of what breaks."""
