"""What the service is held against: the same stack, doing nothing."""
