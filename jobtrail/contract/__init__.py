"""The shapes of answers and events that the service and its clients share."""
