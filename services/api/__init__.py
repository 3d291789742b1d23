"""The HTTP service: answers from the projections, and serves waits off the log's live tail."""
