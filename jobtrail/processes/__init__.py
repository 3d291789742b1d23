"""What every process does alike, and the supervisor that keeps processes running."""
