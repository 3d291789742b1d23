"""Real Kafka, real processes."""
