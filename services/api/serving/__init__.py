"""From a request to its endpoint: who asks, what an endpoint is, and what went wrong."""
